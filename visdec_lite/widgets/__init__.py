"""Touch it: five widgets for a notebook or a Voilà page, each of them one line.

    MaskExplorer(autoencoder, dataset)          phase 1: hide patches, see what comes back
    ContrastExplorer(autoencoder, dataset)      the contrast: similarities, loss, gradient
    FusionExplorer(fusion, dataset)             phase 2: who looks at whom, on the picture and on the cortex
    DiffusionExplorer(diffusion, dataset)       noise in, noise out: the estimate of the picture at every step
    BrainToImageDemo(pipe, dataset)             the whole chain; BrainToImageDemo.simulated() brings everything along

Each is a frozen `State` of knobs, a pure `compute(state)` that gives arrays, pure drawings of these, and a thin face of
ipywidgets, which is built when the widget is shown; whatever came out last is left behind as a picture with alt text.

    knobs       the knobs of a state, with their ranges
    worker      a thread that works on the newest request and forgets the ones in between
    base        `Explorer`: state -> result -> pictures, errors in words
    face        controls, pictures, progress: the only module that needs ipywidgets
    drawing     pictures side by side, the brain from three sides
    scans       voxels as a model wants them, and where they lie
    walk        a denoising walk that can be watched and stopped
"""

from __future__ import annotations

from importlib import import_module

_MODULES = {
    "MaskExplorer": "mask",
    "ContrastExplorer": "contrast",
    "FusionExplorer": "fusion",
    "DiffusionExplorer": "diffusion",
    "BrainToImageDemo": "brain",
}

__all__ = ["BrainToImageDemo", "ContrastExplorer", "DiffusionExplorer", "FusionExplorer", "MaskExplorer"]


def __getattr__(name: str) -> object:
    """Fetch a widget from its module on first use, so that this import brings neither torch nor ipywidgets."""
    if name not in _MODULES:
        raise AttributeError(f"module 'visdec_lite.widgets' has no attribute {name!r}; it has {', '.join(__all__)}")
    return getattr(import_module(f"visdec_lite.widgets.{_MODULES[name]}"), name)
