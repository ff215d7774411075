"""The folder of a pool as it is written: shards one by one, a journal to go on from, the index at the end.

Enters: chunks of voxels, one after another. Leaves: what `shards.Shards` reads, `shard-00000.npy`, ... and
`index.json`. Until the last row is there, `unfinished.json` lists the shards that are whole, so that a writer that was
cut off checks them and goes on behind them.

Source: mean and spread are merged block by block as in Chan, Golub and LeVeque (1983), The American Statistician 37(3).
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from visdec_lite.files import atomic_path, read_json, sha256_of, write_json
from visdec_lite.identity import differences

logger = logging.getLogger(__name__)

FORMAT = 1  # of index.json; a reader refuses what it does not know
INDEX, JOURNAL = "index.json", "unfinished.json"
ANEW = "delete the folder and write it anew"
BLOCK = 256  # rows whose mean and spread are taken at once, in float64


class Writer:
    """What is on disk so far, and the shard being filled."""

    def __init__(self, folder: Path, identity: dict[str, Any]) -> None:
        self.folder, self.identity = folder, identity
        self.chunk_rows: list[int] = []  # of the chunks seen in this call
        self.known_rows: list[int] = []  # of the chunks seen before it was cut off
        self.files: list[dict[str, Any]] = []
        self.count, self.mean, self.squares = 0, np.zeros(0), np.zeros(0)
        self.buffer, self.filled = np.empty((0, 0), dtype=np.float32), 0
        if (folder / JOURNAL).is_file():
            journal = read_json(folder / JOURNAL, "identity", "chunk_rows", "files")
            expect_same(journal["identity"], identity, folder)
            self._go_on(journal)
        self.on_disk = self.count

    def _go_on(self, journal: dict[str, Any]) -> None:
        self.known_rows = journal["chunk_rows"]
        for file in journal["files"]:
            path = self.folder / file["file"]
            if not path.is_file() or sha256_of(path) != file["sha256"]:
                logger.warning("%s is broken: it and what follows are written anew", path)
                break
            self._take_in(np.load(path, mmap_mode="r", allow_pickle=False))
            self.files.append(file)
        logger.info("%s: %d rows are there, going on", self.folder, self.count)

    def add(self, number: int, chunk: np.ndarray | Callable[[], np.ndarray]) -> None:
        """Take chunk `number`, counted from 0; if all its rows are on disk, it is not called for."""
        start = sum(self.chunk_rows)
        if number < len(self.known_rows) and start + self.known_rows[number] <= self.on_disk:
            self.chunk_rows.append(self.known_rows[number])
            return
        rows = self._checked(number, chunk() if callable(chunk) else chunk)
        self.chunk_rows.append(len(rows))
        rows = rows[max(0, self.on_disk - start) :]
        size = self.identity["rows_per_shard"]
        while len(rows):
            if not self.filled:
                self.buffer = np.empty((size, rows.shape[1]), dtype=np.float32)
            piece, rows = rows[: size - self.filled], rows[size - self.filled :]
            self.buffer[self.filled : self.filled + len(piece)] = piece
            self.filled += len(piece)
            if self.filled == size:
                self._write_shard()

    def finish(self, words: dict[str, Any]) -> None:
        """Write what is left and the index, with `words` in it; the journal goes."""
        if self.filled:
            self._write_shard()
        if not self.count:
            raise ValueError(f"0 rows for the pool {self.folder}, at least 1 is needed")
        std = np.sqrt(self.squares / self.count)
        size = {"rows": self.count, "voxels": len(self.mean), "dtype": "float32", "shards": self.files}
        index = {**self.identity, **words, **size, "mean": self.mean.tolist(), "std": std.tolist()}
        write_json(self.folder / INDEX, index)
        (self.folder / JOURNAL).unlink(missing_ok=True)

    def _checked(self, number: int, chunk: np.ndarray) -> np.ndarray:
        """The chunk as float32, if it is a finite table as wide as those before it."""
        width = self.buffer.shape[1] or len(self.mean) or None
        if chunk.ndim != 2 or chunk.dtype.kind not in "fiu" or chunk.shape[1] != (width or chunk.shape[1]):
            raise ValueError(
                f"chunk {number} is {chunk.dtype} {chunk.shape}, expected numbers of shape "
                f"(rows, {width or 'voxels'}); pad people to one length first: preprocessing.pad_voxels"
            )
        with np.errstate(over="ignore"):  # what overflows float32 becomes infinite and is told here
            rows = chunk.astype(np.float32)
        bad = ~np.isfinite(rows)
        if bad.any():
            row, voxel = np.argwhere(bad)[0]
            raise ValueError(
                f"{bad.sum()} values of chunk {number} are NaN or infinite (first: row {row}, voxel {voxel}), "
                "expected none; drop these voxels first: preprocessing.valid_voxels"
            )
        return rows

    def _write_shard(self) -> None:
        rows = self.buffer[: self.filled]
        name = f"shard-{len(self.files):05d}.npy"
        with atomic_path(self.folder / name) as temporary:
            with temporary.open("wb") as stream:
                np.save(stream, rows, allow_pickle=False)
            digest = sha256_of(temporary)
        self._take_in(rows)
        self.files.append({"file": name, "rows": len(rows), "sha256": digest})
        self.filled = 0
        journal = {"identity": self.identity, "chunk_rows": self.chunk_rows, "files": self.files}
        write_json(self.folder / JOURNAL, journal)

    def _take_in(self, rows: np.ndarray) -> None:
        """Merge the rows of one shard into the running mean and sum of squared deviations."""
        for start in range(0, len(rows), BLOCK):
            block = rows[start : start + BLOCK].astype(np.float64)
            if not self.count:
                self.mean, self.squares = np.zeros(block.shape[1]), np.zeros(block.shape[1])
            mean, total = block.mean(axis=0), self.count + len(block)
            shift = mean - self.mean
            self.squares += ((block - mean) ** 2).sum(axis=0) + shift**2 * (self.count * len(block) / total)
            self.mean += shift * (len(block) / total)
            self.count = total


def expect_same(found: dict[str, Any], identity: dict[str, Any], folder: Path) -> None:
    """Raise ValueError if what was found in a folder is of another pool than the one asked for."""
    if words := differences({name: found.get(name) for name in identity}, identity):
        raise ValueError(f"{folder} holds another pool: {words}; delete it or give another folder")
