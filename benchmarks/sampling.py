"""Seconds to paint five pictures for one scan, with the shipped pipeline: `python benchmarks/sampling.py`."""

from __future__ import annotations

import statistics
import time

import torch

from visdec_lite import chain
from visdec_lite.datasets import load_dataset
from visdec_lite.presets import preset


def main(repeats: int = 10) -> None:
    chosen = preset("class")
    dataset = chain.ready_for(load_dataset("simulated"), chosen)
    world = chain.load_world(chain.shipped("simulated"), chosen)
    pipe = chain.load_brain(chain.shipped("simulated"), dataset, world, chosen).pipeline(chosen)
    pipe.set_progress_bar_config(disable=True)
    scan, sampling = dataset["val"].voxels[0], chosen.sampling
    for steps in (10, sampling.num_inference_steps):
        seconds = []
        for _ in range(repeats + 1):
            started = time.perf_counter()
            pipe(scan, sampling.num_samples, steps, sampling.guidance_scale, torch.Generator().manual_seed(0))
            seconds.append(time.perf_counter() - started)
        middle = statistics.median(seconds[1:])  # the first call warms up
        print(f"{sampling.num_samples} pictures, {steps} steps, {torch.get_num_threads()} threads: {middle:.2f} s")


if __name__ == "__main__":
    main()
