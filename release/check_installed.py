"""Install a wheel and an sdist where nothing is but Python and one torch, no compiler either, and try them.

python release/check_installed.py WHEEL SDIST TORCH ..., such as 2.11.0 2.13.0. One environment at a time, in a
temporary folder: a CUDA build of torch takes 5 GB.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

SMOKE = Path(__file__).resolve().with_name("smoke.py")


class Environment:
    """A virtual environment, the only folder on the PATH of what runs in it: no gcc, no nvcc."""

    def __init__(self, folder: Path) -> None:
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        self.python = folder / "bin" / "python"
        dropped = ("HRTA_", "PYTHONPATH", "CXX", "CUDACXX")
        self.variables = {key: value for key, value in os.environ.items() if not key.startswith(dropped)}
        # One thread: the commands are short, and threads of several would wait for each other.
        self.variables |= {"PATH": str(folder / "bin"), "PYTHONSAFEPATH": "1", "OMP_NUM_THREADS": "1"}
        for name in ("cc", "c++", "g++", "clang++", "nvcc"):
            assert shutil.which(name, path=self.variables["PATH"]) is None, name

    def run(self, *words: str | Path, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Python with these arguments."""
        done = subprocess.run([self.python, *words], env=self.variables, capture_output=True, text=True, timeout=3600)
        if check and done.returncode:
            told = f"{done.stdout[-4000:]}{done.stderr[-4000:]}"
            sys.exit(f"{' '.join(map(str, words))}: exit code {done.returncode}\n{told}")
        return done

    def pip(self, *words: str | Path, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Pip with these arguments."""
        return self.run("-m", "pip", *words, check=check)


def check(wheel: Path, sdist: Path, torch: str, folder: Path) -> None:
    """Wheel and sdist under one torch."""
    here = Environment(folder)
    if here.pip("install", "-q", f"torch=={torch}+cpu", check=False).returncode:  # where the index has no CPU builds
        here.pip("install", "-q", f"torch=={torch}")
    before = here.pip("freeze").stdout
    plan = here.pip("install", "--dry-run", f"{wheel}[all]").stdout
    would = plan.rpartition("Would install")[2].split()
    taken = [package for package in would if package.startswith(("torch-", "nvidia-", "triton-"))]
    if "hrta_ext" not in plan or taken:
        sys.exit(f"pip would replace the user's torch {torch}: {taken}\n{plan}")
    here.pip("install", "-q", f"{wheel}[cli,plot]")
    print(here.run("-P", SMOKE, "cpp").stdout, end="", flush=True)
    here.pip("uninstall", "-q", "-y", "hrta_ext")
    # Without a compiler an sdist is a package of plain Python.
    here.pip("install", "-q", "setuptools>=77")
    here.pip("install", "-q", "--no-build-isolation", f"{sdist}[cli,plot]")
    print(here.run("-P", SMOKE, "torch").stdout, end="", flush=True)
    after = here.pip("freeze").stdout
    if lost := set(before.splitlines()) - set(after.splitlines()):
        sys.exit(f"pip replaced {', '.join(sorted(lost))}")


def main() -> None:
    """Every torch that is named, after the other."""
    wheel, sdist = (Path(name).resolve() for name in sys.argv[1:3])
    for torch in sys.argv[3:]:
        start = time.monotonic()
        with tempfile.TemporaryDirectory(prefix=f"torch-{torch}-") as folder:
            check(wheel, sdist, torch, Path(folder))
        print(f"torch {torch}: wheel and sdist passed in {time.monotonic() - start:.0f} s", flush=True)


if __name__ == "__main__":
    main()
