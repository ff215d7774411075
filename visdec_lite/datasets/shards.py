"""Unlabelled pools that stream: voxels in shards on disk, of which only the rows of a batch are in memory.

Enters: voxels in chunks, such as one person after another. Leaves: a folder of `shard-00000.npy`, ... (float32,
equally many rows each, only the last has fewer) and `index.json`: counts, sha256 of every shard, mean and spread of
every voxel, whose scans they are, licence and citation. `Shards` gives its rows as an array would, by number. They
are float32 and not float16, which carries three digits: at a BOLD signal of 10,000 its steps are 8 wide.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from copy import copy
from pathlib import Path
from typing import Any

import numpy as np

from visdec_lite.datasets.shard_writer import ANEW, FORMAT, INDEX, JOURNAL, Writer, expect_same
from visdec_lite.files import digest_of, read_json, sha256_of
from visdec_lite.preprocessing import ROUNDING, ZScore, pad_voxels

ROWS_PER_SHARD = 4096  # 74 MB at 4,500 voxels: held once while writing


def write_shards(
    chunks: Iterable[np.ndarray | Callable[[], np.ndarray]],
    folder: str | Path,
    *,
    name: str,
    fingerprint: str,
    licence: str,
    citation: str,
    subjects: Sequence[str] | None = None,
    rows_per_shard: int = ROWS_PER_SHARD,
) -> Shards:
    """Write a pool, with one shard of it in memory. A finished folder is opened, an unfinished one is continued.

    Args:
        chunks: float arrays of shape (any, voxels), or functions that return one, which are called only for
            rows that are not on disk yet. The same ones in the same order whenever the folder is continued.
        folder: made if missing. Every file in it is whole or absent; the index comes last.
        name: of the data set.
        fingerprint: of what the rows are made from; a folder continues only under the same one.
        licence, citation: what must be kept to and cited.
        subjects: whose scan each chunk is, one name a chunk.
        rows_per_shard: rows of each file, at least 1.

    Raises:
        ValueError: a chunk is not a finite table as wide as the first, or the folder holds another pool.
    """
    if rows_per_shard < 1:
        raise ValueError(f"rows_per_shard is {rows_per_shard}, expected 1 or more")
    folder = Path(folder)
    identity = {"format": FORMAT, "name": name, "fingerprint": fingerprint, "rows_per_shard": rows_per_shard}
    if (folder / INDEX).is_file():
        expect_same(read_json(folder / INDEX), identity, folder)
        return Shards(folder)
    writer = Writer(folder, identity)
    for number, chunk in enumerate(chunks):
        if subjects is not None and number >= len(subjects):
            raise ValueError(f"more chunks than the {len(subjects)} subjects named, expected one name a chunk")
        writer.add(number, chunk)
    if subjects is not None and len(subjects) != len(writer.chunk_rows):
        raise ValueError(f"{len(subjects)} subjects named for {len(writer.chunk_rows)} chunks, expected one a chunk")
    named = [] if subjects is None else list(zip(subjects, writer.chunk_rows, strict=True))
    writer.finish({"licence": licence, "citation": citation, "subjects": named})
    return Shards(folder)


class Shards:
    """The rows of a finished folder, read when asked for: what `Split.voxels`, `training.fit` and `stages` take.

    Every shard is compared with its sha256 before its first row is read. It is memory-mapped while rows are copied
    out of it and no longer: pages of a map that stays open count as resident memory until the kernel wants them back.
    So a batch costs its own rows (and up to 64 kB round each one during the call), whatever the size of the pool. It
    has no open files: it may be pickled and forked.

    Attributes:
        shape: (rows, voxels), as read: after `subset` and `padded`.
        ndim, dtype: 2 and float32.
        subjects: (name, rows) of every subject, in the order of the rows of the whole folder.
        mean, std: of every stored voxel over all rows of the folder, float64, in the units stored.
        name, licence, citation, fingerprint: as written.
    """

    ndim = 2
    dtype = np.dtype(np.float32)

    def __init__(self, folder: str | Path, *, zscore: bool = False) -> None:
        """Open a folder of `write_shards`.

        Args:
            zscore: z-score rows as they are read, with `mean` and `std`; for a folder of training rows only.

        Raises:
            FileNotFoundError: no index, or a shard is missing.
            ValueError: the index is of another format, a shard does not fit it, or a voxel to z-score is constant.
        """
        self.folder = Path(folder)
        if not (self.folder / INDEX).is_file():
            unfinished = (self.folder / JOURNAL).is_file()
            way_out = "its writing was cut off: call write_shards again" if unfinished else "write it with write_shards"
            raise FileNotFoundError(f"no pool at {self.folder / INDEX}; {way_out}")
        index = read_json(self.folder / INDEX)
        if index.get("format") != FORMAT:
            raise ValueError(f"{self.folder / INDEX} has format {index.get('format')}, expected {FORMAT}; {ANEW}")
        self.name, self.fingerprint = index["name"], index["fingerprint"]
        self.licence, self.citation = index["licence"], index["citation"]
        self.subjects = [(name, rows) for name, rows in index["subjects"]]
        self.mean, self.std = np.array(index["mean"]), np.array(index["std"])
        self._files, self._rows_per_shard = index["shards"], index["rows_per_shard"]
        self._stored = (index["rows"], index["voxels"])
        self._offsets = [self._start_of(file) for file in self._files]
        self._whole: set[int] = set()  # shards whose every byte was found as written
        self._zscore = self._statistics() if zscore else None
        self._chosen: np.ndarray | None = None  # rows of a subset
        self._multiples: tuple[int, ...] = ()

    @property
    def content(self) -> str:
        """Hash of these rows as they are read: the files, which rows, z-scored or not, padded to what."""
        chosen = None if self._chosen is None else hashlib.sha256(self._chosen).hexdigest()
        files = [file["sha256"] for file in self._files]
        return digest_of([files, chosen, self._zscore is not None, list(self._multiples)])

    @property
    def shape(self) -> tuple[int, int]:
        width = self._stored[1]
        for multiple in self._multiples:
            width += -width % multiple
        return self._stored[0] if self._chosen is None else len(self._chosen), width

    def __len__(self) -> int:
        return self.shape[0]

    def __repr__(self) -> str:
        return f"Shards({str(self.folder)!r}, shape={self.shape})"

    def __getitem__(self, index: int | slice | np.ndarray) -> np.ndarray:
        """Rows by number, mask or slice, in that order: float32, shape (rows, voxels); (voxels,) for one number."""
        if isinstance(index, int | np.integer):
            return self[np.array([index])][0]
        rows = self._numbers(index)
        shards, places = np.divmod(rows if self._chosen is None else self._chosen[rows], self._rows_per_shard)
        out = np.empty((len(rows), self._stored[1]), dtype=np.float32)
        for shard in np.unique(shards):
            here = np.flatnonzero(shards == shard)
            out[here] = self._map(shard)[places[here]]
        if self._zscore is not None:
            out = self._zscore.apply(out)
        for multiple in self._multiples:
            out, _ = pad_voxels(out, multiple)
        return out

    def __array__(self, dtype: np.dtype | None = None, copy: bool | None = None) -> np.ndarray:
        raise TypeError(
            f"{self!r} was about to be read into memory whole, {4 * np.prod(self.shape) / 1e6:.0f} MB; "
            "take the rows you need: pool[rows], or pool[:] for all"
        )

    def subset(self, rows: slice | np.ndarray) -> Shards:
        """The same pool with these rows only, by number, mask or slice; nothing is read."""
        part = copy(self)
        numbers = self._numbers(rows)
        part._chosen = numbers if self._chosen is None else self._chosen[numbers]
        return part

    def padded(self, multiple: int) -> Shards:
        """The same pool with scans wrap-padded to the next multiple as they are read, as `pad_voxels` does."""
        if multiple < 1:
            raise ValueError(f"multiple is {multiple}, expected the patch size, 1 or more")
        part = copy(self)
        part._multiples = (*self._multiples, multiple)
        return part

    def verify(self) -> None:
        """Read every file of the folder and compare its sha256 with the index.

        Raises:
            ValueError: some differ; the message counts and names them.
        """
        self._verify(self._files)

    def _verify(self, files: list[dict[str, Any]]) -> None:
        broken = [file["file"] for file in files if sha256_of(self.folder / file["file"]) != file["sha256"]]
        if broken:
            raise ValueError(
                f"{len(broken)} of {len(files)} shards in {self.folder} differ from {INDEX} "
                f"({', '.join(broken[:5])}), expected 0; {ANEW}"
            )

    def _numbers(self, index: slice | np.ndarray) -> np.ndarray:
        """Row numbers of this view, int64, all of them in range."""
        count = len(self)
        if isinstance(index, slice):
            return np.arange(*index.indices(count))
        numbers = np.asarray(index)
        if numbers.ndim != 1 or (numbers.dtype.kind not in "iub" and len(numbers)):
            raise IndexError(
                f"rows are asked by {numbers.dtype} {numbers.shape}, expected whole numbers or a mask, one axis"
            )
        if numbers.dtype.kind == "b":
            if len(numbers) != count:
                raise IndexError(f"a mask of {len(numbers)} rows for a pool of {count}, expected one entry a row")
            return np.flatnonzero(numbers)
        numbers = numbers.astype(np.int64)
        outside = (numbers < -count) | (numbers >= count)
        if outside.any():
            raise IndexError(f"row {numbers[outside][0]} asked of a pool of {count}, expected {-count} to {count - 1}")
        return np.where(numbers < 0, numbers + count, numbers)

    def _map(self, shard: int) -> np.memmap:
        file = self._files[shard]
        if shard not in self._whole:
            self._verify([file])
            self._whole.add(shard)
        shape = (file["rows"], self._stored[1])
        return np.memmap(self.folder / file["file"], np.float32, "r", self._offsets[shard], shape)

    def _start_of(self, file: dict[str, Any]) -> int:
        """Bytes before the first row, once header and size of the file are as the index says."""
        path, shape = self.folder / file["file"], (file["rows"], self._stored[1])
        if not path.is_file():
            raise FileNotFoundError(f"{path} is missing, {INDEX} lists it; {ANEW}")
        size = path.stat().st_size
        try:
            with path.open("rb") as stream:
                np.lib.format.read_magic(stream)
                header = np.lib.format.read_array_header_1_0(stream)
                start = stream.tell()
        except ValueError as error:
            raise ValueError(f"{path} has no .npy header in its {size} bytes; {ANEW}") from error
        expected = start + 4 * shape[0] * shape[1]
        if header != (shape, False, self.dtype) or size != expected:
            raise ValueError(
                f"{path} is {header[2]} {header[0]} in {size} bytes, expected float32 {shape} in {expected}; {ANEW}"
            )
        return start

    def _statistics(self) -> ZScore:
        constant = np.flatnonzero(self.std <= ROUNDING * np.abs(self.mean))
        if len(constant):
            raise ValueError(
                f"{len(constant)} of {len(self.std)} voxels in {self.folder} are constant (first: column "
                f"{constant[0]}) and have no z-score; drop them before write_shards"
            )
        return ZScore(self.mean, self.std)
