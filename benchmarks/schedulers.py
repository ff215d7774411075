"""Every scheduler that diffusers has, on the shipped pipeline: `python benchmarks/schedulers.py`.

A row a scheduler, made as a user makes it, `Scheduler.from_config(pipe.scheduler.config)`: correlation of its pictures
with what was seen (PCC) and seconds, or the sentence with which it is refused.
"""

from __future__ import annotations

import argparse
import time

import diffusers
import torch

from visdec_lite import chain
from visdec_lite.datasets import load_dataset
from visdec_lite.metrics import pcc
from visdec_lite.presets import preset

MORE_STEPS = {"PNDMScheduler": 50}  # PLMS goes along a curve through its last four steps, and is off in few


def main(stimuli: int, samples: int, steps: int) -> None:
    diffusers.utils.logging.set_verbosity_error()  # it warns of what a scheduler does not ask for
    chosen, folder = preset("class"), chain.shipped("simulated")
    dataset = chain.ready_for(load_dataset("simulated"), chosen)
    pipe = chain.load_brain(folder, dataset, chain.load_world(folder, chosen), chosen).pipeline(chosen)
    pipe.set_progress_bar_config(disable=True)
    test, config, guidance = dataset["test"].average_repeats(), pipe.scheduler.config, chosen.sampling.guidance_scale
    print(f"SIMULATED data, subject 1: {stimuli} stimuli x {samples} pictures, guidance {guidance}")
    print(f"diffusers {diffusers.__version__}, {torch.get_num_threads()} threads")
    print("| scheduler | steps | PCC | seconds |\n|---|---|---|---|")
    for name in sorted(name for name in dir(diffusers) if name.endswith("Scheduler")):
        try:
            scheduler = getattr(diffusers, name).from_config(config)
        except Exception as error:  # diffusers' own words, for schedulers of models far from this one
            print(f"| {name} | | diffusers: {str(error).strip().splitlines()[0]} | |", flush=True)
            continue
        for number in sorted({steps, max(steps, MORE_STEPS.get(name, steps))}):
            pipe.scheduler, started = scheduler, time.perf_counter()
            try:
                images = pipe(test.voxels[:stimuli], samples, number, guidance, torch.Generator().manual_seed(0)).images
            except ValueError as error:
                print(f"| {name} | | refused: {str(error).split(';')[0]} | |", flush=True)
                break
            score, seconds = pcc(images, test.images[:stimuli]).mean(), time.perf_counter() - started
            print(f"| {name} | {number} | {score:.3f} | {seconds:.1f} |", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--stimuli", type=int, default=10)
    parser.add_argument("--samples", type=int, default=2, help="pictures a stimulus")
    parser.add_argument("--steps", type=int, default=20)
    arguments = parser.parse_args()
    main(arguments.stimuli, arguments.samples, arguments.steps)
