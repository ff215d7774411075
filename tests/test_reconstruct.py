"""A trained pipeline on files: the same pictures as from Python, and scores of them."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from visdec_lite import chain
from visdec_lite.cli import app
from visdec_lite.metrics import evaluate
from visdec_lite.pipeline import FMRIToImagePipeline
from visdec_lite.presets import SamplingConfig, preset
from visdec_lite.reconstruct import paint_file, read_array, score_file, shipped_referee

SAMPLING = SamplingConfig(num_samples=2, num_inference_steps=2, guidance_scale=2.0)


@pytest.fixture(scope="module")
def pipe() -> FMRIToImagePipeline:
    """Untrained, of the class preset, for 64 voxels."""
    chosen = preset("class")
    return chain.new_brain(chosen, 64, chain.new_world(chosen, 0), 0).pipeline(chosen)


@pytest.fixture
def scans(rng, tmp_path):
    voxels = rng.standard_normal((3, 64)).astype(np.float32)
    np.save(tmp_path / "voxels.npy", voxels)
    return voxels


def test_a_file_is_painted_as_from_python(pipe, scans, tmp_path):
    path = paint_file(tmp_path / "voxels.npy", tmp_path / "out", pipe, SAMPLING, 5, progress=False)
    expected = pipe(scans, 2, 2, 2.0, torch.Generator().manual_seed(5)).images
    with np.load(path, allow_pickle=False) as file:
        np.testing.assert_array_equal(file["images"], expected)
        assert (int(file["seed"]), int(file["num_inference_steps"]), float(file["guidance_scale"])) == (5, 2, 2.0)
    sheet = np.asarray(Image.open(path.with_name("pictures.png")))
    assert sheet.shape == (3 * (4 * 32 + 4), 2 * (4 * 32 + 4), 3)
    np.testing.assert_array_equal(sheet[2, 2], expected[0, 0, 0, 0])  # the first pixel, inside its white frame
    np.testing.assert_array_equal(sheet[-3, -3], expected[2, 1, -1, -1])


def test_a_npz_file_is_read_by_name(pipe, scans, tmp_path):
    np.savez(tmp_path / "more.npz", voxels=scans, other=np.zeros(2))
    by_name = paint_file(tmp_path / "more.npz", tmp_path / "a", pipe, SAMPLING, 0, progress=False)
    plain = paint_file(tmp_path / "voxels.npy", tmp_path / "b", pipe, SAMPLING, 0, progress=False)
    np.testing.assert_array_equal(read_array(by_name, "images"), read_array(plain, "images"))


def test_scores_are_those_of_metrics(rng, tmp_path):
    truth = rng.integers(0, 256, (4, 32, 32, 3), dtype=np.uint8)
    painted = np.stack([truth, truth[::-1]], axis=1)
    np.savez(tmp_path / "painted.npz", images=painted)
    np.save(tmp_path / "truth.npy", truth)
    classify = shipped_referee("simulated")
    found = score_file(tmp_path / "painted.npz", tmp_path / "truth.npy", classify, 3)
    assert found == evaluate(painted, truth, classify=classify, generator=np.random.default_rng(3))
    assert "n_way_top1" not in score_file(tmp_path / "painted.npz", tmp_path / "truth.npy", None, 3)
    np.savez(tmp_path / "kinds.npz", labels=np.array([3, 3, 7, 7]))
    over = score_file(tmp_path / "painted.npz", tmp_path / "truth.npy", None, 3, tmp_path / "kinds.npz")
    assert {score.over for score in over.values()} == {"2 categories"}
    words = ["evaluate", str(tmp_path / "painted.npz"), str(tmp_path / "truth.npy")]
    done = CliRunner().invoke(app, [*words, "--categories", str(tmp_path / "kinds.npz")])
    assert done.exit_code == 0 and "95 % interval over 2 categories" in done.output, done.output
    assert "95 % interval over 4 stimuli" in CliRunner().invoke(app, words).output


def test_from_voxels_to_scores_on_the_command_line(pipe, scans, rng, tmp_path):
    pipe.save_pretrained(tmp_path / "pipeline")
    words = ["reconstruct", str(tmp_path / "voxels.npy"), "--pipeline", str(tmp_path / "pipeline")]
    settings = ["--samples", "2", "--steps", "2", "--guidance", "2", "--seed", "5", "--out", str(tmp_path / "o")]
    done = CliRunner().invoke(app, [*words, *settings])
    assert done.exit_code == 0, done.output
    expected = pipe(scans, 2, 2, 2.0, torch.Generator().manual_seed(5)).images
    np.testing.assert_array_equal(read_array(tmp_path / "o" / "reconstructions.npz", "images"), expected)

    np.save(tmp_path / "truth.npy", expected[:, 0])  # the first sample is exact
    words = ["evaluate", str(tmp_path / "o" / "reconstructions.npz"), str(tmp_path / "truth.npy")]
    done = CliRunner().invoke(app, [*words, "--referee", "simulated", "--out", str(tmp_path / "scores.json")])
    assert done.exit_code == 0, done.output
    scores = json.loads((tmp_path / "scores.json").read_text())
    assert scores["mse"]["value"] == pytest.approx(np.mean((expected[:, 1] / 255 - expected[:, 0] / 255) ** 2) / 2)
    assert f"{scores['pcc']['value']:.3f}" in done.output and "n_way_top1" in done.output


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, r"is not there; give a \.npy file, or a \.npz file with an array 'voxels'"),
        (b"not an array", "cannot be read as a .npy or .npz file of plain numbers"),
        (np.array([{"a": 1}], dtype=object), "cannot be read as a .npy or .npz file of plain numbers"),
        (np.zeros((2, 64), dtype=np.int64), "holds int64 numbers, expected z-scored floats"),
        (np.zeros((2, 63)), r"voxels have shape \(2, 63\), this pipeline reads \(scans, 64\)"),
    ],
)
def test_bad_files_are_named(pipe, tmp_path, content, words):
    path = tmp_path / "voxels.npy"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        np.save(path, content, allow_pickle=True)
    with pytest.raises((ValueError, FileNotFoundError), match=words):
        paint_file(path, tmp_path / "out", pipe, SAMPLING, 0, progress=False)
    assert not (tmp_path / "out").exists()


def test_an_archive_without_the_array_says_what_it_holds(tmp_path):
    np.savez(tmp_path / "a.npz", scans=np.zeros(2))
    with pytest.raises(ValueError, match="holds scans, expected an array 'voxels'"):
        read_array(tmp_path / "a.npz", "voxels")


def test_an_unknown_referee_is_refused():
    with pytest.raises(ValueError, match="no referee for 'faces'; there are simulated, digits69, or none"):
        shipped_referee("faces")
