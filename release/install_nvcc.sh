#!/bin/sh
# In the images of cibuildwheel (AlmaLinux 8): nvcc and the static runtime alone, some 300 MB, of the CUDA release whose
# least driver docs/installing.md states.
set -eu
: "${CUDA_REPOSITORY:?must be the address of the .repo file of NVIDIA's CUDA packages for RHEL 8, x86_64 or sbsa}"
dnf install -y dnf-plugins-core
dnf config-manager --add-repo "$CUDA_REPOSITORY"
dnf install -y cuda-nvcc-13-0 cuda-cudart-devel-13-0
