#!/usr/bin/env bash
# Build, test, sanitize and benchmark on a machine with a GPU and nvcc; no network needed. What Python needs must be
# there: torch (2.11 or later, CUDA), pytest, hypothesis, numpy, ninja, cmake, pybind11, setuptools.
#
#   benchmarks/run_gpu_checks.sh OUT [PART...]       parts: build tests sanitizer benchmarks (default: all)
#
# PYTHON chooses the interpreter; HRTA_EXT_CUDA_ARCHITECTURES=native (or 90a-real, ...) shortens the build;
# LIMIT is the most seconds one step may take. A step that fails does not stop the others; the exit code is 1 if any did.
# Later parts use the build in OUT/site, so they can run on their own. Logs and JSON go to OUT/*.log and OUT/*.json.
set -u

if [ $# -lt 1 ]; then
  sed -n '2,9s/^# \{0,1\}//p' "$0" >&2
  exit 2
fi
root=$(cd "$(dirname "$0")/.." && pwd)
mkdir -p "$1" && out=$(cd "$1" && pwd) || exit 2
shift
parts=("$@")
[ ${#parts[@]} -gt 0 ] || parts=(build tests sanitizer benchmarks)
python=${PYTHON:-python3}
limit=${LIMIT:-900}
site=$out/site
summary=()
failed=0

# step NAME COMMAND...: run it in OUT, so that the installed package is imported and not the sources; log it; go on.
step() {
  local name=$1 log=$out/$1.log start=$SECONDS code verdict=ok
  shift
  echo "== $name: $*"
  (cd "$out" && PYTHONPATH=$site${PYTHONPATH:+:$PYTHONPATH} timeout "$limit" "$@") >"$log" 2>&1
  code=$?
  if [ $code -ne 0 ]; then
    failed=1
    verdict="FAILED ($code)"
  fi
  tail -n 12 "$log"
  summary+=("$(printf '%-22s %-14s %5d s  %s' "$name" "$verdict" $((SECONDS - start)) "$log")")
}

build() {
  rm -rf "$site"
  step build env HRTA_EXT_CUDA=1 "$python" -m pip install --no-build-isolation --no-deps --no-index --target "$site" "$root"
  # An editable install elsewhere in this Python could lend its kernels to the package just built.
  step cuda_backend "$python" -c '
import sys, hrta_ext as hx
from hrta_ext import compiled
from hrta_ext.activation import native
print(hx.build_info())
kernels = compiled._C and compiled._C.__file__
print(hx.__file__, kernels)
sys.exit(not hx.backends()["cuda"] or not kernels.startswith(sys.argv[1]))' "$site"
}

tests() {
  # The configuration of the checkout, the doctests of the installed package.
  step tests "$python" -m pytest -c "$root/pyproject.toml" --rootdir "$root" -p no:cacheprovider -q "$root/tests"
  step doctests "$python" -m pytest -c "$root/pyproject.toml" -p no:cacheprovider -q "$site/hrta_ext"
}

sanitizer() {
  local cases=$root/benchmarks/gpu_sanitizer_cases.py tool
  step kernels "$python" "$cases"
  if ! command -v compute-sanitizer >/dev/null; then
    summary+=("sanitizer              skipped: compute-sanitizer is not on the PATH")
    failed=1
    return
  fi
  for tool in memcheck racecheck; do
    step "$tool" env PYTORCH_NO_CUDA_MEMORY_CACHING=1 \
      compute-sanitizer --tool "$tool" --error-exitcode 1 --print-limit 20 "$python" "$cases"
  done
}

benchmarks() {
  step bench_cuda "$python" "$root/benchmarks/bench_activation.py" --device cuda --out "$out/activation_cuda.json"
  step bench_two_layer "$python" "$root/benchmarks/bench_two_layer_gpu.py" --out "$out/two_layer_gpu.json"
  step bench_gram "$python" "$root/benchmarks/bench_gram_gpu.py" --out "$out/gram_gpu.json"
  step bench_cpu "$python" "$root/benchmarks/bench_activation.py" --no-compile --out "$out/activation_cpu.json"
}

nvidia-smi >"$out/nvidia-smi.log" 2>&1 || echo "nvidia-smi: no answer" >&2
for part in "${parts[@]}"; do
  case $part in
    build | tests | sanitizer | benchmarks) $part ;;
    *)
      summary+=("$part: no such part; there are build, tests, sanitizer, benchmarks")
      failed=1
      ;;
  esac
done

printf '\n%s\n' "summary"
printf '%s\n' "${summary[@]}" | tee "$out/summary.txt"
exit $failed
