"""What a wheel must be before anyone gets it: size, files, RECORD, licence, and what the binary asks of a machine.

python release/check_wheel.py dist/*.whl

Needs readelf, and nothing of the package.
"""

from __future__ import annotations

import base64
import csv
import email
import hashlib
import io
import re
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

MOST_BYTES = 40 * 10**6
# Of the system, of the compiler, and of torch, whichever is installed. No CUDA: its runtime is linked in, and the first
# call that needs the driver looks for it.
LIBRARIES = {"libc.so.6", "libm.so.6", "libdl.so.2", "libpthread.so.0", "librt.so.1", "libgcc_s.so.1", "libstdc++.so.6"}
LIBRARIES |= {"libtorch_cpu.so", "ld-linux-x86-64.so.2", "ld-linux-aarch64.so.1"}


def check_files(wheel: zipfile.ZipFile, name: str) -> list[str]:
    """What is wrong with the names in the wheel and with its RECORD."""
    wrong = []
    info = "-".join(name.split("-")[:2]) + ".dist-info"
    names = [entry for entry in wheel.namelist() if not entry.endswith("/")]
    for entry in names:
        folder, suffix = entry.split("/")[0], Path(entry).suffix
        if folder not in ("hrta_ext", info):
            wrong.append(f"{entry} lies outside the package")
        elif suffix in (".cpp", ".h", ".cu", ".cuh", ".o", ".pyc", ".a"):
            wrong.append(f"{entry} is not to be installed")
    recorded = {row[0]: row[1:] for row in csv.reader(io.StringIO(wheel.read(f"{info}/RECORD").decode()))}
    wrong += [f"{entry} is not in RECORD" for entry in names if entry not in recorded]
    for entry, (digest, size) in recorded.items():
        if entry == f"{info}/RECORD":
            continue
        if entry not in names:
            wrong.append(f"RECORD names {entry}, which is not there")
            continue
        content = wheel.read(entry)
        found = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
        if digest != f"sha256={found}" or size != str(len(content)):
            wrong.append(f"{entry} is not what RECORD says")
    return wrong


def check_metadata(wheel: zipfile.ZipFile, name: str) -> list[str]:
    """What is wrong with the METADATA: licence, version, and requirements that would replace the user's torch."""
    project, version = name.split("-")[:2]
    info = f"{project}-{version}.dist-info"
    metadata = email.message_from_string(wheel.read(f"{info}/METADATA").decode())
    wrong = []
    if metadata["License-Expression"] != "MIT" or f"{info}/licenses/LICENSE" not in wheel.namelist():
        wrong.append("the licence is missing")
    if metadata["Version"] != version:
        wrong.append(f"the version is {metadata['Version']}")
    plain = [line for line in metadata.get_all("Requires-Dist", []) if ";" not in line]
    if sorted(re.split(r"[<>=!~ ]", line)[0] for line in plain) != ["numpy", "torch"]:
        wrong.append(f"more than numpy and torch is required: {plain}")
    if any("<" in line or "==" in line for line in plain):
        wrong.append(f"an upper bound would replace the user's torch: {plain}")
    return wrong


def versions(binary: Path) -> dict[str, str]:
    """The highest version of glibc, libstdc++ and the like whose symbols the binary asks for."""
    text = subprocess.run(["readelf", "-VW", binary], check=True, capture_output=True, text=True).stdout
    found: dict[str, str] = {}
    for name, version in re.findall(r"Name: (\w+)_(\d[\d.]*)", text):
        if [*map(int, version.split("."))] > [*map(int, found.get(name, "0").split("."))]:
            found[name] = version
    return found


def check_binary(binary: Path) -> list[str]:
    """What is wrong with the shared object."""
    wrong = []
    text = subprocess.run(["readelf", "-SdW", binary], check=True, capture_output=True, text=True).stdout
    for section in (".symtab", ".debug_info"):
        if f" {section} " in text:
            wrong.append(f"{binary.name} is not stripped: it has {section}")
    if "(RPATH)" in text or "(RUNPATH)" in text:
        wrong.append(f"{binary.name} looks for libraries in a folder of its own")
    needed = set(re.findall(r"\(NEEDED\).*\[(.*)\]", text))
    if needed - LIBRARIES:
        wrong.append(f"{binary.name} needs {', '.join(sorted(needed - LIBRARIES))}")
    return wrong


def check(path: Path) -> list[str]:
    """What is wrong with the wheel; prints its size and what its binary needs."""
    size = path.stat().st_size
    wrong = [f"it takes {size / 1e6:.1f} MB of the {MOST_BYTES / 1e6:.0f} allowed"] if size > MOST_BYTES else []
    with zipfile.ZipFile(path) as wheel, tempfile.TemporaryDirectory() as scratch:
        wrong += check_files(wheel, path.name) + check_metadata(wheel, path.name)
        binaries = [name for name in wheel.namelist() if name.endswith(".so")]
        if path.name.endswith("-none-any.whl"):
            wrong += [f"{name} is in a wheel for any machine" for name in binaries]
        elif len(binaries) != 1:
            wrong.append(f"it has {len(binaries)} binaries")
        print(f"{path.name}: {size / 1e6:.1f} MB")
        for name in binaries:
            binary = Path(wheel.extract(name, scratch))
            wrong += check_binary(binary)
            needs = ", ".join(f"{what} {version}" for what, version in sorted(versions(binary).items()))
            print(f"  {name}: {binary.stat().st_size / 1e6:.1f} MB, needs {needs}")
    return wrong


def main() -> int:
    """Check every wheel named; the exit code is 1 where something is wrong."""
    failed = False
    for path in map(Path, sys.argv[1:]):
        for line in check(path):
            print(f"{path.name}: {line}", file=sys.stderr)
            failed = True
    return int(failed or len(sys.argv) < 2)


if __name__ == "__main__":
    sys.exit(main())
