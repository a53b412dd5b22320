#!/bin/sh
# In the images of cibuildwheel (AlmaLinux 8): nvcc and the static runtime alone, some 300 MB, of the CUDA release whose
# least driver docs/installing.md states.
set -eu
case $(uname -m) in aarch64) machine=sbsa ;; *) machine=$(uname -m) ;; esac
dnf install -y dnf-plugins-core
dnf config-manager --add-repo "https://developer.download.nvidia.com/compute/cuda/repos/rhel8/$machine/cuda-rhel8.repo"
dnf install -y cuda-nvcc-13-0 cuda-cudart-devel-13-0
