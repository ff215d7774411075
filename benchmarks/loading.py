"""What it costs to verify a saved pipeline while loading it: `python benchmarks/loading.py`.

The shipped pipeline, saved; then fresh processes load it in turn with its manifest and without. Median seconds of
`from_pretrained`, the first in its process, and of the whole process; and the processor seconds of the sums alone.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from visdec_lite import reconstruct
from visdec_lite.manifest import MANIFEST, verify

LOAD = """
import sys, time
from visdec_lite.pipeline import FMRIToImagePipeline
started = time.perf_counter()
FMRIToImagePipeline.from_pretrained(sys.argv[1])
print(time.perf_counter() - started)
"""


def main(repeats: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        verified, plain = Path(folder) / "verified", Path(folder) / "plain"
        reconstruct.shipped_pipeline().save_pretrained(verified)
        shutil.copytree(verified, plain)
        (plain / MANIFEST).unlink()
        loads: dict[Path, list[float]] = {verified: [], plain: []}
        whole: dict[Path, list[float]] = {verified: [], plain: []}
        for _ in range(repeats):
            for path in loads:
                started = time.perf_counter()
                command = [sys.executable, "-c", LOAD, str(path)]
                loads[path].append(float(subprocess.run(command, capture_output=True, check=True).stdout))
                whole[path].append(time.perf_counter() - started)
        started = time.thread_time()
        verify(verified)
        sums = time.thread_time() - started
        size = sum(path.stat().st_size for path in verified.rglob("*") if path.is_file())
    print(f"{size / 1e6:.0f} MB; sums alone: {sums:.3f} s of one processor")
    for name, seconds in (("from_pretrained", loads), ("whole process", whole)):
        with_sums, without = (statistics.median(seconds[path]) for path in (verified, plain))
        print(f"{name}: {without:.3f} s, verified {with_sums:.3f} s ({100 * (with_sums / without - 1):+.1f} %)")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=15)
    main(parser.parse_args().repeats)
