"""Does memory grow with the pool? One epoch of pre-training from a small and a large pool, in three ways.

python benchmarks/streaming.py [MEGABYTES ...]          (Linux; default: 50 and 400)

Each way has a process to itself. Growth is counted from after a first training of 60 steps on other rows, which leaves
the allocator as large as it gets. `RSS` is all resident memory at its highest, with the pages of mapped files that the
kernel may take back; `RssAnon`, sampled every 5 ms, is what the process cannot give back.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch

from visdec_lite import stages
from visdec_lite.datasets.shards import Shards, write_shards
from visdec_lite.masked_autoencoder import MaskedAutoencoder, MaskedAutoencoderConfig
from visdec_lite.training import Rows, TrainingConfig

VOXELS, BATCH = 1600, 250
WAYS = {
    "shards": lambda pool: pool,
    "maps kept open": lambda pool: np.load(next(pool.folder.glob("shard-*.npy")), mmap_mode="r"),
    "array": lambda pool: pool[:],
}


def main(megabytes: list[int]) -> None:
    for size in megabytes:
        rows = size * 1_000_000 // (4 * VOXELS)
        with tempfile.TemporaryDirectory() as folder:
            for way in WAYS:
                place = Path(folder) / way
                # one shard for the way that maps a file once and for all
                make_pool(place, rows, rows_per_shard=rows if way == "maps kept open" else 1000)
                command = [sys.executable, __file__, "--measure", str(place), way]
                told = subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
                print(f"pool of {size} MB, {rows} rows, {way}: {told}", flush=True)


def make_pool(folder: Path, rows: int, rows_per_shard: int) -> None:
    rng = np.random.default_rng(0)
    sizes = [min(1000, rows - start) for start in range(0, rows, 1000)]
    chunks = (rng.standard_normal((size, VOXELS), dtype=np.float32) for size in sizes)
    names = {"name": "noise", "fingerprint": str(rows), "licence": "none", "citation": "none"}
    write_shards(chunks, folder, rows_per_shard=rows_per_shard, **names)


def measure(folder: str, way: str) -> None:
    train(np.random.default_rng(0).standard_normal((500, VOXELS), dtype=np.float32), steps=60)
    before, growth = status(), {}
    with peaks(growth):
        pool = WAYS[way](Shards(folder))
        started = time.perf_counter()
        train(pool, steps=len(pool) // BATCH)
        seconds = time.perf_counter() - started
    rss, anonymous = growth["VmHWM"] - before["VmRSS"], growth["RssAnon"] - before["RssAnon"]
    print(f"RSS +{rss:.0f} MB, RssAnon +{anonymous:.0f} MB, {1000 * seconds / (len(pool) // BATCH):.0f} ms a step")


def train(voxels: Rows, steps: int) -> None:
    sizes = {"patch_size": 100, "embed_dim": 16, "depth": 1, "num_heads": 2}  # small: memory is measured, not speed
    decoder = {"decoder_embed_dim": 16, "decoder_depth": 1, "decoder_num_heads": 2}
    model = MaskedAutoencoder(MaskedAutoencoderConfig(VOXELS, **sizes, **decoder))
    val = np.zeros((BATCH, VOXELS), dtype=np.float32)
    stages.pretrain(model, voxels, val, TrainingConfig(steps, BATCH, 1e-3), progress=False, device="cpu")


def status() -> dict[str, float]:
    """Resident memory of this process in MB, by the kernel's names."""
    words = Path("/proc/self/status").read_text()
    return {name: int(kilobytes) / 1000 for name, kilobytes in re.findall(r"^(\w+):\s+(\d+) kB$", words, re.MULTILINE)}


@contextmanager
def peaks(highest: dict[str, float]) -> Iterator[None]:
    """Fill `highest` with the largest values of `status` within the block."""
    Path("/proc/self/clear_refs").write_text("5")  # the kernel's own peak, VmHWM, starts anew
    done = threading.Event()

    def watch() -> None:
        while not done.wait(0.005):
            for name, value in status().items():
                highest[name] = max(highest.get(name, 0.0), value)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        done.set()
        watcher.join()
        highest["VmHWM"] = status()["VmHWM"]


if __name__ == "__main__":
    torch.set_num_threads(1)
    if sys.argv[1:2] == ["--measure"]:
        measure(*sys.argv[2:])
    else:
        main([int(size) for size in sys.argv[1:]] or [50, 400])
