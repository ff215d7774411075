"""The process of one lesson: papermill, a time-out for every cell, and the kernel's peak memory.

In: one line of JSON on standard input, then silence. Out: the executed notebook, and a report as JSON. When standard
input ends before that, the kernel is ended and so is the process: nothing outlives the command that started it.

The kernel is that of this Python, with this very package. Of the user's settings for IPython and Jupyter none counts,
and nothing is written where they lie: a home folder that is read-only does no harm.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from visdec_lite.files import atomic_path
from visdec_lite.own_python import elsewhere
from visdec_lite.teaching.notebooks import read_lesson


def _execute(order: Mapping[str, Any]) -> dict[str, Any]:
    """Run one notebook; returns what went wrong and the kernel's peak memory."""
    if order["cores"] and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: order["cores"]])  # inherited by the kernel
    import papermill

    from visdec_lite.kernels import ThisKernel

    error = None
    try:
        papermill.execute_notebook(
            _as_it_stands(order["source"]),
            _as_it_stands(order["output"]),
            order["parameters"],
            cwd=str(Path(order["output"]).parent),
            kernel_name="python3",
            kernel_manager_class=ThisKernel,
            extra_arguments=["--InteractiveShellApp.ignore_cwd=True"],  # a folder there hides no package
            progress_bar=False,
            execution_timeout=order["timeout"],
            shutdown_kernel="immediate",
        )
    except TimeoutError:
        error = f"{_last_started(Path(order['output']))} took longer than {order['timeout']} s (--timeout)"
    except Exception as failure:
        error = f"{type(failure).__name__}: {failure}".strip()
    return {"error": error, "memory_mb": _peak_memory_of_children()}


def _as_it_stands(path: str) -> str:
    """A path for papermill, which takes braces in it for parameters."""
    return path.replace("{", "{{").replace("}", "}}")


def _last_started(executed: Path) -> str:
    cells = [cell for cell in read_lesson(executed).cells if cell.kind == "code"]
    started = [n for n, cell in enumerate(cells, start=1) if cell.metadata["papermill"]["start_time"]]
    if not started:
        return "the start of the kernel"
    line = next(iter(cells[started[-1] - 1].source.strip().splitlines()), "")
    return f"In [{started[-1]}] ({line!r})"


def _peak_memory_of_children() -> float | None:
    """MiB of the largest child that has ended: the kernel."""
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    return round(peak / (2**20 if sys.platform == "darwin" else 2**10), 1)


def _stop_when_let_go() -> None:
    """Raise KeyboardInterrupt in the main thread when standard input ends; papermill then ends the kernel."""
    while os.read(0, 1024):  # not through sys.stdin, whose lock would outlive the main thread
        pass
    if hasattr(signal, "pthread_kill"):
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
    else:
        signal.raise_signal(signal.SIGINT)


def _main() -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)  # which a shell's background job would ignore
    order = json.loads(sys.stdin.buffer.readline())
    threading.Thread(target=_stop_when_let_go, daemon=True).start()
    try:
        with TemporaryDirectory(prefix="visdec-lesson-") as scratch:
            os.environ.update(elsewhere(scratch))
            report = _execute(order)
    except KeyboardInterrupt:
        sys.exit(130)
    with atomic_path(order["report"]) as temporary:
        temporary.write_text(json.dumps(report), encoding="utf-8")


if __name__ == "__main__":
    _main()
