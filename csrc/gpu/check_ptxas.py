"""What ptxas says of a compilation, in a line; a failure where a hot kernel spills or wgmma was serialised.

nvcc ... -Xptxas -v -c FILE.cu 2>&1 | python csrc/gpu/check_ptxas.py sm_90a FILE.cu     (make cuda, for all)
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass

# Hot kernels: part of the name, template arguments too as c++filt writes them, and the bytes, stores and loads, that
# any of its instances may spill on any architecture. The first that fits counts.
HOT = {
    "pointwise_kernel<": 0,
    "relu_mask_kernel<": 0,
    "loss_kernel<": 0,
    "outputs_kernel<": 0,
    "finish_splits_kernel<": 0,
    "per_feature_kernel<": 0,
    # The tensor cores' kernels; the one of 64 features has as many registers as there are.
    "forward_kernel<hrta::cuda::wide::Wgmma<64": 384,
    "forward_kernel<hrta::cuda::wide::Mma<32": 48,
    "forward_kernel<hrta::cuda::wide::": 16,
    "backward_kernel<hrta::cuda::wide::": 16,
    # Lanes and tiles.
    "forward_kernel<": 0,
    "backward_kernel<": 0,
    "tile_kernel<": 0,
    "jet_kernel<": 16,
    # Arcs and training.
    "sweep_kernel<": 0,
    "middle_kernel<": 0,
    "persistent_kernel<": 0,
    "train_kernel<": 0,
    # The Gram builder's digits.
    "operand_kernel<": 0,
    "response_kernel<": 136,  # seven digits of two numbers in the registers of two blocks a multiprocessor
    "level_kernel<": 0,
    "value_kernel<": 0,
    "value_mma_kernel<": 0,
    "slope_kernel<": 0,
    "slope_mma_kernel<": 0,
    # The Gram builder's arcs, whose sweep_kernel is above.
    "pair_kernel": 0,
    # Infinite width.
    "shallow_kernel<hrta::baseline::OneWidth<hrta::baseline::ErfSums": 32,  # sm_80, two words
    "shallow_kernel<": 0,
    "deep_kernel<": 0,
    "power_sum_kernel": 0,
}
# Asynchronous matrix products that ptxas runs one after the other, "Potential Performance Loss".
SERIALISED = range(7510, 7521)


@dataclass
class Kernel:
    """What ptxas says of one function."""

    name: str
    registers: int = 0
    spilled: int = 0


def demangled(names: list[str]) -> list[str]:
    """By c++filt; as they are without it, which hot ones without template arguments do not mind."""
    tool = shutil.which("c++filt") or shutil.which("cu++filt")
    if tool is None or not names:
        return names
    return subprocess.run(
        [tool], input="\n".join(names), capture_output=True, text=True, check=True
    ).stdout.splitlines()


def kernels(log: str) -> list[Kernel]:
    """Every kernel of the log, device functions that stand alone left out."""
    found: list[Kernel] = []
    current = None
    for line in log.splitlines():
        if entry := re.search(r"Compiling entry function '(\S+)'", line):
            current = Kernel(entry[1])
            found.append(current)
        elif current and (spill := re.search(r"(\d+) bytes spill stores, (\d+) bytes spill loads", line)):
            current.spilled += int(spill[1]) + int(spill[2])
        elif current and (used := re.search(r"Used (\d+) registers", line)):
            current.registers = int(used[1])
    for kernel, name in zip(found, demangled([kernel.name for kernel in found]), strict=True):
        kernel.name = name
    return found


def allowed(name: str) -> int | None:
    """Bytes that a kernel may spill; None where it is not hot."""
    return next((most for part, most in HOT.items() if part in name), None)


def failures(log: str) -> Iterator[str]:
    """A line for each thing that must not be."""
    for kernel in kernels(log):
        most = allowed(kernel.name)
        if most is not None and kernel.spilled > most:
            yield f"spills {kernel.spilled} bytes where {most} are allowed: {kernel.name}"
    for code in sorted({int(code) for code in re.findall(r"\bC(75\d\d)\b", log)} & {*SERIALISED}):
        line = next(line for line in log.splitlines() if f"C{code}" in line)
        yield f"wgmma is serialised: {line.strip()}"


def main() -> int:
    """Summarise the log on stdin; 1 where something must not be."""
    what, log = " ".join(sys.argv[1:]), sys.stdin.read()
    found, wrong = kernels(log), list(failures(log))
    registers = max((kernel.registers for kernel in found), default=0)
    spilled = sum(kernel.spilled for kernel in found)
    print(f"{what}: {len(found)} kernels, most registers {registers}, bytes spilled {spilled}")
    for line in wrong:
        print(f"{what}: {line}", file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
