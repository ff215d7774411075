"""How far a stage is: a bar in a notebook or on a terminal; one line, when it is over, in a log file.

In: what tqdm takes. Out: on standard error, unless `file` says where; a file of it has a line a stage and no carriage
returns.
"""

from __future__ import annotations

import io
import math
import sys
from typing import Any

from tqdm import auto

IN_NOTEBOOK = auto.notebook_tqdm is not auto.std_tqdm  # tqdm's own finding
LINE = "{desc}{n_fmt}/{total_fmt}{unit} in {elapsed}{postfix}"  # sampling: 80/80it in 00:05


class Bar(auto.tqdm):
    """tqdm, which writes a single line when it ends where nobody watches.

    Args:
        words, options: tqdm's; `disable=True` shows nothing anywhere.
    """

    def __init__(self, *words: Any, **options: Any) -> None:
        stream = options.get("file") or sys.stderr
        self.log = None if IN_NOTEBOOK or stream is None or stream.isatty() else stream
        if self.log:
            options |= {"file": io.StringIO(), "mininterval": math.inf}
        super().__init__(*words, **options)

    def close(self) -> None:
        told = self.log and not self.disable  # closed once already, it is disabled
        super().close()
        if told:
            prefix = f"{self.desc.removesuffix(': ')}: " if self.desc else ""
            line = self.format_meter(**self.format_dict | {"prefix": prefix, "bar_format": LINE})
            self.log.write(f"{line}\n")
            self.log.flush()
