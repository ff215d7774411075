"""The command line keeps its promise: one sentence and an exit status, and nothing begun that must fail."""

from __future__ import annotations

import contextlib
import io
import os
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from visdec_lite import chain, cli, demo, reconstruct
from visdec_lite.comparison import cells, commands
from visdec_lite.datasets import BrainDataset, load_dataset, simulated
from visdec_lite.demo import DemoSettings, run_demo, score_table
from visdec_lite.files import write_json
from visdec_lite.identity import flat
from visdec_lite.pipeline import FMRIToImagePipeline
from visdec_lite.presets import preset
from visdec_lite.processes import locked

FUZZ = settings(derandomize=True, deadline=None, database=None)
TINY = simulated.SimulationConfig(
    voxels=tuple((name, 32) for name, _ in simulated.SimulationConfig().voxels),
    num_train=64, num_val=20, num_pretrain=64, pool_subjects=0, num_test=10, num_test_seen=10, test_repeats=6,
)  # fmt: skip


class Begun(BaseException):
    """Training or sampling was begun: every check was passed."""


def begin(*arguments: object, **options: object) -> None:
    raise Begun


def command(*words: object) -> tuple[int | None, str, str]:
    """Exit status (None: the work was begun), standard output and standard error of a command, run in this process."""
    out, err = io.StringIO(), io.StringIO()
    status: int | None = 0
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        patch.setattr(sys, "argv", ["visdec-lite", *map(str, words)])
        try:
            cli.main()
        except SystemExit as ended:
            status = ended.code or 0
        except Begun:
            status = None
    return status, out.getvalue(), err.getvalue()


def error_of(*words: object, status: int = 1) -> str:
    """The one sentence of a command that must fail before it begins."""
    found, _, err = command(*words)
    assert found == status, (found, err)
    assert "Traceback" not in err and "allow_pickle" not in err
    if status == 1:
        assert err.count("\n") == 1 and err.startswith("error: ") and len(err) > 20, err
    return err


@pytest.fixture(scope="module")
def tiny() -> BrainDataset:
    """A data set of its own kind that loads at once, 224 voxels."""
    return simulated.load(TINY)


@pytest.fixture(scope="module")
def pipe() -> FMRIToImagePipeline:
    """Untrained, of the class preset, for 64 voxels."""
    chosen = preset("class")
    return chain.new_brain(chosen, 64, chain.new_world(chosen, 0), 0).pipeline(chosen)


@pytest.fixture(scope="module", autouse=True)
def nothing_begins(tiny, pipe) -> Iterator[None]:
    """Training and sampling end at once, and simulated data are small."""

    def load(name: str, **options: object) -> BrainDataset:
        return tiny if name == "simulated" and "root" not in options else load_dataset(name, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(chain.Run, "stage", begin)
        patch.setattr(FMRIToImagePipeline, "__call__", begin)
        patch.setattr(commands, "run_cells", begin)
        patch.setattr(reconstruct, "shipped_pipeline", lambda: pipe)
        for module in (demo, cells, sys.modules["visdec_lite.datasets"]):
            patch.setattr(module, "load_dataset", load)
        yield


@pytest.fixture
def place(tmp_path, rng) -> Path:
    """A folder with scans, pictures, an empty folder and a file that is none of these."""
    np.save(tmp_path / "voxels.npy", rng.standard_normal((3, 64)).astype(np.float32))
    pictures = rng.integers(0, 256, (12, 8, 8, 3), dtype=np.uint8)
    np.save(tmp_path / "pictures.npy", pictures)
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("words")
    return tmp_path


# --- what is wrong is said, and before the work ---

OUT = "--out {0}/out"
CASES = [
    ("reconstruct {0}/voxels.npy --pipeline {0}/nowhere", "nowhere is not there; give a folder with a model_index"),
    ("reconstruct {0}/voxels.npy --pipeline {0}/empty", "empty holds no pipeline; give a folder with a model_index"),
    ("reconstruct {0}/voxels.npy --pipeline {0}/file", "file is a file; give a folder with a model_index"),
    ("reconstruct {0}/voxels.npy --samples 0", "SamplingConfig.num_samples is 0; expected a whole number from 1"),
    ("reconstruct {0}/voxels.npy --steps 0", "SamplingConfig.num_inference_steps is 0; expected"),
    ("reconstruct {0}/voxels.npy --steps 1001", "1001"),
    ("reconstruct {0}/voxels.npy --guidance nan", "SamplingConfig.guidance_scale is nan; expected a finite number"),
    ("reconstruct {0}/voxels.npy --guidance inf", "SamplingConfig.guidance_scale is inf; expected a finite number"),
    ("reconstruct {0}/nowhere.npy", "nowhere.npy is not there; give a .npy file"),
    ("reconstruct {0}/empty", "empty is a folder; give a .npy file"),
    ("reconstruct {0}/file", "file cannot be read as a .npy or .npz file of plain numbers"),
    ("reconstruct {0}/pictures.npy", "holds uint8 numbers, expected z-scored floats"),
    ("demo --preset nonsense", "no preset is called 'nonsense'"),
    ("demo --device gpu", "no device 'gpu' here; there are cpu"),
    ("demo --device nonsense", "no device 'nonsense' here; there are cpu"),
    ("demo --set sampling.sampler=foo", "SamplingConfig.sampler is 'foo'; expected one of 'ddim', 'pndm', 'dpm++'"),
    ("demo --set tuning.condition_dropout=5", "FinetuneConfig.condition_dropout is 5.0"),
    ("demo --set autoencoder.voxel_dropout=-1", "MaskedAutoencoderConfig.voxel_dropout is -1.0"),
    ("demo --set autoencoder.depth=-1", "MaskedAutoencoderConfig.depth is -1"),
    ("demo --set sampling.num_samples=-1", "SamplingConfig.num_samples is -1"),
    ("demo --set sampling.guidance_scale=inf", "SamplingConfig.guidance_scale is inf"),
    ("demo --set name=paper", "a preset called 'class' cannot be named 'paper'"),
    ("demo --set finetuning.seed=3", "every stage is seeded by --seed; say --seed 3"),
    ("demo --set fusing.steps=3 --set fusing.steps=4", "--set fusing.steps is said twice, '3' and '4'"),
    ("demo --train --set finetuning.batch_size=65", "finetuning.batch_size is 65, there are 64 scans to learn from"),
    ("demo --train --set pretraining.mixed_precision=fp16 --device cpu", "'fp16' needs a GPU"),
    ("demo --preset smoke --set prior_pictures=8", "refereeing.batch_size is 16, there are 8 prior_pictures"),
    ("train pretrain --set autoencoder.mask_ratio=0.01", "autoencoder.mask_ratio 0.01 hides 0 of 6 patches"),
    ("demo --preset smoke --set fusion.fmri_mask_ratio=0.01", "fmri_mask_ratio 0.01 hides 0 of 6 patches"),
    ("demo --dataset digits69 --path {0}/typo.mta", "typo.mta"),
    ("train finetune --device gpu", "no device 'gpu' here"),
    ("train finetune --set sampling.sampler=foo", "SamplingConfig.sampler is 'foo'"),
    ("train prior --set refereeing.batch_size=20001", "refereeing.batch_size is 20001, there are 20000 prior_pictures"),
    ("train prior --dataset god", "no pictures to learn a prior from for 'god'"),
    ("compare --preset nonsense", "no preset is called 'nonsense'"),
    ("compare --device nonsense", "no device 'nonsense' here"),
    ("compare --set sampling.sampler=foo", "SamplingConfig.sampler is 'foo'"),
    ("compare --seeds=-1", "seeds are [-1], expected a whole number from 0"),
    ("compare --seeds=0,0", "expected each once"),
    ("compare --seeds=1.5", "expected whole numbers parted by commas"),
    ("compare --subjects 0", "subjects are [0], expected a whole number from 1"),
    ("compare --trials 0", "trials are [0], expected a whole number from 1"),
    ("compare --trials 65", "65 training trials asked"),
    ("compare --methods nothing", "no method is called 'nothing'"),
    ("compare --dataset digits69 --path {0}/typo.mta", "typo.mta"),
]  # fmt: skip


@pytest.mark.parametrize(("words", "said"), CASES, ids=[words for words, _ in CASES])
def test_an_error_of_use_is_one_sentence_and_nothing_begins(words, said, place):
    assert said in error_of(*f"{words} {OUT}".format(place).split())
    assert not (place / "out").exists() or {p.name for p in (place / "out").iterdir()} <= {".lock"}, "claimed"


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is there")
@pytest.mark.parametrize("words", ["demo", "train finetune", "compare"])
def test_a_gpu_that_is_not_there_is_said_before_anything_is_loaded(words, tmp_path):
    assert "no device 'cuda' here; there are cpu" in error_of(*words.split(), "--device", "cuda", "--out", tmp_path)


@pytest.mark.parametrize("words", ["demo --seed -1", "demo --seed 1.5", "compare --folds 1", "compare --workers -1"])
def test_words_that_cannot_be_read_are_status_2(words, tmp_path):
    error_of(*words.split(), "--out", tmp_path, status=2)


RUNS = ["demo --train", "train finetune", "compare --methods ridge", "reconstruct {0}/voxels.npy"]


@pytest.mark.parametrize("words", RUNS)
def test_what_is_right_begins(words, place):
    status, _, err = command(*words.format(place).split(), "--out", place / "out")
    assert status is None, err


BAD_PLACES = [
    ("{0}/file", "file is a file, and a folder is needed there"),
    ("{0}/file/deeper", "file is a file, and a folder is needed there"),
    (f"{{0}}/{'x' * 300}", "the name is too long (300 characters)"),
]


@pytest.mark.parametrize(("out", "said"), BAD_PLACES, ids=["file", "in a file", "too long"])
@pytest.mark.parametrize("words", ["demo", "train prior", "compare --methods ridge", "reconstruct {0}/voxels.npy"])
def test_a_place_that_cannot_be_written_is_said_before_the_work(words, out, said, place):
    assert said in error_of(*words.format(place).split(), "--out", out.format(place))
    assert (place / "file").read_text() == "words"


def test_a_folder_where_a_file_is_meant_is_said_before_the_work(place, monkeypatch):
    monkeypatch.setattr(reconstruct, "score_file", begin)
    assert "a folder of this name is there" in error_of(
        "evaluate", place / "pictures.npy", place / "pictures.npy", "--out", place / "empty")  # fmt: skip
    (place / "out" / "reconstructions.npz").mkdir(parents=True)
    assert "a folder of this name is there" in error_of("reconstruct", place / "voxels.npy", "--out", place / "out")


def test_a_full_disk_is_said_before_sampling_with_path_and_bytes(place, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=1000))
    said = error_of("reconstruct", place / "voxels.npy", "--out", place / "out", "--samples", "7")
    needed = 3 * 7 * 32 * 32 * 3
    assert "reconstructions.npz cannot be written: no room" in said and f"{needed / 1e6:.1f} MB are needed" in said


def test_a_read_only_disk_is_said_before_the_work(place, monkeypatch):
    def refuse(path, flags, *rest, **options):
        if flags & os.O_CREAT:
            raise OSError(30, "Read-only file system", path)
        return plain(path, flags, *rest, **options)

    plain = os.open
    monkeypatch.setattr(os, "open", refuse)
    for words in (["demo"], ["train", "prior"], ["compare"], ["reconstruct", place / "voxels.npy"]):
        assert "this place cannot be written (Read-only file system)" in error_of(*words, "--out", place / "out")


# --- arrays ---


@pytest.mark.parametrize("kind", ["float64", "float32", "bool", "int64", "uint16"])
def test_evaluate_takes_uint8_and_says_so(kind, place):
    pictures = np.load(place / "pictures.npy")
    np.save(place / "other.npy", pictures.astype(kind))
    for words in (("other.npy", "pictures.npy"), ("pictures.npy", "other.npy")):
        said = error_of("evaluate", *(place / word for word in words))
        assert kind in said and "expected uint8" in said


def test_evaluate_scores_what_fits(place):
    status, out, err = command("evaluate", place / "pictures.npy", place / "pictures.npy", "--out", place / "s.json")
    assert status == 0 and "pcc" in out and (place / "s.json").exists(), err


def test_a_cut_file_is_one_sentence_at_every_length(place):
    np.savez_compressed(place / "voxels.npz", voxels=np.load(place / "voxels.npy"))
    for name in ("voxels.npy", "voxels.npz"):
        whole = (place / name).read_bytes()
        for length in range(0, len(whole), max(1, len(whole) // 40)):
            (place / "cut").write_bytes(whole[:length])
            said = error_of("reconstruct", place / "cut", "--out", place / "out")
            assert "cut cannot be read as a .npy or .npz file of plain numbers" in said


def test_what_would_have_to_be_unpickled_is_never_offered(place):
    np.save(place / "objects.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    np.savez(place / "objects.npz", voxels=np.array([None]))
    (place / "pickle.npy").write_bytes(b"\x80\x04N.")
    for name in ("objects.npy", "objects.npz", "pickle.npy"):
        said = error_of("reconstruct", place / name, "--out", place / "out")
        assert "load it" not in said and ("pickled objects are refused" in said or "it starts with" in said)


def test_scans_of_other_bytes_are_read_as_the_same_numbers(place):
    voxels = np.load(place / "voxels.npy")
    seen = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FMRIToImagePipeline, "__call__", lambda pipe, scans, **options: seen.append(scans) or begin())
        for kind in (">f4", "<f8", ">f8", "longdouble"):
            np.save(place / "other.npy", voxels.astype(kind))
            assert command("reconstruct", place / "other.npy", "--out", place / "out")[0] is None
    assert len(seen) == 4 and all(np.array_equal(scans, voxels) for scans in seen)
    np.save(place / "other.npy", np.full((3, 64), 1e300))
    assert "64 of 64 voxels hold NaN or infinity" in error_of("reconstruct", place / "other.npy", "--out", place / "o")


# --- faults of our own ---


def test_a_fault_of_ours_is_a_sentence_with_the_place_of_its_traceback_and_status_70(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(demo, "run_demo", lambda *a, **k: {}["no such\nname"])
    status, _, err = command("demo", "--out", tmp_path / "o")
    assert status == 70 and err.count("\n") == 1 and "Traceback" not in err
    assert err.startswith("error: KeyError: no such name. This is a fault of visdec-lite; its traceback is in ")
    (log,) = tmp_path.glob("visdec-lite-*.log")
    assert str(log) in err
    kept = log.read_text()
    assert kept.startswith("visdec-lite demo --out") and "Traceback (most recent call last)" in kept


def test_a_traceback_that_cannot_be_kept_is_said_too(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "gone"))
    monkeypatch.setattr(demo, "run_demo", lambda *a, **k: 1 / 0)
    status, _, err = command("demo", "--out", tmp_path / "o")
    assert status == 70 and "its traceback could not be kept" in err


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (MemoryError(), "not enough memory"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), "not enough memory"),
        (OSError(28, "No space left on device", "x"), "No space left on device"),
        (FloatingPointError("the loss is nan"), "the loss is nan"),
        (ValueError(), "ValueError without a word"),
    ],
)
def test_what_is_no_fault_of_ours_is_status_1(error, said, tmp_path, monkeypatch):
    def fail(*arguments, **options):
        raise error

    monkeypatch.setattr(demo, "run_demo", fail)
    assert said in error_of("demo", "--out", tmp_path / "o")


def test_words_of_our_own_are_status_1_whatever_their_type(tmp_path, monkeypatch):
    from visdec_lite.training import _Objective

    objective = _Objective(torch.nn.Linear(1, 1), lambda *arguments: {})
    monkeypatch.setattr(demo, "run_demo", lambda *a, **k: objective({}, torch.Generator()))
    said = error_of("demo", "--out", tmp_path / "o")
    assert said == "error: loss_fn returned the terms []; one must be called 'loss'\n"


def test_an_end_of_file_is_an_error_and_not_ctrl_d(tmp_path, monkeypatch):
    def fail(*arguments, **options):
        raise EOFError("cut")

    monkeypatch.setattr(demo, "run_demo", fail)
    assert "a file ended too early: cut" in error_of("demo", "--out", tmp_path / "o")


# --- a folder is claimed by what is right, and is of what its note says ---


def test_a_failed_first_try_leaves_the_folder_to_the_corrected_command(tmp_path):
    out = ("--out", tmp_path / "out")
    for wrong in ("--dataset digits69 --path typo.mta", "--set autoencoder.depth=2", "--device gpu"):
        error_of("demo", *wrong.split(), *out)
    assert not (tmp_path / "out" / "settings.json").exists()
    assert command("demo", "--train", *out)[0] is None
    assert (tmp_path / "out" / "settings.json").exists()


def begun(out: Path, **changes: object) -> None:
    with pytest.raises(Begun):
        run_demo(DemoSettings(train=True, **changes), out, progress=False)


def test_a_folder_is_of_its_data_numbers_and_weights(tmp_path, tiny, monkeypatch):
    begun(tmp_path)
    begun(tmp_path)  # the same goes on
    with pytest.raises(ValueError, match=r"another run: finetuning.steps was 1000, now 7; choose another --out"):
        run_demo(DemoSettings(train=True, overrides={"finetuning.steps": 7}), tmp_path, progress=False)
    with pytest.raises(ValueError, match=r"another run: seed was 0, now 1; choose"):
        run_demo(DemoSettings(train=True, seed=1), tmp_path, progress=False)
    with monkeypatch.context() as patch:
        patch.setattr(demo, "load_dataset", lambda name: replace(tiny, fingerprint="another file"))
        with pytest.raises(ValueError, match=r"another run: data was '\w{64}', now 'another file'; choose"):
            run_demo(DemoSettings(train=True), tmp_path, progress=False)
    with monkeypatch.context() as patch:
        patch.setattr(demo, "read_metadata", lambda path: {"identity": {}, "sha256": "other weights"})
        with pytest.raises(ValueError, match=r"weights diffusion was '\w{64}', now 'other weights'"):
            run_demo(DemoSettings(train=True), tmp_path, progress=False)


@pytest.mark.parametrize("content", ["[]", "null", "", '{"seed": 0}'])
def test_a_damaged_note_names_the_file_and_the_way_out(content, tmp_path):
    out = tmp_path / "out"
    begun(out)
    note = (out / "settings.json").read_bytes()
    (out / "settings.json").write_text(content)
    said = error_of("demo", "--train", "--out", out)
    assert "settings.json is damaged" in said and "delete it" in said
    (out / "settings.json").write_bytes(note)
    (out / "report.html").write_text("page")
    (out / "metrics.json").write_text(content)
    said = error_of("demo", "--train", "--out", out)
    assert "metrics.json is damaged" in said and "delete it" in said


def test_metrics_without_their_names_are_damaged(tmp_path):
    begun(tmp_path)
    (tmp_path / "report.html").write_text("page")
    write_json(tmp_path / "metrics.json", {})
    with pytest.raises(ValueError, match=r"metrics.json is damaged or of another version: it lacks methods"):
        run_demo(DemoSettings(train=True), tmp_path, progress=False)


@pytest.mark.parametrize("words", RUNS)
def test_two_at_one_folder_are_told_of_each_other(words, place):
    with locked(place / "out"):
        said = error_of(*words.format(place).split(), "--out", place / "out")
    assert f"out is in use by process {os.getpid()} on " in said


def test_no_more_workers_than_cores(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(commands.joblib, "cpu_count", lambda: 3)
    monkeypatch.setattr(commands, "run_cells", lambda *a, workers, **k: asked.append(workers) or begin())
    for given_, used in (("99999", 3), ("2", 2), ("0", 0)):
        status, out, _ = command("compare", "--methods", "ridge", "--workers", given_, "--out", tmp_path / "out")
        assert status is None and asked.pop() == used
        assert ("workers 3, not 99999" in out) == (given_ == "99999")


# --- scores as a table ---


def test_scores_are_a_table_that_fits_80_columns():
    chances = {"n_way_top1": 0.02, "n_way_top5": 0.1, "pairwise_pcc": 0.5, "pcc": 0.013, "ssim": -0.001, "mse": 0.1}

    def scores(value: float, over: str) -> dict[str, dict[str, object]]:
        score = {"value": value, "ci95": [value - 0.08, min(1.0, value + 0.1)], "over": over}
        return {name: {**score, "chance": chance} for name, chance in chances.items()}

    kinds = {"": "10 categories", "_single_trial": "10 categories", "_seen_categories": "40 stimuli"}
    values = {"visdec": 0.724, "visdec_mean": 1.0, "ridge_latents": -0.149}
    methods = {f"{m}{e}": scores(value, over) for e, over in kinds.items() for m, value in values.items()}
    methods["visdec_shuffled"] = scores(0.02, "10 categories")
    table = score_table({"methods": methods, "simulated": True, "n_test": 50, "repeats_averaged": 35})
    lines = table.split("\n")
    assert max(map(len, lines)) <= 80 and len(lines) < 25
    assert lines[0].startswith("SIMULATED data; 50 test stimuli")
    assert lines[2] == "test scans, 35 repeats averaged; intervals over 10 categories"
    assert lines[3].split() == ["top-1", "%", "pairwise", "%", "PCC", "SSIM"]
    assert " ".join(lines[4].split()) == "visdec 72 [64, 82] 72 [64, 82] .72 [.64, .82] .72 [.64, .82]"
    assert lines[5].split()[:4] == ["visdec_mean", "100", "[92,", "100]"] and "-.15 [-.23, -.05]" in lines[6]
    assert lines[7].split()[0] == "visdec_shuffled" and lines[8].split()[2:] == ["2", "50", ".01", ".00"]
    assert [line for line in lines if line and line[0] not in " S"][1:] == [
        "single trials; intervals over 10 categories", "seen categories; intervals over 40 stimuli"]  # fmt: skip


# --- anything at all ---

CLASS = preset("class")
FIELDS = flat(CLASS.as_dict())
PATHS = list(FIELDS)
LIKELY = st.sampled_from([0, 1, 2, 3, 8, 64, 1e400, -0.0, 2**31, 10**30])
NUMBERS = st.one_of(st.integers(), st.floats(), LIKELY).map(str)
LISTS = st.lists(NUMBERS, max_size=5).map(",".join)
VALUES = st.one_of(NUMBERS, LISTS, st.text(max_size=12), st.sampled_from(["true", "False", "(,)"]))


@settings(FUZZ, max_examples=120)
@given(st.lists(st.tuples(st.sampled_from([*PATHS, "", "fusion", "sampling.", "a.b"]), VALUES), min_size=1, max_size=3))
def test_any_setting_is_taken_or_refused_in_a_sentence(changes):
    words = [word for path, value in changes for word in ("--set", f"{path}={value}")]
    with tempfile.TemporaryDirectory() as out:
        status, _, err = command("demo", "--preset", "smoke", *words, "--out", out)
    assert status in (None, 1), err
    assert status is None or (err.startswith("error: ") and err.count("\n") == 1 and "Traceback" not in err)


def nearby(value: object) -> st.SearchStrategy[str]:
    """Values of the right type and about the right size, many of which fit."""
    if isinstance(value, bool):
        return st.sampled_from(["true", "false"])
    if isinstance(value, int):
        return st.integers(0, 2 * value + 8).map(str)
    if isinstance(value, float):
        return st.floats(0, 2 * value + 1).map(str)
    if isinstance(value, tuple):
        return st.lists(nearby(value[0]), min_size=1, max_size=4).map(",".join)
    return st.just(str(value))


@pytest.mark.slow
@settings(FUZZ, max_examples=150)
@given(st.sampled_from([path for path in PATHS if path != "name"]).flatmap(
    lambda path: st.tuples(st.just(path), nearby(FIELDS[path]))))  # fmt: skip
def test_a_setting_of_the_right_size_is_taken_or_refused_in_a_sentence(change):
    path, value = change
    if path.endswith(".seed"):
        return
    with tempfile.TemporaryDirectory() as out:
        status, _, err = command("demo", "--preset", "smoke", "--set", f"{path}={value}", "--out", out)
    assert status in (None, 1), err
    assert status is None or (err.startswith("error: ") and err.count("\n") == 1)


def array_files() -> list[bytes]:
    """Whole files of scans as numpy writes them."""
    files = []
    for save in (np.save, np.savez, np.savez_compressed):
        stream, scans = io.BytesIO(), np.linspace(-1, 1, 192, dtype=np.float32).reshape(3, 64)
        save(stream, scans) if save is np.save else save(stream, voxels=scans)
        files.append(stream.getvalue())
    return files


@settings(FUZZ, max_examples=120)
@given(
    st.one_of(st.binary(max_size=200), st.sampled_from(array_files())),
    st.lists(st.tuples(st.integers(0, 3000), st.integers(0, 255)), max_size=4),
    st.one_of(st.none(), st.integers(0, 1200)),
)
def test_any_bytes_are_read_or_refused_in_a_sentence(content, flips, cut):
    damaged = bytearray(content)
    for place, value in flips if damaged else ():
        damaged[place % len(damaged)] = value
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "scans.npz"
        file.write_bytes(bytes(damaged[:cut]))
        for words in (("reconstruct", file, "--out", f"{folder}/out"), ("evaluate", file, file)):
            status, _, err = command(*words)
            assert status in (None, 1), err
            if status == 1:
                assert err.startswith("error: ") and err.count("\n") == 1 and "allow_pickle" not in err, err
