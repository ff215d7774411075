"""Kill a training again and again, let it go on, and see whether it ends as if nothing had happened.

    python benchmarks/kill.py --kills 50

Trains all three brain stages of the smoke preset on simulated data (longer ones, with a checkpoint every few steps),
once without an accident, once with SIGKILL at moments drawn at random, most of them while it trains. Prints a line a
kill, with the steps that were lost, and at the end whether every weight is the same bit for bit. Exit status 1 if one
is not.
"""

from __future__ import annotations

import argparse
import csv
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from safetensors.torch import load_file

from visdec_lite.checkpoints import NAME, read_checkpoint

EVERY = 4
STAGES = {"pretrain": "pretraining", "fuse": "fusing", "finetune": "finetuning"}
STEPS = 80


def command(out: Path) -> list[str]:
    words = [sys.executable, "-m", "visdec_lite", "train", "finetune", "--preset", "smoke", "--out", str(out)]
    for stage in STAGES.values():
        words += ["--set", f"{stage}.steps={STEPS}", "--set", f"{stage}.checkpoint_every={EVERY}"]
    return words


def reached(out: Path) -> dict[str, tuple[int, int]]:
    """Stage -> the last step that was logged, and the step of the checkpoint."""
    found = {}
    for stage in STAGES:
        folder = out / "stages" / stage
        if not (folder / "history.csv").exists():
            continue
        with (folder / "history.csv").open() as file:
            steps = [int(row["step"]) for row in csv.DictReader(file) if row["value"]]
        state = read_checkpoint(folder / NAME)
        found[stage] = max(steps, default=0), state["step"] if state else 0
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    options = parser.parse_args()
    chance = random.Random(options.seed)
    with tempfile.TemporaryDirectory() as scratch:
        quiet = Path(scratch) / "quiet"
        started = time.monotonic()
        subprocess.run(command(quiet), check=True, capture_output=True)
        whole = time.monotonic() - started
        print(f"without an accident {whole:.0f} s")
        kills, ended, lost, same = 0, 0, [], True
        while kills < options.kills or not ended:
            out = Path(scratch) / f"killed-{ended}"
            process = subprocess.Popen(command(out), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
            moment = chance.uniform(0.1, 0.8) * whole if kills < options.kills else None
            try:
                _, errors = process.communicate(timeout=moment)
                if process.returncode:
                    print(errors.decode()[-2000:])
                    return 1
                ended, same = ended + 1, same and alike(quiet, out)
                print(f"           run {ended} has ended, {'identical' if same else 'NOT IDENTICAL'}", flush=True)
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGKILL)
                process.communicate()
                kills += 1
                steps = {stage: max(0, last - kept) for stage, (last, kept) in reached(out).items()}
                lost += steps.values()
                print(f"kill {kills:3d} after {moment:5.1f} s   steps lost: {steps or 'none begun'}", flush=True)
        left = [path for number in range(ended) for path in (Path(scratch) / f"killed-{number}").rglob(".*.tmp")]
        print("identical, bit for bit:" if same else "NOT IDENTICAL:", f"{ended} runs, {kills} kills;", end=" ")
        print(f"steps lost at a kill: at most {max(lost, default=0)}, with a checkpoint every {EVERY};", end=" ")
        print(f"files left behind: {len(left)}")
        return int(not same or bool(left))


def alike(one: Path, two: Path) -> bool:
    """Whether every weight of every stage is the same bit for bit."""
    return all(
        torch.equal(weight, load_file(two / f"{stage}.safetensors")[name])
        for stage in STAGES
        for name, weight in load_file(one / f"{stage}.safetensors").items()
    )


if __name__ == "__main__":
    sys.exit(main())
