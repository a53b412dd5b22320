"""The bridge from setuptools to CMake: CMakeLists.txt describes the native build, pyproject.toml everything else.

HRTA_EXT_BUILD=0 installs without compiled kernels; HRTA_EXT_CUDA=0|1 leaves CUDA out or insists on it;
HRTA_EXT_CUDA_ARCHITECTURES is passed to CMake.
"""

import importlib.metadata
import importlib.util
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.command.build_py import build_py

BUILD_PACKAGES = 'pip install -U "setuptools>=77" "pybind11>=3.0" ninja "cmake>=3.24"'
# Older ones cannot read pyproject.toml's licence, and say so in forty lines about "project.license".
FOUND = importlib.metadata.version("setuptools")
if int(FOUND.split(".")[0]) < 77:
    sys.exit(f"hrta_ext: setuptools {FOUND} is too old to build with: {BUILD_PACKAGES}")

ROOT = Path(__file__).resolve().parent
CMAKE_SETTINGS = ("HRTA_EXT_CUDA", "HRTA_EXT_CUDA_ARCHITECTURES")


def say(message: str) -> None:
    print(f"hrta_ext: {message}", file=sys.stderr, flush=True)


def wants_native() -> bool:
    """Whether to compile: not when told not to, and not without a compiler."""
    if os.environ.get("HRTA_EXT_BUILD", "1") == "0":
        say("HRTA_EXT_BUILD=0: installing without compiled kernels; the torch backend serves every call")
        return False
    if not any(shutil.which(name) for name in (os.environ.get("CXX") or "c++", "c++", "g++", "clang++")):
        say("no C++ compiler found: installing without compiled kernels; the torch backend serves every call")
        return False
    return True


def missing_build_packages() -> list[str]:
    return [name for name in ("torch", "pybind11") if importlib.util.find_spec(name) is None]


def tool(name: str) -> str:
    """The build tool from its Python package, which stands beside this interpreter though it may not be on the PATH."""
    path = Path(sysconfig.get_path("scripts")) / name
    found = str(path) if path.exists() else shutil.which(name)
    if found is None:
        sys.exit(f"hrta_ext: {name} not found at build time: pip install {name}")
    return found


class FreshBuild(build_py):
    """Collect the modules in an empty folder: setuptools keeps build/lib, and would pack modules that are gone."""

    def run(self) -> None:
        if not self.editable_mode:
            shutil.rmtree(Path(self.build_lib) / "hrta_ext", ignore_errors=True)
        super().run()


class CMakeBuild(build_ext):
    """Configure, build and install the one extension with CMake."""

    def run(self) -> None:
        missing = missing_build_packages()
        if missing:
            sys.exit(
                f"hrta_ext: {' and '.join(missing)} not found at build time: "
                f"pip install torch==2.13.0, {BUILD_PACKAGES}, then pip install --no-build-isolation . "
                "(or HRTA_EXT_BUILD=0 for an install without compiled kernels)"
            )
        super().run()

    def build_extension(self, extension: Extension) -> None:
        # One folder per Python, kept between builds: a second install compiles only what has changed.
        build = ROOT / "build" / f"cmake-{sys.implementation.cache_tag}"
        build.mkdir(parents=True, exist_ok=True)
        target = Path(self.get_ext_fullpath(extension.name)).resolve().parent
        options = [f"-DPython_EXECUTABLE={sys.executable}", "-DCMAKE_BUILD_TYPE=Release"]
        options += [f"-D{name}={os.environ[name]}" if os.environ.get(name) else f"-U{name}" for name in CMAKE_SETTINGS]
        cmake = tool("cmake")
        options += ["-G", "Ninja", f"-DCMAKE_MAKE_PROGRAM={tool('ninja')}"]
        subprocess.run([cmake, "-S", str(ROOT), "-B", str(build), *options], check=True)
        subprocess.run([cmake, "--build", str(build)], check=True)
        strip = [] if self.editable_mode else ["--strip"]  # who works on the kernels wants names in a profile
        subprocess.run([cmake, "--install", str(build), "--prefix", str(target), *strip], check=True)


native = wants_native()
setup(
    ext_modules=[Extension("hrta_ext._C", sources=[])] if native else [],
    cmdclass={"build_py": FreshBuild, "build_ext": CMakeBuild},
)
