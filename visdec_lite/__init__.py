"""From a brain scan to a picture, step by step.

Enters: fMRI voxels recorded while somebody looked at images. Leaves: the images, read out of the voxels.
Follows Sun et al., *Contrast, Attend and Diffuse to Decode High-Resolution Images from Brain Activities*,
NeurIPS 2023, arXiv:2305.17214.

Reading the modules in this order is following one scan to one picture:

    datasets            the sample contract, and loaders that keep to it
    preprocessing       z-scores fitted on train only, ROIs, haemodynamic lag, padding, image ranges
    patches             voxels and images cut into patches, positions, random masks (1 = hidden)
    layers              attention that can be looked at, MLP, transformer block
    masked_autoencoder  phase 1: reconstruct hidden voxels from visible ones
    contrastive         phase 1: cross- and self-contrast of two such reconstructions
    fusion              phase 2: fMRI and image autoencoders attend to each other (training only)
    conditioning        fMRI tokens become context and time-step condition of a UNet
    latent_diffusion    the frozen generator and its loss
    pipeline            fMRI in, images out
    metrics             how good is it, what does chance score; `pixels`, `perceptual`, `statistics`, `diagnostics`
    training, stages    one loop that knows no model; the stages that use it; `optimizers`, by which rule weights learn
    presets             smoke, class, paper: the numbers of every stage
    weights             saving and loading; `manifest`, a folder of them; `published` reads those of other people
    identity, sealed    what a result is of; files that know when they are damaged (`checkpoints`, `weights`, caches)
    fields, devices     what a config may hold, and a run may use, said before the work
    files, processes    whole or absent; one process at a time; `progress`, `own_python`, `kernels`, `validation`
    baselines           what simpler methods reach on the same data
    chain, demo         the stages one after another; the main job, with `plotting` and `report`
    comparison          every method on the same data, with the same code
    reconstruct, cli    on files; on the command line
    downloads, doctor   getting data; what is at hand
    teaching            what the lessons need: checks, solutions, glossary, running them
    widgets             all of it with a hand on the knobs, in a notebook or as a page

Importing the package loads none of these: public names are fetched from their module on first use.
"""

from __future__ import annotations

__version__ = "0.1.0"

# public name -> module that holds it
_PUBLIC = {
    "load_dataset": "datasets",
    "from_arrays": "datasets.arrays",
    "from_nifti": "datasets.nifti",
    "BrainDataset": "datasets.base",
    "Split": "datasets.base",
    "ZScore": "preprocessing",
    "pad_voxels": "preprocessing",
    "MaskedAutoencoder": "masked_autoencoder",
    "MaskedAutoencoderConfig": "masked_autoencoder",
    "info_nce": "contrastive",
    "CrossModalFusion": "fusion",
    "FMRIConditioner": "conditioning",
    "LatentDiffusion": "latent_diffusion",
    "FMRIToImagePipeline": "pipeline",
    "evaluate": "metrics",
    "TrainingConfig": "training",
    "preset": "presets",
}

__all__ = ["__version__", *_PUBLIC]


def __getattr__(name: str) -> object:
    """Fetch a public name from its module on first use (PEP 562), so that the import stays instant."""
    if name not in _PUBLIC:
        raise AttributeError(f"module 'visdec_lite' has no attribute {name!r}; it has {', '.join(__all__)}")
    from importlib import import_module

    value = getattr(import_module(f"visdec_lite.{_PUBLIC[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_PUBLIC})
