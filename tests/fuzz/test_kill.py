"""A few kills of what ``make fuzz`` kills at length, ``hrta train`` too, which takes longer to start than this test."""

from __future__ import annotations

import sys
from pathlib import Path

from processes import running

# In a process of its own: it forks, which a process that has used its threads must not.
CODE = (
    "import sys, torch; from pathlib import Path; torch.set_num_threads(1); sys.path.insert(0, sys.argv[1])\n"
    "from fuzz.kill import killed_fit, settings\n"
    "print(sum(killed_fit(name, 1, Path(sys.argv[2]), most=2) for name in settings()))"
)


def test_a_killed_training_goes_on_to_the_same_bits(tmp_path: Path) -> None:
    tests = str(Path(__file__).parents[1])
    with running([sys.executable, "-c", CODE, tests, str(tmp_path)], seconds=300) as process:
        out, _ = process.communicate()
    assert process.returncode == 0, out
    assert int(out) > 0
