#!/bin/sh
# WHEEL FOLDER: names the oldest glibc that the wheel runs on. torch's libraries stay outside: those that are loaded are the
# ones of the torch that is installed, CPU or CUDA, whichever it is.
set -eu
auditwheel repair --exclude 'libtorch*' --exclude 'libc10*' -w "$2" "$1"
python3 "$(dirname "$0")/check_wheel.py" "$2"/*.whl
