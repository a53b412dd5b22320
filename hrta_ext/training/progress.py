"""How far a training has come: a bar on a terminal, a few plain lines elsewhere."""

from __future__ import annotations

import sys

import torch

from hrta_ext.groups import Ranks
from hrta_ext.training.run import Run


class Progress:
    """A bar on a terminal; ten plain lines where the output is a file; nothing on other ranks than 0."""

    def __init__(self, total: int, done: int, ranks: Ranks | None = None) -> None:
        try:
            from tqdm import tqdm
        except ModuleNotFoundError:
            raise ModuleNotFoundError("progress=True needs tqdm: pip install 'hrta_ext[cli]'") from None
        distributed = torch.distributed
        if ranks is not None:
            shown = ranks.rank == 0
        else:
            shown = not (distributed.is_available() and distributed.is_initialized() and distributed.get_rank() > 0)
        terminal = sys.stderr.isatty()
        self.total, self.next_line = total, done + max(1, total // 10)
        self.lines = shown and not terminal
        self.halts = self.lines or ranks is not None  # all ranks halt where one has a line to print
        self.bar = tqdm(total=total, initial=done, unit="step", disable=not (shown and terminal))

    def update(self, run: Run, steps: int) -> None:
        """Show where ``run`` stands after ``steps`` more; the loss is as old as the last time that losses were read."""
        if not run.pending:
            s, loss = run.scheduler.get_last_s(), run.loss[-1]
            self.bar.set_postfix_str(f"s={s:g} loss={loss:.3e}", refresh=False)
            if self.halts and (run.step >= self.next_line or run.step == self.total):
                if self.lines:
                    print(f"step {run.step}/{self.total}  s = {s:g}  loss {loss:.3e}", file=sys.stderr, flush=True)
                self.next_line = run.step + max(1, self.total // 10)
        self.bar.update(steps)
