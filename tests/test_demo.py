"""The main job, at smoke size: files, scores at chance where they must be, resuming, and errors in one sentence."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from visdec_lite import chain, demo
from visdec_lite.datasets import load_dataset
from visdec_lite.demo import DemoSettings, first_trials, run_demo
from visdec_lite.files import read_json
from visdec_lite.pipeline import FMRIToImagePipeline
from visdec_lite.presets import preset

ROOT = Path(__file__).resolve().parent.parent
TINY = {
    "prior_pictures": 200, "first_stage.steps": 4, "prior.steps": 4, "refereeing.steps": 40,
    "image_pretraining.steps": 3, "pretraining.steps": 3, "fusing.steps": 3, "finetuning.steps": 4,
    "sampling.num_inference_steps": 2, "sampling.num_samples": 2,
}  # fmt: skip
METRICS = {
    "n_way_top1", "n_way_top5", "pairwise_pcc", "pairwise_mse", "pairwise_ssim", "pcc", "ssim", "mse",
}  # fmt: skip
COMMAND = [sys.executable, "-c", "from visdec_lite.cli import main; main()"]


def visdec_lite(*words: str, timeout: int = 120) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*COMMAND, *words], capture_output=True, text=True, timeout=timeout)


@pytest.fixture(scope="module")
def settings() -> DemoSettings:
    return DemoSettings(preset="smoke", seed=3, overrides=TINY)


@pytest.fixture(scope="module")
def finished(settings, tmp_path_factory) -> tuple[Path, dict]:
    out = tmp_path_factory.mktemp("demo")
    return out, run_demo(settings, out, progress=False)


def test_it_leaves_three_files_that_say_simulated(finished):
    out, metrics = finished
    assert read_json(out / "metrics.json") == json.loads(json.dumps(metrics))
    assert (out / "gallery.png").read_bytes()[:4] == b"\x89PNG"
    assert metrics["simulated"] is True
    assert "simulated" in (out / "report.html").read_text().lower()


def test_every_method_has_every_score_with_chance_and_interval(finished):
    _, metrics = finished
    expected = {
        f"{m}{e}"
        for m in ("visdec", "visdec_mean", "ridge", "ridge_latents")
        for e in ("", "_single_trial", "_seen_categories")
    }
    assert set(metrics["methods"]) == expected | {"visdec_shuffled"}
    for scores in metrics["methods"].values():
        assert set(scores) == METRICS
        for score in scores.values():
            low, high = score["ci95"]
            assert low <= score["value"] <= high and np.isfinite(score["chance"])
    assert metrics["methods"]["visdec"]["n_way_top1"]["chance"] == pytest.approx(1 / 50)
    assert set(metrics["seconds"]) >= {"pretrain", "fuse", "finetune", "sample", "total"}
    assert metrics["n_test"] == 50 and metrics["repeats_averaged"] == 35


def test_metrics_carry_the_identity_of_every_stage(finished):
    _, metrics = finished
    stages = {"classifier", "image_autoencoder", "first_stage", "diffusion", "pretrain", "fuse", "finetune"}
    assert set(metrics["identity"]) == stages
    assert all(identity for identity in metrics["identity"].values())


def test_ridge_reads_pictures_and_shuffled_scans_do_not(finished):
    _, metrics = finished
    ridge, shuffled = metrics["methods"]["ridge"], metrics["methods"]["visdec_shuffled"]
    assert ridge["pairwise_pcc"]["ci95"][0] > 0.8
    assert shuffled["pairwise_pcc"]["ci95"][0] < 0.5 < shuffled["pairwise_pcc"]["ci95"][1]


def test_a_finished_run_is_not_repeated(finished, settings):
    out, metrics = finished
    before, heard = (out / "metrics.json").stat().st_mtime_ns, []
    assert run_demo(settings, out, say=heard.append, progress=False) == json.loads(json.dumps(metrics))
    assert (out / "metrics.json").stat().st_mtime_ns == before
    assert "finished" in heard[-1]


def test_a_folder_of_other_settings_is_refused(finished):
    out, _ = finished
    with pytest.raises(ValueError, match="seed was 3, now 4"):
        run_demo(DemoSettings(preset="smoke", seed=4, overrides=TINY), out, progress=False)


def test_the_same_seed_gives_the_same_scores(finished, settings, tmp_path):
    _, metrics = finished
    again = run_demo(settings, tmp_path, progress=False)
    assert again["methods"] == metrics["methods"]


def test_an_interrupted_run_goes_on_and_ends_the_same(finished, settings, tmp_path, monkeypatch):
    _, metrics = finished
    whole, calls = chain.stages.finetune, []

    def cut(*arguments, **options):
        calls.append(1)
        raise KeyboardInterrupt

    monkeypatch.setattr(chain.stages, "finetune", cut)
    with pytest.raises(KeyboardInterrupt):
        run_demo(settings, tmp_path, progress=False)
    assert calls and not (tmp_path / "metrics.json").exists()
    monkeypatch.setattr(chain.stages, "finetune", whole)
    fused = tmp_path / "brain" / "stages" / "fuse" / "checkpoint.safetensors"
    before = fused.stat().st_mtime_ns
    resumed = run_demo(settings, tmp_path, progress=False)
    assert fused.stat().st_mtime_ns == before  # what was done is not done again
    assert resumed["methods"] == metrics["methods"]


@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_to_end_says_where_the_run_is_kept(number, status, tmp_path):
    words = ["demo", "--preset", "smoke", "--out", str(tmp_path), "--set", "refereeing.steps=100000"]
    process = subprocess.Popen([*COMMAND, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    history = tmp_path / "world" / "stages" / "classifier" / "history.csv"
    deadline = time.monotonic() + 90
    try:
        while not (history.exists() and history.stat().st_size > 500):
            assert time.monotonic() < deadline and process.poll() is None, process.stderr.read()
            time.sleep(0.2)
        process.send_signal(number)
        _, errors = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == status, errors
    assert "Traceback" not in errors
    assert "kept in" in errors and (tmp_path / "world" / "stages" / "classifier" / "checkpoint.safetensors").exists()


def test_first_trials_are_single_trials_in_the_order_of_the_average():
    test = load_dataset("simulated")["test"]
    single, averaged = first_trials(test), test.average_repeats()
    assert np.array_equal(single.stimulus, averaged.stimulus)
    assert np.array_equal(single.images, averaged.images)
    assert single.voxels.std() > 1.5 * averaged.voxels.std()  # noise is still in


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["demo", "--preset", "clas"], "did you mean 'class'"),
        (["demo", "--dataset", "simulatd"], "did you mean 'simulated'"),
        (["demo", "--set", "finetuning.step=3"], "did you mean 'finetuning.steps'"),
        (["demo", "--set", "finetuning.steps"], "has no '='"),
        (["demo", "--set", "finetuning.steps=many"], "finetuning.steps"),
        (["demo", "--dataset", "digits69", "--path", "nowhere.mat"], "nowhere.mat"),
        (["train", "prior", "--dataset", "god"], "no pictures to learn a prior from"),
    ],
)
def test_bad_input_is_one_sentence_and_exit_status_1(words, message, tmp_path):
    result = visdec_lite(*words, "--out", str(tmp_path / "out"))
    assert result.returncode == 1
    assert message in result.stderr and "Traceback" not in result.stderr


def test_a_shipped_file_of_another_config_is_refused(tmp_path):
    result = visdec_lite("demo", "--set", "autoencoder.depth=2", "--out", str(tmp_path))
    assert result.returncode == 1
    assert "depth was 4, now 2" in result.stderr, result.stderr[-500:]


def test_train_makes_a_prior_and_a_brain_on_it(tmp_path):
    changes = [word for name, value in TINY.items() for word in ("--set", f"{name}={value}")]
    for stage, files in (
        ("prior", {"first_stage", "diffusion", "classifier", "image_autoencoder"}),
        ("finetune", {"pretrain", "fuse", "finetune"}),
    ):
        result = visdec_lite("train", stage, "--preset", "smoke", "--out", str(tmp_path), *changes)
        assert result.returncode == 0, result.stderr
        assert files <= {path.stem for path in tmp_path.glob("*.safetensors")}
    chosen = preset("smoke", **TINY)
    world = chain.load_world(tmp_path, chosen)
    dataset = chain.ready_for(load_dataset("simulated"), chosen)
    pipe = chain.load_brain(tmp_path, dataset, world, chosen).pipeline(chosen)
    pipe.set_progress_bar_config(disable=True)
    asked = {"voxels": dataset["test"].voxels[:2], "num_samples": 1, "num_inference_steps": 2}
    images = pipe(**asked, generator=torch.Generator().manual_seed(0)).images
    assert images.shape == (2, 1, 32, 32, 3)
    saved = FMRIToImagePipeline.from_pretrained(tmp_path / "pipeline")
    saved.set_progress_bar_config(disable=True)
    np.testing.assert_array_equal(saved(**asked, generator=torch.Generator().manual_seed(0)).images, images)


def claimed() -> tuple[int, int, int]:
    """Top-1 of the shipped stages on unseen categories and its interval, per cent, as README.md has it."""
    row = r"\| this method, unseen categories, 35 repeats averaged \| (\d+) % \[(\d+), (\d+)\]"
    ((score, low, high),) = re.findall(row, (ROOT / "README.md").read_text(encoding="utf-8"))
    return int(score), int(low), int(high)


@pytest.mark.slow
def test_shipped_stages_decode_far_above_chance_and_ridge(tmp_path):
    """The claims of README.md, on the shipped weights."""
    scores = run_demo(DemoSettings(), tmp_path, progress=False)["methods"]
    ours, ridge, shuffled = scores["visdec"], scores["ridge"], scores["visdec_shuffled"]
    assert ours["n_way_top1"]["ci95"][0] > 10 / 50
    found = 100 * np.array([ours["n_way_top1"]["value"], *ours["n_way_top1"]["ci95"]])
    assert np.abs(found - claimed()).max() <= 4, "other machines round otherwise, not more"
    assert ours["n_way_top1"]["over"] == "10 categories"
    assert ours["n_way_top1"]["value"] > ridge["n_way_top1"]["value"]
    assert ours["pairwise_pcc"]["value"] > 0.8
    assert shuffled["pairwise_pcc"]["ci95"][0] < 0.5 < shuffled["pairwise_pcc"]["ci95"][1]


def test_model_card_and_lessons_claim_what_the_readme_claims():
    score, low, high = claimed()
    card = (ROOT / "visdec_lite/assets/simulated/model_card.md").read_text(encoding="utf-8")
    (measured,) = re.findall(r"unseen categories, 35 repeats averaged: (0\.\d+) \[(0\.\d+), (0\.\d+)\]", card)
    assert [round(100 * float(number)) for number in measured] == [score, low, high]
    for lesson, words in {
        "00_start_here": (
            f"is named right in {score} % of its guesses (95 % interval {low} to {high} %)",
            f"A score of {score} % is {score / 2:.0f} times",
            f'({score}, \\"this decoder, measured\\"',
            f"this decoder at {score} per cent",
            f"and {score} % is not",
        ),
        "07_is_it_real": (f"| our samples | **{score} %** [{low}, {high}] |",),
        "08_real_brains": (f"names {score} % of unseen categories",),
    }.items():
        text = (ROOT / "notebooks" / f"{lesson}.ipynb").read_text(encoding="utf-8")
        missing = [word for word in words if word not in text]
        assert not missing, f"lesson {lesson[:2]} has none of {missing}: its numbers are of other weights"


def test_digits69_runs_the_whole_chain_on_a_human_brain(shared_data, tmp_path):
    path = shared_data / "digits69" / "digits69_dev.mat"
    settings = DemoSettings("digits69", str(path), "smoke", overrides=TINY)
    metrics = run_demo(settings, tmp_path, progress=False)
    assert metrics["simulated"] is False and metrics["n_test"] == 10 and metrics["repeats_averaged"] == 1
    assert set(metrics["methods"]) == {"visdec", "visdec_mean", "ridge", "ridge_latents", "visdec_shuffled"}
    assert "simulated data" not in (tmp_path / "report.html").read_text().lower()
    assert demo.versions()["torch"]
