# make demo | test | bench | lint fill .venv themselves when something it is made of has changed.
PYTHON ?= python3
VENV ?= .venv
# The CPU build where the index has one, which spares gigabytes; TORCH=... asks for another.
TORCH ?=
BIN := $(VENV)/bin
NATIVE := CMakeLists.txt setup.py pyproject.toml $(shell find csrc -name '*.h' -o -name '*.cpp' -o -name '*.cu' -o -name '*.cuh')

.PHONY: help demo test bench lint format cuda test-matrix clean

help:
	@echo "make demo         train the paper's first example three ways and draw it (demo/)"
	@echo "make test         the whole test suite"
	@echo "make bench        speed against torch (benchmarks/results/)"
	@echo "make lint         ruff, mypy, clang-format"
	@echo "make cuda         compile the CUDA sources and show registers and spills"
	@echo "make test-matrix  from source and as one wheel, under torch 2.11, 2.13 and 2.14 (downloads gigabytes)"

$(VENV)/.torch:
	$(PYTHON) -m venv $(VENV)
ifeq ($(TORCH),)
	$(BIN)/pip install -q torch==2.13.0+cpu || $(BIN)/pip install -q torch==2.13.0
else
	$(BIN)/pip install -q $(TORCH)
endif
	$(BIN)/pip install -q "setuptools>=77" "pybind11>=3.0" ninja "cmake>=3.24"
	touch $@

# pip install -e compiles what has changed in csrc/ (build/ keeps the rest) and adds the extras named.
$(VENV)/.installed: $(VENV)/.torch $(NATIVE)
	$(BIN)/pip install -q --no-build-isolation -e ".[cli,plot]"
	touch $@

$(VENV)/.test: $(VENV)/.installed
	$(BIN)/pip install -q --no-build-isolation -e ".[test]"
	touch $@

$(VENV)/.lint: $(VENV)/.test
	$(BIN)/pip install -q --no-build-isolation -e ".[lint]"
	touch $@

demo: $(VENV)/.installed
	$(BIN)/hrta demo --out demo --overwrite

# Two processes of one thread each (tests of threads ask for them), whole files: what a file compiles is made once.
test: $(VENV)/.test
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 --dist loadfile

bench: $(VENV)/.test
	$(BIN)/hrta bench --out benchmarks/results

lint: $(VENV)/.lint
	PATH="$(abspath $(BIN)):$$PATH" $(BIN)/pre-commit run --all-files --show-diff-on-failure

format: $(VENV)/.lint
	$(BIN)/ruff format . && $(BIN)/ruff check --fix . && $(BIN)/clang-format -i $$(git ls-files '*.h' '*.cpp' '*.cu' '*.cuh')

# Object files only: no GPU and no torch are needed to see that the sources compile for every architecture.
cuda:
	@for arch in 80 90a 100; do for source in csrc/*/cuda/*.cu; do echo $$arch $$source; done; done | \
	  xargs -P $$(nproc) -L 1 sh -c ' \
	    log=$$(nvcc -std=c++20 -O3 -I csrc -gencode=arch=compute_$$0,code=sm_$$0 -Xptxas -v -c $$1 -o /dev/null 2>&1) || \
	      { echo "$$log"; exit 255; }; \
	    echo "$$log" | awk -v what="sm_$$0 $$1" \
	      "/Used [0-9]+ registers/ {for (i = 1; i < NF; i++) if (\$$i == \"Used\" && \$$(i+1) > most) most = \$$(i+1)} \
	       /spill stores/ {spilled += \$$5; kernels++} \
	       END {print what \": functions \" kernels \", most registers \" most \", bytes spilled \" spilled+0}"'

# From source, and as the one wheel built under torch 2.13, under every torch promised. Each environment is made anew, one
# at a time (a CUDA build of torch takes 5 GB); dist/matrix says how each fared, dist/*.log why.
MATRIX ?= 2.11.0 2.13.0 2.14.1
MATRIX_BIN = $(VENV)-matrix/bin
BUILD_PACKAGES := "setuptools>=77" "pybind11>=3.0" ninja "cmake>=3.24"

test-matrix: $(VENV)/.test
	rm -rf dist && $(BIN)/pip wheel -q --no-build-isolation --no-deps -w dist .
	git archive --prefix=dist/source/ HEAD | tar x
	@failed=0; : > dist/matrix; for torch in $(MATRIX); do \
	  rm -rf $(VENV)-matrix && $(PYTHON) -m venv $(VENV)-matrix && \
	  { $(MATRIX_BIN)/pip install -q torch==$$torch+cpu 2> /dev/null || $(MATRIX_BIN)/pip install -q torch==$$torch; } && \
	  $(MATRIX_BIN)/pip install -q $(BUILD_PACKAGES) || exit 1; \
	  for kind in wheel source; do \
	    what=$$(ls dist/*.whl); [ $$kind = wheel ] || what=dist/source; rm -rf dist/source/build; \
	    start=$$(date +%s); log=dist/torch-$$torch-$$kind.log; result=FAILED; \
	    $(MATRIX_BIN)/pip install -q --no-build-isolation --force-reinstall --no-deps "./$$what" > $$log 2>&1 && \
	    $(MATRIX_BIN)/pip install -q --no-build-isolation "./$$what[test]" >> $$log 2>&1 && \
	    OMP_NUM_THREADS=1 timeout 3600 $(MATRIX_BIN)/python -P -m pytest -q -n 2 --dist loadfile tests \
	      -p no:cacheprovider >> $$log 2>&1 && result=passed || failed=1; \
	    echo "torch $$torch, $$kind: $$result in $$(($$(date +%s) - start)) s: $$(tail -n 1 $$log)" | tee -a dist/matrix; \
	  done; \
	done; exit $$failed

clean:
	rm -rf build dist *.egg-info hrta_ext/_C.*.so $(VENV) $(VENV)-matrix
