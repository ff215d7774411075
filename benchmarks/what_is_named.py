"""What a comparison's pictures show: is it the colour that was read, the shape, or a category known from training?

    python benchmarks/what_is_named.py runs/compare

Reads the pictures that `visdec-lite compare` kept for the simulated data set and lets the same referee name them. Each
share is over seeds, stimuli and samples, with its 95 % interval: over subjects (where there are several) and the ten
unseen categories, or stimuli of seen ones, as in the comparison. Chance is that of a fair
guess: of 5 colours, of 10 shapes, of the 40 categories of 50 that have training scans.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from visdec_lite import chain
from visdec_lite.classifier import CategoryClassifier
from visdec_lite.comparison.cells import kept_pictures
from visdec_lite.comparison.methods import METHODS
from visdec_lite.comparison.scores import Pictures
from visdec_lite.comparison.tables import interval_over
from visdec_lite.datasets import load_dataset, stimuli
from visdec_lite.presets import preset

COLOURS, SHAPES = (np.array([name.split()[i] for name in stimuli.CATEGORY_NAMES]) for i in (0, 1))


def categories(referee: CategoryClassifier, pictures: Pictures) -> np.ndarray:
    """Of the stimuli, shape (n,): the referee is right about 100 % of rendered pictures."""
    return referee.classify(pictures.truth).argmax(1)


def named(referee: CategoryClassifier, pictures: Pictures, trained: np.ndarray) -> np.ndarray:
    """Right colour, right shape, a trained category: shares over samples, one a stimulus, shape (3, n)."""
    n, samples = pictures.images.shape[:2]
    told = referee.classify(pictures.images.reshape(-1, *pictures.images.shape[2:])).argmax(1).reshape(n, samples)
    true = categories(referee, pictures)[:, None]
    right = COLOURS[told] == COLOURS[true], SHAPES[told] == SHAPES[true], np.isin(told, trained)
    return np.stack([share.mean(axis=1) for share in right])


def share(values: np.ndarray, clusters: np.ndarray) -> str:
    """Mean and interval of (subjects, stimuli) in per cent, over `clusters` of the same shape."""
    low, high = interval_over(values, clusters, bounds=(0.0, 1.0))
    return f"{values.mean():.0%} [{low:.0%}, {high:.0%}]"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="of a comparison on the simulated data set")
    folder = parser.parse_args().folder
    referee = chain.load_world(chain.shipped("simulated"), preset("class")).classifier
    trained = np.unique(load_dataset("simulated")["train"].labels)
    print("SIMULATED data. Chance: colour 20 %, shape 10 %, a trained category 80 %.\n")
    print("| method | scans | colour right | shape right | named as a trained category |\n|---|---|---|---|---|")
    for method in METHODS:
        cells: dict[str, list[dict[str, Pictures]]] = {}
        for path in sorted(folder.glob(f"cells/{method}/subject*-seed*/pictures.npz")):
            cells.setdefault(path.parent.name.split("-")[0], []).append(kept_pictures(path))
        for condition, words in (("test", "unseen categories"), ("test_seen", "seen categories")):
            subjects = [
                np.mean([named(referee, seed[condition], trained) for seed in seeds], axis=0)
                for seeds in cells.values()
                if all(condition in seed for seed in seeds)
            ]
            if subjects:
                values = np.stack(subjects, axis=1)
                clusters = np.arange(values[0].size).reshape(values[0].shape)  # every subject saw pictures of its own
                if condition == "test":
                    clusters = np.stack([categories(referee, seeds[0][condition]) for seeds in cells.values()])
                told = " | ".join(share(of_all, clusters) for of_all in values)
                print(f"| {METHODS[method].title} | {words} | {told} |")


if __name__ == "__main__":
    main()
