"""The fuzzer: one seed, one call. Run as ``make fuzz``, or from the root::

PYTHONPATH=tests python -m fuzz.run --seconds 600            # a seed of its own, printed
PYTHONPATH=tests python -m fuzz.run --replay ops 123456789   # one call again, with its traceback
"""

from __future__ import annotations

import argparse
import os
import random
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import torch
from fuzz.activations import activation
from fuzz.draws import Draw
from fuzz.files import FILES
from fuzz.judge import Finding
from fuzz.networks import gram, op_backward, training, two_layer, two_layer_jet

import hrta_ext as hx

OPS: tuple[Callable[[Draw], None], ...] = (
    *[activation] * 6, *[two_layer] * 3, two_layer_jet, op_backward, *[gram] * 2, training,
)  # fmt: skip


def ops(seed: int) -> str:
    """One call of an op; its name."""
    draw = Draw(seed)
    call = draw.one_of(OPS)
    threads = torch.get_num_threads()
    torch.set_num_threads(draw.one_of([1, 2]))
    try:
        call(draw)
    finally:
        torch.set_num_threads(threads)
    return call.__name__


def files(seed: int) -> str:
    """One file, damaged, and who reads it; its name."""
    draw = Draw(seed)
    call = draw.one_of(FILES)
    with tempfile.TemporaryDirectory() as folder:
        call(draw, Path(folder))
    return call.__name__


KINDS = {"ops": ops, "files": files}


def findings(kind: str, seeds: Iterable[int], count: Counter[str] | None = None) -> Iterator[str]:
    """What was found, each with the command that shows it again."""
    for seed in seeds:
        try:
            name = KINDS[kind](seed)
            if count is not None:
                count[name] += 1
        except Finding as finding:
            yield f"{finding}\n    again: PYTHONPATH=tests python -m fuzz.run --replay {kind} {seed}"
        except Exception:
            yield f"{traceback.format_exc()}\n    again: PYTHONPATH=tests python -m fuzz.run --replay {kind} {seed}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=float(os.environ.get("FUZZ_SECONDS", "600")))
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(2**40))
    parser.add_argument("--only", choices=list(KINDS))
    parser.add_argument("--most", type=int, default=20, help="findings after which it stops")
    parser.add_argument(
        "--last", type=Path, help="file that names the call at work: what ended the process, if one did"
    )
    parser.add_argument("--replay", nargs=2, metavar=("KIND", "SEED"))
    options = parser.parse_args()
    if options.replay:
        KINDS[options.replay[0]](int(options.replay[1]))
        print("nothing found")
        return 0
    kinds, count, found = [options.only] if options.only else list(KINDS), Counter[str](), 0
    print(f"seed {options.seed}, SIMD {hx.build_info()['simd']}", flush=True)
    end, seeds = time.monotonic() + options.seconds, random.Random(options.seed)
    while time.monotonic() < end and found < options.most:
        kind = kinds[0] if len(kinds) == 1 or seeds.random() < 0.9 else kinds[1]
        seed = seeds.randrange(2**40)
        if options.last is not None:
            options.last.write_text(f"--replay {kind} {seed}\n")
        for text in findings(kind, [seed], count):
            found += 1
            print(f"FOUND {text}", flush=True)
    print(f"{sum(count.values())} calls without a finding ({dict(sorted(count.items()))}), {found} findings")
    return int(found > 0)


if __name__ == "__main__":
    sys.exit(main())
