"""How long the embedded data set takes: built anew, then read from the cache. Meant to stay below 15 s on a laptop.

python benchmarks/simulated_build.py [field=value ...]
"""

from __future__ import annotations

import sys
import tempfile
import time

from visdec_lite.datasets.simulated import SimulationConfig, load


def main(arguments: list[str]) -> None:
    config = SimulationConfig(**{name: int(value) for name, value in (a.split("=") for a in arguments)})
    with tempfile.TemporaryDirectory() as cache:
        for what in ("built", "read from the cache"):
            started = time.perf_counter()
            dataset = load(config, cache=cache)
            print(f"{what}: {time.perf_counter() - started:.1f} s")
    rows = ", ".join(f"{len(split)} {name}" for name, split in dataset.splits.items())
    print(f"{dataset.num_voxels} voxels; trials: {rows}")


if __name__ == "__main__":
    main(sys.argv[1:])
