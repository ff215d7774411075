"""What makes a run safe to cut anywhere: whole files, pairs of checkpoints, patient interrupts, logs.

In: a path, and what to write there. Out: a file that is whole or absent, never half written. Checkpoints come
in pairs, so that an unreadable last one costs only the way back to the one before.
"""

import csv
import hashlib
import logging
import os
import pickle
import signal
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

logger = logging.getLogger(__name__)

LEDGER = "downloads.lock.json"  # in the data home: what was downloaded, with its SHA-256


def data_home() -> Path:
    """Folder of the data sets, a folder each: the environment's VISDEC_DATA, else `data`."""
    return Path(os.environ.get("VISDEC_DATA", "data")).expanduser()


def data_folder(name: str, root: str | os.PathLike[str] | None = None) -> Path:
    """Folder of one data set: `root`, or where that is None, `name` in the data home."""
    return data_home() / name if root is None else Path(root).expanduser()


def nilearn_folders(name: str, root: str | os.PathLike[str] | None = None) -> list[Path]:
    """Where a data set of nilearn's may lie: its folder `name` in the data home or in `root`, or `root` itself."""
    folder = data_folder(name, root)
    return [folder] if root is None else [folder, folder / name]


def sha256_of(path: str | os.PathLike[str]) -> str:
    """SHA-256 of a file in hexadecimal digits, read piece by piece."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


@contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary path; on success it becomes `path`, on an error it goes and `path` stays as it was.

    Args:
        path: the file to write; its folder is made if missing. The temporary file lies in the same folder (a
            rename is atomic only within one file system) and carries the process number.

    Yields:
        Where to write.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def previous_path(path: Path) -> Path:
    """Where the checkpoint before the last one lies: checkpoint.pt -> checkpoint.previous.pt."""
    return path.with_stem(f"{path.stem}.previous")


def write_checkpoint(state: dict[str, Any], path: Path, identity: dict[str, str]) -> None:
    """Write tensors and plain values to `path`; what was there becomes `previous_path(path)`.

    Args:
        state: what to keep.
        path: the file; its folder is made if missing.
        identity: name -> words for all that a reader must have in common with the writer.
    """
    import torch  # here, so that a download does not wait for it

    with atomic_path(path) as temporary:
        torch.save({**state, "identity": identity}, temporary)
        if path.exists():
            os.replace(path, previous_path(path))


def read_checkpoint(path: Path, identity: dict[str, str]) -> dict[str, Any] | None:
    """Read the last checkpoint that can be read, onto the CPU; None if there is none.

    A last checkpoint that cannot be read is set aside as `<name>.broken.pt`, with a logged warning.

    Raises:
        ValueError: there are checkpoints and none can be read, or it has another identity than the reader.
    """
    import torch

    broken: list[str] = []
    for candidate in (path, previous_path(path)):
        if not candidate.exists():
            continue
        try:
            state = torch.load(candidate, map_location="cpu", weights_only=True)
        except (RuntimeError, EOFError, OSError, ValueError, KeyError, pickle.UnpicklingError) as error:
            reason = f"{type(error).__name__}: {error}".split("\n")[0]
            logger.warning("%s cannot be read (%s)", candidate, reason)
            broken.append(str(candidate))
            continue
        if broken:
            aside = path.with_stem(f"{path.stem}.broken")
            os.replace(path, aside)
            logger.warning("going on from %s, the one before it; the broken one is now %s", candidate, aside)
        kept = state.get("identity", {})
        names = [name for name in {**kept, **identity} if kept.get(name) != identity.get(name)]
        if names:
            lines = [f"{name} is {identity.get(name)}, was {kept.get(name)}" for name in names[:8]]
            lines += [f"and {len(names) - 8} more"] if len(names) > 8 else []
            raise ValueError(
                f"{candidate} is of another run: {'; '.join(lines)}. "
                "Go back to its settings, delete the checkpoints or choose another out_dir"
            )
        return state
    if broken:
        raise ValueError(f"no checkpoint can be read: {', '.join(broken)}; delete them to start anew")
    return None


@contextmanager
def interrupts_wait() -> Iterator[None]:
    """Hold Ctrl-C back until the block is done, so that no checkpoint can show half an update."""
    if threading.current_thread() is not threading.main_thread() or signal.getsignal(signal.SIGINT) is None:
        yield  # Python hears Ctrl-C in its main thread only
        return
    pressed: list[int] = []
    handler = signal.signal(signal.SIGINT, lambda number, frame: pressed.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)
    if pressed:
        raise KeyboardInterrupt


class HistoryFile:
    """The history as a file: history.csv with one number a line, or TensorBoard events."""

    def __init__(self, out_dir: str | os.PathLike[str] | None, kind: str, history: Sequence[Mapping[str, Any]]) -> None:
        self.file, self.board = None, None
        if out_dir is None or kind == "none":
            return
        out_dir = Path(out_dir)
        out_dir.mkdir(parents=True, exist_ok=True)
        if kind == "tensorboard":
            from torch.utils.tensorboard import SummaryWriter  # an extra; only this choice needs it

            self.board = SummaryWriter(str(out_dir), purge_step=len(history) and history[-1]["step"] + 1)
            return
        self.file = (out_dir / "history.csv").open("w", newline="", encoding="utf-8")
        self.file.write("step,split,term,value\n")
        for row in history:  # written anew: a killed run may have logged steps that its checkpoint does not know
            self.write(row)

    def write(self, row: Mapping[str, Any]) -> None:
        numbers = {name: value for name, value in row.items() if name not in ("step", "split")}
        if self.board:
            for name, value in numbers.items():
                self.board.add_scalar(f"{row['split']}/{name}", value, row["step"])
        if self.file:
            lines = csv.writer(self.file, lineterminator="\n")
            lines.writerows((row["step"], row["split"], name, value) for name, value in numbers.items())
            self.file.flush()

    def __enter__(self) -> "HistoryFile":
        return self

    def __exit__(self, *error: object) -> None:
        for target in (self.file, self.board):
            if target:
                target.close()
