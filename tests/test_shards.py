"""Pools on disk: the rows of an array, whatever cuts the writing short, and no more memory for a larger pool."""

from __future__ import annotations

import json
import logging
import pickle
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from visdec_lite import stages
from visdec_lite.datasets.base import BrainDataset, Split, trial_columns
from visdec_lite.datasets.shards import Shards, write_shards
from visdec_lite.files import read_json, write_json
from visdec_lite.masked_autoencoder import MaskedAutoencoder, MaskedAutoencoderConfig
from visdec_lite.preprocessing import ZScore, pad_voxels
from visdec_lite.training import TrainingConfig, TrainingInterrupted, fit

WORDS = {"name": "made up", "fingerprint": "f00d", "licence": "MIT", "citation": "none"}
SIZES = (8, 60)  # MB, of the pools whose memory is measured
BOUND = 10.0  # MB; a batch is 1.6 MB, and 64 kB round each of its 50 rows are 3 MB


class Accident(Exception):
    """Stands for a killed process: nothing is written on the way out."""


@pytest.fixture
def voxels(rng: np.random.Generator) -> np.ndarray:
    return (1e4 + 50 * rng.standard_normal((23, 6))).astype(np.float32)


@pytest.fixture
def pool(voxels: np.ndarray, tmp_path: Path) -> Shards:
    """23 rows in shards of 5, the last of 3."""
    return write(voxels, tmp_path / "pool")


def write(voxels: np.ndarray, folder: Path, pieces: int = 4, rows_per_shard: int = 5, **changes: object) -> Shards:
    return write_shards(
        np.array_split(voxels, pieces), folder, rows_per_shard=rows_per_shard, **{**WORDS, **changes}
    )  # fmt: skip


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize(
    "index",
    [
        slice(None), slice(3, 17, 4), slice(None, None, -1), np.array([22, 0, 7, 7, -1]), np.array([], dtype=int), [],
        [4, 5], np.arange(23) % 3 == 0, torch.tensor([9, 1]), 5, -23,
    ],
    ids=str,
)  # fmt: skip
def test_rows_are_those_of_the_array(pool, voxels, index):
    rows = pool[index]
    assert type(rows) is np.ndarray and rows.dtype == np.float32
    expected = np.asarray(index, dtype=int) if isinstance(index, list) else index
    assert np.array_equal(rows, voxels[expected])


def test_it_looks_like_a_table(pool):
    assert (len(pool), pool.shape, pool.ndim, pool.dtype) == (23, (23, 6), 2, np.float32)
    assert repr(pool).endswith("/pool', shape=(23, 6))")
    assert len(list(pool)) == 23


def test_index_tells_what_the_pool_is(voxels, tmp_path):
    pool = write(voxels, tmp_path, pieces=4, subjects=["a", "b", "c", "d"])
    index = json.loads((tmp_path / "index.json").read_text())
    assert [file["rows"] for file in index["shards"]] == [5, 5, 5, 5, 3]
    assert (index["rows"], index["voxels"], index["dtype"]) == (23, 6, "float32")
    assert pool.subjects == [("a", 6), ("b", 6), ("c", 6), ("d", 5)]
    assert {name: getattr(pool, name) for name in WORDS} == WORDS
    assert sorted(contents(tmp_path)) == ["index.json", *(f"shard-0000{i}.npy" for i in range(5))]
    shard = np.load(tmp_path / "shard-00001.npy", mmap_mode="r", allow_pickle=False)
    assert isinstance(shard, np.memmap) and np.array_equal(shard, voxels[5:10])


def test_statistics_are_those_of_all_rows_at_once(pool, voxels):
    exact = voxels.astype(np.float64)
    np.testing.assert_allclose(pool.mean, exact.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(pool.std, exact.std(axis=0), rtol=1e-9)


def test_statistics_merge_blocks_of_unequal_size(rng, tmp_path):
    voxels = rng.standard_normal((700, 2)).astype(np.float32) + np.arange(700, dtype=np.float32)[:, None]
    pool = write(voxels, tmp_path, rows_per_shard=600)  # blocks of 256, 256, 88 and 100
    np.testing.assert_allclose(pool.mean, voxels.mean(axis=0, dtype=np.float64), rtol=1e-12)
    np.testing.assert_allclose(pool.std, voxels.astype(np.float64).std(axis=0), rtol=1e-12)


def test_zscores_on_the_fly_are_those_of_preprocessing(pool, voxels):
    zscored = Shards(pool.folder, zscore=True)
    np.testing.assert_allclose(zscored[:], ZScore.fit(voxels).apply(voxels), atol=1e-6)
    assert zscored[[3]].dtype == np.float32
    assert not np.allclose(pool[:], zscored[:])


def test_zscore_of_a_constant_voxel_is_refused(voxels, tmp_path):
    voxels[:, 4] = 0.1
    pool = write(voxels, tmp_path)
    with pytest.raises(ValueError, match=r"1 of 6 voxels in .* constant \(first: column 4\).*drop them before"):
        Shards(pool.folder, zscore=True)


@pytest.mark.parametrize("multiple", [1, 4, 6, 16])
def test_padding_is_that_of_pad_voxels(pool, voxels, multiple):
    padded = pool.padded(multiple)
    expected, _ = pad_voxels(voxels, multiple)
    assert padded.shape == expected.shape
    assert np.array_equal(padded[:], expected)
    assert pool.shape == (23, 6)  # the pool itself stays as it was
    assert np.array_equal(padded.padded(10)[:], pad_voxels(expected, 10)[0])
    assert np.array_equal(padded[2], expected[2])


def test_padding_to_nothing_is_refused(pool):
    with pytest.raises(ValueError, match="multiple is 0, expected the patch size"):
        pool.padded(0)


def test_a_subset_of_a_subset_reads_the_right_rows(pool, voxels):
    odd = pool.subset(np.arange(23) % 2 == 1)
    assert odd.shape == (11, 6)
    assert np.array_equal(odd[:], voxels[1::2])
    assert np.array_equal(odd.subset(np.array([10, 0]))[:], voxels[[21, 1]])
    assert np.array_equal(odd.padded(8).subset(slice(1, 3))[-1], pad_voxels(voxels[[5]], 8)[0][0])


def test_it_may_be_pickled(pool, voxels):
    assert np.array_equal(pickle.loads(pickle.dumps(pool.subset([7])))[:], voxels[[7]])


@pytest.mark.parametrize(
    ("index", "message"),
    [
        (23, "row 23 asked of a pool of 23, expected -23 to 22"),
        (np.array([0, -24]), "row -24 asked of a pool of 23"),
        (np.ones(22, bool), "a mask of 22 rows for a pool of 23"),
        (np.array([0.5]), r"float64 \(1,\), expected whole numbers"),
        (np.array([[1]]), r"int64 \(1, 1\), expected whole numbers"),
    ],
)
def test_rows_that_are_not_there_are_refused(pool, index, message):
    with pytest.raises(IndexError, match=message):
        pool[index]


def test_nothing_reads_it_whole_on_the_quiet(pool):
    with pytest.raises(TypeError, match=r"read into memory whole, 0 MB; take the rows you need: pool\[rows\]"):
        np.isfinite(pool)


# --- writing ---


def test_how_rows_come_in_chunks_makes_no_difference(voxels, tmp_path):
    folders = [write(voxels, tmp_path / str(pieces), pieces).folder for pieces in (1, 4, 23)]
    assert contents(folders[0]) == contents(folders[1]) == contents(folders[2])


def test_rows_per_shard_is_how_files_are_cut(voxels, tmp_path):
    assert len(list(write(voxels, tmp_path / "a", rows_per_shard=23).folder.glob("*.npy"))) == 1
    assert len(list(write(voxels, tmp_path / "b", rows_per_shard=1).folder.glob("*.npy"))) == 23


def calls_of(voxels: np.ndarray, seen: list[int], fail_at: int | None = None) -> Iterator[Callable[[], np.ndarray]]:
    """Eight chunks to be called; each call is noted, one fails."""

    def chunk(number: int, rows: np.ndarray) -> np.ndarray:
        if number == fail_at:
            raise Accident
        seen.append(number)
        return rows

    return ((lambda number=n, rows=r: chunk(number, rows)) for n, r in enumerate(np.array_split(voxels, 8)))


@pytest.mark.parametrize("fail_at", range(8))
def test_a_cut_writing_goes_on_where_it_was(voxels, tmp_path, fail_at):
    """Chunks have 3 rows, shards 5: at chunk k, 3 k rows were seen and 3 k // 5 shards are on disk."""
    whole = write(voxels, tmp_path / "whole").folder
    cut, before, after = tmp_path / "cut", [], []
    with pytest.raises(Accident):
        write_shards(calls_of(voxels, before, fail_at), cut, rows_per_shard=5, **WORDS)
    assert len(list(cut.glob("shard-*.npy"))) == 3 * fail_at // 5
    if 3 * fail_at >= 5:
        with pytest.raises(FileNotFoundError, match="its writing was cut off: call write_shards again"):
            Shards(cut)
    write_shards(calls_of(voxels, after), cut, rows_per_shard=5, **WORDS)
    assert after == list(range(3 * fail_at // 5 * 5 // 3, 8))  # none that was on disk whole is made again
    assert contents(cut) == contents(whole)


def test_a_broken_shard_is_written_anew(voxels, tmp_path, caplog):
    cut, seen = tmp_path / "cut", []
    with pytest.raises(Accident):
        write_shards(calls_of(voxels, seen, 6), cut, rows_per_shard=5, **WORDS)
    (cut / "shard-00001.npy").write_bytes(b"half")
    with caplog.at_level(logging.WARNING):
        write_shards(calls_of(voxels, seen), cut, rows_per_shard=5, **WORDS).verify()
    assert "shard-00001.npy is broken: it and what follows are written anew" in caplog.text
    assert contents(cut) == contents(write(voxels, tmp_path / "whole").folder)


def test_a_finished_folder_is_opened_only(pool, voxels):
    seen = []
    again = write_shards(calls_of(voxels, seen), pool.folder, rows_per_shard=5, **WORDS)
    assert seen == [] and np.array_equal(again[:], voxels)


def test_another_pool_in_the_folder_is_not_overwritten(pool, voxels, tmp_path):
    with pytest.raises(ValueError, match="another pool: fingerprint was 'f00d', now 'beef'; delete it or give another"):
        write(voxels, pool.folder, fingerprint="beef")
    with pytest.raises(Accident):
        write_shards(calls_of(voxels, [], 6), tmp_path / "cut", rows_per_shard=5, **WORDS)
    with pytest.raises(ValueError, match="another pool: rows_per_shard was 5, now 4"):
        write(voxels, tmp_path / "cut", rows_per_shard=4)


def test_chunks_that_do_not_fit_are_refused(voxels, tmp_path):
    broken = voxels.copy()
    broken[2, 3] = np.nan
    for number, (second, message) in enumerate([
        (voxels[:, :5], r"chunk 1 is float32 \(23, 5\), expected numbers of shape \(rows, 6\); pad people"),
        (voxels[0], r"chunk 1 is float32 \(6,\)"),
        (voxels.astype(str), "chunk 1 is <U"),
        (broken, r"1 values of chunk 1 are NaN or infinite \(first: row 2, voxel 3\), expected none; .*valid_voxels"),
        (np.full((1, 6), 1e300), "6 values of chunk 1 are NaN or infinite"),
    ]):  # fmt: skip
        for rows_per_shard in (5, 100):  # the first chunk is on disk, or still in memory
            with pytest.raises(ValueError, match=message):
                write_shards(
                    [voxels, second], tmp_path / f"{number}-{rows_per_shard}", rows_per_shard=rows_per_shard, **WORDS
                )
    with pytest.raises(ValueError, match=r"chunk 0 is float32 \(6,\), expected numbers of shape \(rows, voxels\)"):
        write_shards([voxels[0]], tmp_path / "first", **WORDS)


def test_nothing_to_write_is_said(voxels, tmp_path):
    with pytest.raises(ValueError, match=r"0 rows for the pool .*at least 1"):
        write_shards([], tmp_path / "none", **WORDS)
    with pytest.raises(ValueError, match="rows_per_shard is 0, expected 1"):
        write(voxels, tmp_path / "zero", rows_per_shard=0)
    with pytest.raises(ValueError, match="5 subjects named for 4 chunks"):
        write(voxels, tmp_path / "many", subjects=list("abcde"))
    with pytest.raises(ValueError, match="more chunks than the 3 subjects"):
        write(voxels, tmp_path / "few", subjects=list("abc"))


# --- files that lie ---


def test_a_changed_byte_is_seen_before_its_shard_is_read(pool):
    path = pool.folder / "shard-00002.npy"
    path.write_bytes(path.read_bytes()[:-1] + b"\0")
    pool[:10]  # of the first two shards
    with pytest.raises(ValueError, match=r"1 of 1 shards in .* differ from index.json \(shard-00002.npy\)"):
        pool[12]


def test_verify_finds_a_changed_byte(pool):
    pool.verify()
    path = pool.folder / "shard-00002.npy"
    path.write_bytes(path.read_bytes()[:-1] + b"\0")
    with pytest.raises(ValueError, match=r"1 of 5 shards in .* \(shard-00002.npy\), expected 0; delete the folder"):
        Shards(pool.folder).verify()


def test_damage_is_found_on_opening(pool):
    path = pool.folder / "shard-00002.npy"
    whole = path.read_bytes()
    for content, message in [
        (whole[:-1], r"float32 \(5, 6\) in 247 bytes, expected float32 \(5, 6\) in 248; delete the folder"),
        (whole[:20], "has no .npy header in its 20 bytes; delete"),
        ((pool.folder / "shard-00004.npy").read_bytes(), r"is float32 \(3, 6\) in 200 bytes"),
    ]:
        path.write_bytes(content)
        with pytest.raises(ValueError, match=message):
            Shards(pool.folder)
    np.save(path, np.array([{"an": "object"}], dtype=object), allow_pickle=True)
    with pytest.raises(ValueError, match=r"is object \(1,\)"):  # said from the header, never unpickled
        Shards(pool.folder)
    path.unlink()
    with pytest.raises(FileNotFoundError, match=r"shard-00002.npy is missing, index.json lists it; delete"):
        Shards(pool.folder)


def test_an_index_that_cannot_be_read_is_said(pool, tmp_path):
    index = pool.folder / "index.json"
    write_json(index, {**read_json(index), "format": 9})
    with pytest.raises(ValueError, match="has format 9, expected 1; delete the folder"):
        Shards(pool.folder)
    index.write_text(index.read_text().replace('"format": 9', '"format": 1'))
    with pytest.raises(ValueError, match=r"index.json is damaged or was edited: its content does not fit its sha256"):
        Shards(pool.folder)
    index.write_text("{")
    with pytest.raises(ValueError, match=r"index.json is damaged: no JSON .*; delete it \(or .*\) and run"):
        Shards(pool.folder)
    with pytest.raises(FileNotFoundError, match=r"no pool at .*nowhere.*write it with write_shards"):
        Shards(tmp_path / "nowhere")


# --- as part of a data set ---


def split_of(voxels: np.ndarray | Shards) -> Split:
    columns = trial_columns(len(voxels), subject=1, run_length=5)
    return Split(voxels, images=None, labels=None, stimulus=np.arange(len(voxels)), **columns)


def dataset_of(**splits: Split) -> BrainDataset:
    return BrainDataset("made up", splits, (), {}, True, "MIT", "none", "0")


def test_a_split_holds_a_pool_without_reading_it(pool, voxels, monkeypatch):
    monkeypatch.setattr(Shards, "__getitem__", lambda *_: pytest.fail("rows were read"))
    split = split_of(pool)
    assert split.voxels is pool and len(split) == 23
    monkeypatch.undo()
    assert np.array_equal(split.rows(split.run == 1).voxels, voxels[5:10])
    with pytest.raises(TypeError, match=r"read into memory whole.*pool\[rows\]"):
        split.average_repeats()


def test_a_split_of_a_pool_is_checked_like_any_other(pool):
    with pytest.raises(ValueError, match="5 stimulus for 23 rows"):
        Split(pool, None, None, np.arange(5), **trial_columns(23, 1, 5))
    with pytest.raises(ValueError, match="0 trials"):
        split_of(pool.subset([]))


def test_unlabelled_data_needs_no_train_and_test(pool, voxels):
    dataset = dataset_of(val=split_of(voxels[:4]), pretrain=split_of(pool))
    assert dataset.num_voxels == 6
    assert dataset_of(pretrain=split_of(pool.padded(16))).num_voxels == 16
    with pytest.raises(ValueError, match="without stimulus images"):
        _ = dataset.image_size
    with pytest.raises(ValueError, match="'val' has 5 voxels, pretrain has 6"):
        dataset_of(pretrain=split_of(pool), val=split_of(voxels[:, :5]))
    for splits, missing in [
        ({}, "splits .., but no 'train'"),
        ({"val": split_of(pool)}, "no 'train'"),
        (
            {"pretrain": split_of(pool), "train": split_of(voxels)},
            "no 'test'; expected train and test, or of unlabelled",
        ),
        ({"pretrain": split_of(pool), "test": split_of(voxels)}, "no 'train'"),
    ]:
        with pytest.raises(ValueError, match=missing):
            dataset_of(**splits)


# --- training from it ---

SMALL = MaskedAutoencoderConfig(
    num_voxels=32, patch_size=4, embed_dim=16, depth=1, num_heads=2, decoder_embed_dim=16, decoder_depth=1,
    decoder_num_heads=2,
)  # fmt: skip
TRAINING = TrainingConfig(steps=12, batch_size=8, learning_rate=1e-2, validate_every=4, checkpoint_every=3)


def pretrained(voxels, val, config: TrainingConfig = TRAINING, **options: object) -> dict[str, torch.Tensor]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = MaskedAutoencoder(SMALL)
    stages.pretrain(model, voxels, val, config, progress=False, device="cpu", **options)
    return {name: weight.clone() for name, weight in model.state_dict().items()}


def assert_identical(one: dict[str, torch.Tensor], two: dict[str, torch.Tensor]) -> None:
    assert one.keys() == two.keys()
    for name in one:
        assert torch.equal(one[name], two[name]), name


@pytest.fixture
def scans(rng: np.random.Generator) -> np.ndarray:
    return rng.standard_normal((40, 30)).astype(np.float32)


def test_pre_training_from_disk_and_from_memory_is_the_same_bit_for_bit(scans, tmp_path):
    pool = write(scans, tmp_path, rows_per_shard=7).padded(4)
    padded, _ = pad_voxels(scans, 4)
    train, val = np.arange(40) >= 10, np.arange(40) < 10
    streamed = pretrained(pool.subset(train), pool.subset(val))
    assert_identical(streamed, pretrained(padded[train], padded[val]))
    assert any(not torch.equal(streamed[name], w) for name, w in pretrained(padded[val], padded[val]).items())


def test_a_cut_run_from_disk_ends_as_the_whole_one(scans, tmp_path, monkeypatch):
    pool = write(scans, tmp_path / "pool", rows_per_shard=7).padded(4)
    whole = pretrained(pool, pool[:5])
    read, calls = Shards.__getitem__, []

    def press(self: Shards, index: object) -> np.ndarray:
        calls.append(index)
        if len(calls) == 8:
            raise KeyboardInterrupt
        return read(self, index)

    monkeypatch.setattr(Shards, "__getitem__", press)
    with pytest.raises(TrainingInterrupted, match="after step 7 of 12"):
        pretrained(pool, padded_val := read(pool, slice(0, 5)), out_dir=tmp_path / "run")
    monkeypatch.undo()
    assert_identical(pretrained(Shards(pool.folder).padded(4), padded_val, out_dir=tmp_path / "run"), whole)


# --- memory ---


def resident(name: str) -> float:
    """Memory of this process in MB: VmRSS all that is resident, VmHWM the most it was, RssAnon without mapped files."""
    words = Path("/proc/self/status").read_text()
    return int(re.search(rf"^{name}:\s+(\d+) kB", words, re.MULTILINE)[1]) / 1000


def growth_of_an_epoch(pool: Shards | np.ndarray) -> tuple[float, float]:
    """How far the peak of all resident memory, and RssAnon, grow in MB while training sees each row once."""
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    before, anonymous = resident("VmRSS"), resident("RssAnon")
    config = TrainingConfig(steps=len(pool) // 50, batch_size=50, learning_rate=1e-3)
    model = torch.nn.Linear(8000, 1)  # small, so that what is seen is the memory of the rows
    fit(model, mean_square, {"voxels": pool}, config, progress=False, device="cpu")
    return resident("VmHWM") - before, resident("RssAnon") - anonymous


def mean_square(model: torch.nn.Module, batch: dict[str, torch.Tensor], _: torch.Generator) -> dict[str, torch.Tensor]:
    return {"loss": model(batch["voxels"]).square().mean()}


def test_resident_memory_does_not_grow_with_the_pool(rng, tmp_path):
    try:
        Path("/proc/self/clear_refs").write_text("5")
        resident("RssAnon")
    except (OSError, TypeError):
        pytest.skip("this kernel does not tell what is resident")
    block = rng.standard_normal((125, 8000), dtype=np.float32)  # 4 MB
    pools = {}
    for size in SIZES:
        chunks = (block for _ in range(size // 4))
        pools[size] = write_shards(chunks, tmp_path / str(size), rows_per_shard=100, **WORDS)
    assert [len(pool) for pool in pools.values()] == [250, 1875]
    growth_of_an_epoch(np.zeros((1875, 8000), np.float32))  # what is imported and allocated once
    growth = {size: growth_of_an_epoch(pool) for size, pool in pools.items()}
    assert all(max(megabytes) < BOUND for megabytes in growth.values()), growth
    np.save(tmp_path / "whole.npy", pools[60][:])
    one_map = np.load(tmp_path / "whole.npy", mmap_mode="r")
    assert growth_of_an_epoch(one_map)[0] > 4 * BOUND  # the pages of a map that stays open are seen
