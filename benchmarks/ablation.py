"""What phase 1 and phase 2 are worth: the same fine-tuning from four starts.

    python benchmarks/ablation.py --out runs/ablation [--set finetuning.steps=1200 ...]

full | without phase 1 | without phase 2 | without either. Same data, seed, fine-tuning steps and sampling; judged on
validation scans (test stays closed), single trials. Writes ablation.json; each run resumes.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import torch

from visdec_lite import chain
from visdec_lite.datasets import load_dataset
from visdec_lite.files import write_json
from visdec_lite.metrics import evaluate
from visdec_lite.presets import preset

STARTS = {"full": (), "without phase 1": ("pretrain",), "without phase 2": ("fuse",), "neither": ("pretrain", "fuse")}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--scans", type=int, default=100, help="validation scans painted")
    parser.add_argument("--set", nargs="*", default=[], help="preset fields, name=value")
    options = parser.parse_args()
    chosen = preset("class", **dict(word.split("=", 1) for word in options.set)).with_seed(options.seed)
    dataset = chain.ready_for(load_dataset("simulated"), chosen)
    val = dataset["val"].rows(np.arange(min(options.scans, len(dataset["val"]))))
    results = {}
    for name, skip in STARTS.items():
        world = chain.load_world(chain.shipped("simulated"), chosen)  # anew: fine-tuning changes it
        run = chain.Run(options.out / name.replace(" ", "_"))
        pipe = chain.train_brain(dataset, world, chosen, options.seed, run, skip=skip).pipeline(chosen)
        painted = pipe(
            val.voxels,
            num_samples=2,
            num_inference_steps=chosen.sampling.num_inference_steps,
            guidance_scale=chosen.sampling.guidance_scale,
            generator=torch.Generator().manual_seed(options.seed),
        ).images
        scores = evaluate(
            painted, val.images, classify=world.classifier.classify, generator=np.random.default_rng(options.seed)
        )
        best = min(row["loss"] for row in run.histories["finetune"] if row["split"] == "val")
        results[name] = {"validation_loss": best, **{metric: score.as_dict() for metric, score in scores.items()}}
        write_json(options.out / "ablation.json", results)
    print(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
