"""A process that trains cells, one after another, on one thread.

In: lines of JSON on standard input, a cell each. Out: a line of JSON on standard output for each, {"error"}: null or
a sentence; what else is said goes to standard error, a log file. When standard input ends, a cell under way is
interrupted as by Ctrl-C: its checkpoints are written, and nothing outlives the command that started it.
"""

from __future__ import annotations

import json
import logging
import os
import queue
import signal
import sys
import threading
from pathlib import Path
from typing import Any

logger = logging.getLogger(__name__)


def main() -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)  # which a shell's background job would ignore
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # whatever prints, prints to the log
    orders: queue.Queue[str | None] = queue.Queue()
    busy = threading.Event()
    threading.Thread(target=_listen, args=(orders, busy), daemon=True).start()
    try:
        while (line := orders.get()) is not None:
            busy.set()
            error = _run(json.loads(line))
            busy.clear()
            answers.write(json.dumps({"error": error}) + "\n")
            answers.flush()
    except KeyboardInterrupt:
        sys.exit(130)


def _listen(orders: queue.Queue[str | None], busy: threading.Event) -> None:
    pending = b""
    while part := os.read(0, 65536):  # not through sys.stdin, whose lock would outlive the main thread
        *lines, pending = (pending + part).split(b"\n")
        for line in lines:
            orders.put(line.decode())
    orders.put(None)
    if busy.is_set():
        if hasattr(signal, "pthread_kill"):
            signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
        else:
            signal.raise_signal(signal.SIGINT)


def _run(order: dict[str, Any]) -> str | None:
    import torch

    from visdec_lite.comparison.cells import run_cell
    from visdec_lite.comparison.runner import cell_from, settings_from

    torch.set_num_threads(1)
    try:
        run_cell(settings_from(order["settings"]), cell_from(order["cell"]), Path(order["out"]))
    except Exception as error:
        logger.exception("a cell failed")
        return f"{type(error).__name__}: {error}"
    return None


if __name__ == "__main__":
    main()
