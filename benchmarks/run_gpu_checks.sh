#!/usr/bin/env bash
# All that is to be seen on a machine with a GPU and nvcc, in ten minutes and without a network: build for its card,
# test, sanitize, measure.
#
#   benchmarks/run_gpu_checks.sh [--out DIR] [STEP...]       steps: build doctor test sanitize bench (default: all)
#
# Python has to have torch (2.11 or later, CUDA), numpy, pybind11, setuptools, ninja, cmake; pytest, pytest-xdist and
# hypothesis for test; typer, rich and tqdm for doctor and bench. OUT in the environment is DIR too (default gpu_checks).
# DIR gets log.txt, summary.txt, the JSON of doctor and of every benchmark, and the pictures of their results.
# The package is built into build/gpu_checks, where later calls with other steps find it.
#
# In the environment: PYTHON, the interpreter; HRTA_EXT_CUDA_ARCHITECTURES, default the card's own alone; SECONDS_ALL,
# the limit for all steps together (570); PROCESSES, of the tests (14). A step that fails stops no other; the exit code
# is 1 if one did.
set -u

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
out=${OUT:-gpu_checks}
if [ "${1:-}" = --out ]; then
  [ $# -ge 2 ] || { echo "--out needs a directory" >&2; exit 2; }
  out=$2
  shift 2
fi
steps=("$@")
[ ${#steps[@]} -gt 0 ] || steps=(build doctor test sanitize bench)
for step in "${steps[@]}"; do
  case $step in
    build | doctor | test | sanitize | bench) ;;
    *)
      sed -n '2,/^set/{/^#/s/^# \{0,1\}//p}' "${BASH_SOURCE[0]}" >&2
      echo "no such step: $step" >&2
      exit 2
      ;;
  esac
done
mkdir -p "$out" && out=$(cd "$out" && pwd) || exit 2
python=${PYTHON:-python3}
site=$root/build/gpu_checks
total=${SECONDS_ALL:-570}
log=$out/log.txt
summary=()
failed=0
export PYTHONUNBUFFERED=1 PYTHONPATH="$site${PYTHONPATH:+:$PYTHONPATH}"
: >"$log"

# run LIMIT NAME COMMAND...: at most LIMIT seconds of those that are left, in DIR, so that the installed package is
# imported and not the sources; logged; its last lines shown.
run() {
  local most=$1 name=$2 left=$((total - SECONDS)) start=$SECONDS code verdict=ok
  shift 2
  [ "$most" -lt "$left" ] || most=$left
  if [ "$most" -le 0 ]; then
    failed=1
    summary+=("$(printf '%-12s %-14s' "$name" "NO TIME LEFT")")
    return 1
  fi
  printf '\n== %s: %s\n' "$name" "$*" | tee -a "$log"
  (cd "$out" && timeout -k 5 "$most" "$@") >"$out/.step" 2>&1
  code=$?
  cat "$out/.step" >>"$log"
  tail -n 15 "$out/.step"
  rm -f "$out/.step"
  case $code in
    0) ;;
    124 | 137) verdict="CUT OFF" ;;
    *) verdict="FAILED ($code)" ;;
  esac
  [ $code -eq 0 ] || failed=1
  summary+=("$(printf '%-12s %-14s %4d s' "$name" "$verdict" $((SECONDS - start)))")
  return $code
}

# The build for one card takes a third of that for all.
card() {
  "$python" -c '
import torch
major, minor = torch.cuda.get_device_capability()
print(f"{major}{minor}{chr(97) if major == 9 else str()}-real")'
}

build() {
  local architectures=${HRTA_EXT_CUDA_ARCHITECTURES:-}
  [ -n "$architectures" ] || architectures=$(card) || {
    failed=1
    summary+=("build        FAILED: torch sees no GPU, and HRTA_EXT_CUDA_ARCHITECTURES is not set")
    return 1
  }
  rm -rf "$site"
  run 300 build env HRTA_EXT_CUDA=1 HRTA_EXT_CUDA_ARCHITECTURES="$architectures" \
    "$python" -m pip install --no-build-isolation --no-deps --no-index --target "$site" "$root" || return
  # An editable install elsewhere in this Python could lend its kernels to the package just built.
  run 60 backend "$python" -c '
import sys, hrta_ext as hx
from hrta_ext import compiled
print(hx.build_info())
print(hx.__file__, compiled._C and compiled._C.__file__)
sys.exit(hx.build_info()["cuda_reason"] or not compiled._C.__file__.startswith(sys.argv[1]))' "$site"
}

doctor() {
  rm -f "$out/doctor.json"
  run 90 doctor "$python" -m hrta_ext.cli doctor --out "$out/doctor.json"
}

tests() {
  local parallel=()
  "$python" -c 'import xdist' 2>/dev/null && parallel=(-n "${PROCESSES:-14}" --dist loadfile)
  # The configuration of the checkout, the doctests of the installed package.
  run 270 test env OMP_NUM_THREADS=1 "$python" -m pytest -c "$root/pyproject.toml" --rootdir "$root" -q \
    -p no:cacheprovider "${parallel[@]}" "$root/tests" "$site/hrta_ext"
}

sanitize() {
  local cases=$root/benchmarks/gpu_sanitizer_cases.py tool
  run 60 kernels "$python" "$cases" --seconds 50
  if ! command -v compute-sanitizer >/dev/null; then
    failed=1
    summary+=("sanitizer    NOT HERE: compute-sanitizer is not on the PATH")
    return
  fi
  for tool in memcheck racecheck; do
    run 75 "$tool" env PYTORCH_NO_CUDA_MEMORY_CACHING=1 \
      compute-sanitizer --tool "$tool" --error-exitcode 1 --print-limit 20 "$python" "$cases" --seconds 45
  done
}

# What is left of the time, up to five minutes, as the budget. It is kept about: a benchmark that is cut off writes nothing.
bench() {
  local left=$(((total - SECONDS - 15) * 4 / 5))
  [ $left -lt 300 ] || left=300
  [ $left -gt 20 ] || left=20
  run 375 bench "$python" -m hrta_ext.cli bench --device cuda --budget $left --out "$out"
}

nvidia-smi >>"$log" 2>&1 || echo "nvidia-smi: no answer" | tee -a "$log"
for step in "${steps[@]}"; do
  case $step in
    test) tests ;;
    *) "$step" ;;
  esac
done

printf '\nsummary\n'
printf '%s\n' "${summary[@]}" | tee "$out/summary.txt"
exit $failed
