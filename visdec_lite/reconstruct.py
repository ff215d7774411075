"""A trained pipeline on files: voxels in, pictures out; pictures in, scores out.

    paint_file   voxels (.npy, .npz) and a pipeline's folder -> reconstructions.npz, pictures.png
    score_file   reconstructions (.npy, .npz) and what was seen -> scores with chance and interval

In: arrays on disk, never unpickled. Out: files that are whole or absent.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from einops import rearrange, repeat

from visdec_lite import chain
from visdec_lite.datasets import load_dataset
from visdec_lite.datasets.recordings import reading
from visdec_lite.files import atomic_path, check_writable
from visdec_lite.metrics import Score, evaluate
from visdec_lite.pipeline import FMRIToImagePipeline
from visdec_lite.presets import SamplingConfig, preset_for
from visdec_lite.processes import locked

ZOOM_TO = 128  # pixels that a painted picture has at least on the sheet


def shipped_pipeline() -> FMRIToImagePipeline:
    """That of simulated subject 1."""
    chosen, folder = preset_for("simulated", "class"), chain.shipped("simulated")
    dataset = chain.ready_for(load_dataset("simulated"), chosen)
    return chain.load_brain(folder, dataset, chain.load_world(folder, chosen), chosen).pipeline(chosen)


def shipped_referee(dataset: str) -> Callable[[np.ndarray], Any]:
    """The classifier of a data set's categories that comes with the package.

    Raises:
        ValueError: there is none for it.
    """
    if dataset not in chain.CATEGORIES:
        raise ValueError(f"no referee for {dataset!r}; there are {', '.join(chain.CATEGORIES)}, or none")
    chosen = preset_for(dataset, "class").with_categories(len(chain.CATEGORIES[dataset]))
    return chain.load_world(chain.shipped(dataset), chosen).classifier.classify


def paint_file(
    voxels: Path, out: Path, pipe: FMRIToImagePipeline, sampling: SamplingConfig, seed: int, *, progress: bool = True
) -> Path:
    """Pictures for the scans in a file.

    Args:
        voxels: z-scored as the pipeline's training data, (n, V): .npy, or .npz with an array of that name.
        out: folder; gets reconstructions.npz (`images`: uint8 (n, samples, h, w, 3), `seed`, and how they were
            sampled) and pictures.png, a row a scan. What stands in its way is said before anything is sampled.
        sampling: its numbers; the sampler is the pipeline's own.

    Returns:
        The path of reconstructions.npz.

    Raises:
        FileNotFoundError, ValueError: no such file, no array in it that fits the pipeline; `out` is in use.
        CannotWrite: `out` cannot take the files.
    """
    scans = read_array(voxels, "voxels")
    if scans.dtype.kind != "f":
        raise ValueError(f"{voxels} holds {scans.dtype} numbers, expected z-scored floats; see preprocessing.ZScore")
    numbers = (sampling.num_samples, sampling.num_inference_steps, 1, sampling.guidance_scale)
    count = len(pipe.check_inputs(scans, *numbers)) * sampling.num_samples
    size = pipe.unet.config.sample_size * 2 ** (len(pipe.vqvae.config.block_out_channels) - 1)
    result, sheet = out / "reconstructions.npz", out / "pictures.png"
    with locked(out):
        for path in (result, sheet):
            check_writable(path, count * size**2 * 3)
        pipe.set_progress_bar_config(disable=not progress, desc="sampling", leave=False)
        images = pipe(
            scans,
            num_samples=sampling.num_samples,
            num_inference_steps=sampling.num_inference_steps,
            guidance_scale=sampling.guidance_scale,
            generator=torch.Generator().manual_seed(seed),
        ).images
        about = {"seed": seed, "scheduler": type(pipe.scheduler).__name__, "guidance_scale": sampling.guidance_scale}
        about |= {"num_samples": sampling.num_samples, "num_inference_steps": sampling.num_inference_steps}
        with atomic_path(result) as temporary, open(temporary, "wb") as file:
            np.savez_compressed(file, images=images, **about)
        with atomic_path(sheet) as temporary:
            _sheet(images).save(temporary, format="PNG")
    return result


def score_file(
    reconstructions: Path,
    truth: Path,
    classify: Callable[[np.ndarray], Any] | None,
    seed: int,
    categories: Path | None = None,
) -> dict[str, Score]:
    """Scores of reconstructions, see `metrics.evaluate`.

    Args:
        reconstructions: uint8 (n, samples, h, w, 3) or (n, h, w, 3): .npy, or .npz with an array `images`.
        truth: what was seen, uint8 (n, h, w, 3), in the same order.
        classify: a referee; None leaves n-way accuracy out.
        seed: of the bootstrap.
        categories: of the stimuli, (n,): .npy, or .npz with an array `labels`, where they are new to the decoder.
    """
    painted, seen = read_array(reconstructions, "images"), read_array(truth, "images")
    kinds = None if categories is None else read_array(categories, "labels")
    return evaluate(painted, seen, classify=classify, generator=np.random.default_rng(seed), categories=kinds)


def read_array(path: Path, name: str) -> np.ndarray:
    """The array of a .npy file, or the one called `name` of a .npz file; nothing is unpickled.

    Raises:
        FileNotFoundError: no such file.
        ValueError: no such array, a file of another kind, cut or damaged, or one that holds objects.
    """
    if not path.is_file():
        there = "is a folder" if path.is_dir() else "is not there"
        raise FileNotFoundError(f"{path} {there}; give a .npy file, or a .npz file with an array {name!r}")
    with reading(path, "a .npy or .npz file of plain numbers", "save it again"):
        with path.open("rb") as file:
            start = file.read(6)
        if not start.startswith((b"\x93NUMPY", b"PK")):
            raise ValueError(f"it starts with {start!r}")
        found = np.load(path, allow_pickle=False)
        if not isinstance(found, np.ndarray):
            with found:
                names = found.files
                found = found[name] if name in names else None
    if found is None:
        there = ", ".join(names) or "nothing"
        raise ValueError(f"{path} holds {there}, expected an array {name!r}; or give a .npy file")
    return found


def _sheet(images: np.ndarray) -> Any:
    """A row a scan, a column a sample, white lines between, pixels enlarged without smoothing."""
    from PIL import Image

    zoom = max(1, -(-ZOOM_TO // images.shape[2]))
    large = repeat(images, "n s h w c -> n s (h y) (w x) c", y=zoom, x=zoom)
    framed = np.pad(large, ((0, 0), (0, 0), (2, 2), (2, 2), (0, 0)), constant_values=255)
    return Image.fromarray(rearrange(framed, "n s h w c -> (n h) (s w) c"))
