"""digits69 by cross-validation: every trial is reconstructed by models that never saw it or its picture.

    python benchmarks/digits69_folds.py --path digit69_28x28.mat --out runs/digits69-folds [--folds 10] [--only 0 1 ...]

Each fold trains phase 1, phase 2 and fine-tuning on the shipped digits prior, and fits ridge on the same rows with its
penalty chosen on the same validation rows. All test pictures together are then scored once by the same code:

    visdec         each sample scored, scores averaged      visdec_mean    the mean of the samples scored
    ridge          ridge to pixels                          mean_picture   the training mean, whatever the scan
    visdec_shuffled                                         visdec's samples against other trials' pictures

Writes folds.json and folds.png; a fold that is done is not done again.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from visdec_lite import chain, plotting
from visdec_lite.datasets import digits69
from visdec_lite.demo import Painted, fit_rivals, paint, score_all, write_json
from visdec_lite.files import atomic_path
from visdec_lite.presets import Preset, preset_for


def one_fold(
    path: Path, fold: tuple[int, int], chosen: Preset, seed: int, folder: Path, part: str
) -> dict[str, np.ndarray]:
    """Truth and reconstructions of one fold's `part` ("test"; "val" to choose settings by)."""
    done = folder / f"{part}.npz"
    if done.exists():
        return dict(np.load(done))
    dataset = chain.ready_for(digits69.load(path, fold=fold), chosen)
    world = chain.load_world(chain.shipped("digits69"), chosen)  # anew: fine-tuning changes it
    brain = chain.train_brain(dataset, world, chosen, seed, chain.Run(folder))
    rivals = fit_rivals(dataset, world)
    scans = dataset[part]
    painted = paint(scans, brain.pipeline(chosen), rivals, chosen, seed)
    mean = np.rint(dataset["train"].images.mean(axis=0)).astype(np.uint8)
    painted["mean_picture"] = Painted(np.broadcast_to(mean, (len(scans), 1, *mean.shape)), scans.images)
    result = {"truth": scans.images, **{name: found.images for name, found in painted.items()}}
    with atomic_path(done) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, **result)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--path", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--folds", type=int, default=10)
    parser.add_argument("--only", type=int, nargs="*", help="folds to run now")
    parser.add_argument("--part", choices=("test", "val"), default="test")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--set", nargs="*", default=[], help="preset fields, name=value")
    options = parser.parse_args()
    chosen = preset_for("digits69", "class", **dict(word.split("=", 1) for word in options.set))
    chosen = chosen.with_seed(options.seed).with_categories(len(digits69.CATEGORY_NAMES))
    parts = [
        one_fold(options.path, (i, options.folds), chosen, options.seed, options.out / f"fold{i}", options.part)
        for i in (range(options.folds) if options.only is None else options.only)
    ]
    together = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    truth = together.pop("truth")
    painted = {name: Painted(images, truth) for name, images in together.items()}
    world = chain.load_world(chain.shipped("digits69"), chosen)
    scores = score_all(painted, world, chosen, options.seed)
    table = {method: {m: score.as_dict() for m, score in found.items()} for method, found in scores.items()}
    write_json(
        options.out / "folds.json", {"part": options.part, "n": len(truth), "set": options.set, "methods": table}
    )
    shown = {name: painted[name].images for name in ("visdec", "visdec_mean", "ridge")}
    figure = plotting.gallery(truth, shown, simulated=False, title="digits69, cross-validated")
    plotting.save_figure(figure, options.out / "folds.png")
    for method, found in table.items():
        words = (f"{m} {found[m]['value']:.3f} [{found[m]['ci95'][0]:.3f}, {found[m]['ci95'][1]:.3f}]" for m in found)
        print(f"{method:16s}", "  ".join(words))


if __name__ == "__main__":
    main()
