"""All cells of a comparison, several at once, with a line of progress each; what is kept is not done again.

In: settings and a folder. Out: finished cells in the folder, and the errors of those that failed. Every process has
one thread: models as small as these spend their time handing work to a second one.
"""

from __future__ import annotations

import json
import logging
import queue
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any

import joblib

from visdec_lite.comparison.cells import Cell, ComparisonSettings, check_kept, is_finished, kept_record, plan, run_cell
from visdec_lite.comparison.methods import METHODS
from visdec_lite.own_python import environment, python_module

logger = logging.getLogger(__name__)

Say = Callable[[str], None]
PATIENCE = 60.0  # seconds in which an interrupted cell must have written its checkpoint
ONE_THREAD = {name: "1" for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")}


def run_cells(
    settings: ComparisonSettings, out: Path, *, workers: int | None = None, say: Say = lambda words: None
) -> dict[Cell, str]:
    """Train and score every cell that is not finished in `out`.

    Args:
        workers: processes; None: one a core; 0: none, cells run here, one after another.
        say: told what happens, a line at a time.

    Returns:
        What went wrong, for every cell that failed; it did not stop the others.

    Raises:
        ValueError: `out` holds cells of other settings.
        KeyboardInterrupt: Ctrl-C, when every process has written its checkpoint and ended.
    """
    cells = plan(settings)
    check_kept(settings, cells, out)
    waiting = [cell for cell in cells if not is_finished(out, cell)]
    if len(waiting) < len(cells):
        say(f"cells   {len(cells) - len(waiting)} of {len(cells)} are kept in {out}")
    if not waiting:
        return {}
    workers = min(joblib.cpu_count() if workers is None else workers, len(waiting))
    say(f"cells   {len(waiting)} to run, {f'{workers} at once' if workers else 'one after another, here'}")
    view = _View(out, cells, len(waiting), max(workers, 1), say)
    try:
        if workers:
            _in_processes(settings, out, waiting, workers, view)
        else:
            for cell in waiting:
                view.ended(cell, *_timed(lambda cell=cell: run_cell(settings, cell, out, progress=True)))
    except KeyboardInterrupt:
        done = sum(is_finished(out, cell) for cell in cells)
        raise KeyboardInterrupt(
            f"stopped; {done} of {len(cells)} cells are done in {out}, the same command goes on"
        ) from None
    return view.errors


def _timed(run: Callable[[], None]) -> tuple[float, str | None]:
    started = time.perf_counter()
    try:
        run()
    except Exception as error:
        logger.exception("a cell failed")
        return time.perf_counter() - started, f"{type(error).__name__}: {error}"
    return time.perf_counter() - started, None


class _View:
    """A line for every cell: seconds, and about how long the rest will take."""

    def __init__(self, out: Path, cells: Sequence[Cell], count: int, workers: int, say: Say) -> None:
        self.count, self.workers, self.say = count, workers, say
        self.errors: dict[Cell, str] = {}
        self.left = [cell for cell in cells if not is_finished(out, cell)]
        self.taken: dict[str, list[float]] = {}
        for cell in cells:
            if is_finished(out, cell):
                self.taken.setdefault(cell.method, []).append(sum(kept_record(out, cell)["seconds"].values()))

    def ended(self, cell: Cell, seconds: float, error: str | None) -> None:
        self.left.remove(cell)
        if error is None:
            self.taken.setdefault(cell.method, []).append(seconds)
        else:
            self.errors[cell] = error
        outcome = f"{seconds:.1f} s" if error is None else f"FAILED  {error}"
        number = f"{self.count - len(self.left):{len(str(self.count))}d}/{self.count}"
        self.say(f"{number}  {describe(cell)}  {outcome}{self._rest()}")

    def _rest(self) -> str:
        if not self.left or not self.taken:
            return ""
        means = {method: sum(times) / len(times) for method, times in self.taken.items()}
        fastest = min(means.values())  # what takes long comes first: methods without a time yet take no longer
        return f"  ({_about(sum(means.get(cell.method, fastest) for cell in self.left) / self.workers)} left)"


def describe(cell: Cell) -> str:
    """A cell in words."""
    where = f"subject {cell.subject}" if cell.fold is None else f"fold {cell.fold[0] + 1} of {cell.fold[1]}"
    trials = "" if cell.trials is None else f", {cell.trials} trials"
    return f"{METHODS[cell.method].title}, {where}, seed {cell.seed}{trials}"


def _about(seconds: float) -> str:
    return f"about {seconds / 60:.0f} min" if seconds >= 90 else f"about {seconds:.0f} s"


def _in_processes(settings: ComparisonSettings, out: Path, cells: Sequence[Cell], workers: int, view: _View) -> None:
    orders: queue.SimpleQueue[Cell] = queue.SimpleQueue()
    for cell in cells:
        orders.put(cell)
    results: queue.SimpleQueue[tuple[Cell, float, str | None]] = queue.SimpleQueue()
    crew = [_Worker(settings, out, number, orders, results) for number in range(workers)]
    try:
        for _ in cells:
            while True:
                try:
                    result = results.get(timeout=0.2)  # a wait without end would not hear Ctrl-C everywhere
                    break
                except queue.Empty:
                    continue
            view.ended(*result)
    finally:
        for worker in crew:
            worker.let_go()
        for worker in crew:
            worker.wait()


class _Worker:
    """A process and the thread that hands it cells; a process that dies costs its cell, and a new one goes on."""

    def __init__(
        self,
        settings: ComparisonSettings,
        out: Path,
        number: int,
        orders: queue.SimpleQueue[Cell],
        results: queue.SimpleQueue[tuple[Cell, float, str | None]],
    ) -> None:
        self.settings, self.out, self.orders, self.results = settings, out, orders, results
        self.log = out / "logs" / f"worker-{number}.log"
        self.log.parent.mkdir(parents=True, exist_ok=True)
        self.log.unlink(missing_ok=True)
        self.stopping, self.process, self.lock = False, None, threading.Lock()
        self.thread = threading.Thread(target=self._work, daemon=True)
        self.thread.start()

    def _work(self) -> None:
        while not self.stopping:
            try:
                cell = self.orders.get_nowait()
            except queue.Empty:
                return
            started = time.perf_counter()
            try:
                error = self._ask(cell)
            except Exception as failure:  # such as no memory for a process: it costs its cell, and is told
                error = f"{type(failure).__name__}: {failure}"
            if not self.stopping:
                self.results.put((cell, time.perf_counter() - started, error))

    def _ask(self, cell: Cell) -> str | None:
        process = self._process()
        if process is None:
            return "stopped"
        stdin, stdout = _pipes(process)
        order = {"settings": asdict(self.settings), "cell": asdict(cell), "out": str(self.out)}
        try:
            stdin.write(json.dumps(order).encode() + b"\n")
            stdin.flush()
            answer = stdout.readline()
        except (BrokenPipeError, ValueError):  # it died, or we closed the pipe
            answer = b""
        if answer:
            return json.loads(answer)["error"]
        return f"its process ended with exit status {process.wait()}; see {self.log}"

    def _process(self) -> subprocess.Popen[bytes] | None:
        with self.lock:
            if self.stopping:
                return None
            if self.process is None or self.process.poll() is not None:
                self._close()
                with self.log.open("ab") as log:
                    self.process = subprocess.Popen(
                        python_module("visdec_lite.comparison.worker"),
                        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, env=environment(**ONE_THREAD),
                        start_new_session=True,  # Ctrl-C is heard here only, and passed on through `let_go`
                    )  # fmt: skip
            return self.process

    def let_go(self) -> None:
        with self.lock:
            self.stopping = True
            if self.process and self.process.stdin:
                self.process.stdin.close()

    def wait(self) -> None:
        if self.process:
            try:
                self.process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        self.thread.join(PATIENCE)
        self._close()

    def _close(self) -> None:
        """The pipes of a process that has ended."""
        for pipe in (self.process.stdin, self.process.stdout) if self.process else ():
            if pipe:
                pipe.close()


def _pipes(process: subprocess.Popen[bytes]) -> tuple[IO[bytes], IO[bytes]]:
    assert process.stdin and process.stdout
    return process.stdin, process.stdout


def settings_from(content: dict[str, Any]) -> ComparisonSettings:
    """Settings as JSON gives them back."""
    lists = {name: tuple(value) for name, value in content.items() if isinstance(value, list)}
    return ComparisonSettings(**{**content, **lists})


def cell_from(content: dict[str, Any]) -> Cell:
    """A cell as JSON gives it back."""
    fold = content["fold"]
    return Cell(**{**content, "fold": None if fold is None else tuple(fold)})
