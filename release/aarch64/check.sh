#!/bin/sh
# FOLDER PYTHON: the package's C++ compiled for aarch64, and its kernels tried under qemu-user, all in FOLDER. Needs Debian's
# g++-aarch64-linux-gnu and qemu-user; fetches 30 MB: the aarch64 build of Debian's Python, of the same version as PYTHON,
# by an apt of its own that installs nothing, and NumPy's wheel. PYTHON has torch (its headers alone), pybind11 and cmake.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
mkdir -p "$1/apt/lists/partial" "$1/apt/archives/partial" "$1/apt/state" "$1/torch/lib" "$1/kernels"
folder=$(cd "$1" && pwd) python=$2
version=$($python -c 'import sys; print("%d.%d" % sys.version_info[:2])')

: > "$folder/apt/status"
apt() {
  apt-get -q -y -o APT::Architecture=arm64 -o APT::Architectures=arm64 -o Dir::State="$folder/apt/state" \
    -o Dir::State::lists="$folder/apt/lists" -o Dir::State::status="$folder/apt/status" -o Dir::Cache="$folder/apt" "$@"
}
if [ ! -e "$folder/root/usr/bin/python$version" ]; then
  apt update
  apt install --no-install-recommends --download-only "python$version" "libpython$version-dev" libstdc++6
  for package in "$folder"/apt/archives/*.deb; do dpkg -x "$package" "$folder/root"; done
  $python -m pip install -q --target "$folder/site" --only-binary :all: --python-version "$version" \
    --platform manylinux_2_28_aarch64 --platform manylinux2014_aarch64 "numpy<3"
fi

# What stands for torch: its headers, which are the same everywhere, and one function.
aarch64-linux-gnu-gcc -shared -fPIC -O2 -o "$folder/torch/lib/libtorch_cpu.so" "$here/torch_pool.c"
ln -sfn "$($python -c 'import importlib.util as u; print(u.find_spec("torch").submodule_search_locations[0])')/include" \
  "$folder/torch/include"
: > "$folder/torch/__init__.py"
PYTHONPATH=$folder $python -m cmake -S "$here/../.." -B "$folder/cmake" -G Ninja --log-level=WARNING -DHRTA_EXT_CUDA=0 \
  -DCMAKE_SYSTEM_NAME=Linux -DCMAKE_SYSTEM_PROCESSOR=aarch64 -DCMAKE_CXX_COMPILER=aarch64-linux-gnu-g++ \
  "-DCMAKE_CXX_FLAGS=-idirafter $folder/root/usr/include" "-DPython_EXECUTABLE=$python" \
  "-DPython_INCLUDE_DIR=$folder/root/usr/include/python$version" \
  "-DPYTHON_MODULE_EXTENSION=.cpython-$(echo "$version" | tr -d .)-aarch64-linux-gnu.so"
$python -m cmake --build "$folder/cmake"
$python -m cmake --install "$folder/cmake" --prefix "$folder/kernels" --strip

LD_LIBRARY_PATH=$folder/torch/lib PYTHONPATH=$folder/site qemu-aarch64 -L "$folder/root" \
  "$folder/root/usr/bin/python$version" "$here/accuracy.py" "$folder/kernels"
