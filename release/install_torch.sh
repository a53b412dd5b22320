#!/bin/sh
# In the images of cibuildwheel: the CPU build of torch, to build and to test with. One binary serves the CUDA builds too.
set -eu
pip install torch==2.13.0+cpu || pip install torch==2.13.0  # where the index has no builds of that name
