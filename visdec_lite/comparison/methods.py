"""What is compared: every method by name, with its paper, its place in the comparison and how it is trained.

In: names, as on the command line. Out: `Method`s. The comparators are those of Sun et al., NeurIPS 2023 (arXiv
2305.17214), from `baselines`, but for DC-LDM, which is our own stages without what is new in them; the ablations are
the rows of its Table 2, the terms of phase 1 one by one, and the phases left out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any

from visdec_lite.baselines import floors
from visdec_lite.baselines.icgan import ICGAN, ICGANConfig
from visdec_lite.baselines.ridge import RidgeConfig, RidgeToImages
from visdec_lite.baselines.ssae import SSAEConfig
from visdec_lite.comparison.fitting import (
    Fitted,
    Job,
    baseline_method,
    ceiling_method,
    diffusion_method,
    first_stage,
    label_told,
    prior_samples,
    ss_ae,
)
from visdec_lite.demo import ridge_to_latents


@dataclass(frozen=True)
class Method:
    """One row of the comparison.

    Attributes:
        name, title, paper: for the command line, for figures, and where it comes from.
        group: ours | comparator | floor | ceiling | ablation.
        fit: None for a method derived from another one's pictures.
        overrides: what it changes of the preset, whatever the user changes.
        numbers: its own config beside the preset, whose defaults shape it too.
        derived_from: the method whose samples it averages.
        seeded: whether training depends on the seed; if not, one cell a brain, painted once, does for all seeds.
        reads_scans: whether the pictures depend on the scans.
    """

    name: str
    title: str
    paper: str
    group: str
    fit: Callable[[Job], Fitted] | None = None
    overrides: Mapping[str, Any] = field(default_factory=dict)
    numbers: Any = None
    derived_from: str | None = None
    seeded: bool = True
    reads_scans: bool = True


SUN = "Sun et al., NeurIPS 2023, arXiv 2305.17214"
MSE_ALONE = {"autoencoder.weight_cross": 0.0, "autoencoder.weight_self": 0.0}

# name -> title, (g_F, g_I, fMRI mask, image mask), and what the paper's Table 2 found (50-way top-1 %, GOD subject 3)
TABLE_2: dict[str, tuple[str, tuple[float, float, float, float], str]] = {
    "phase2_image_only": ("phase 2: images alone", (0.0, 1.0, 0.75, 0.75), "12.52"),
    "phase2_fmri_only": ("phase 2: fMRI alone", (1.0, 0.0, 0.75, 0.75), "16.64"),
    "phase2_equal": ("phase 2: equal weights", (1.0, 1.0, 0.75, 0.5), "17.44 to 21.04"),
    "phase2_less_hidden": ("phase 2: less hidden", (1.0, 1.0, 0.5, 0.25), "19.00"),
    "phase2_more_hidden": ("phase 2: images lead, more hidden", (0.25, 1.5, 0.75, 0.75), "20.80"),
    "phase2_paper": ("phase 2: the paper's best", (0.25, 1.5, 0.75, 0.5), "25.08"),
}
FUSION_FIELDS = ("weight_fmri", "weight_image", "fmri_mask_ratio", "image_mask_ratio")

# name -> which terms of phase 1 are on: reconstruction, cross-contrast, self-contrast
PHASE_1: dict[str, tuple[bool, bool, bool]] = {
    "phase1_mse_cross": (True, True, False),
    "phase1_mse_self": (True, False, True),
    "phase1_mse": (True, False, False),
    "phase1_cross_self": (False, True, True),
    "phase1_cross": (False, True, False),
    "phase1_self": (False, False, True),
}
PHASE_1_FIELDS = ("weight_reconstruction", "weight_cross", "weight_self")
PHASES = {"no_phase1": ("pretrain",), "no_phase2": ("fuse",), "no_phases": ("pretrain", "fuse")}


def _ablations() -> list[Method]:
    """Those with a phase 1 of their own first: the others find theirs trained, and need not wait for each other."""
    rows = []
    words = ("MSE", "cross", "self")
    for name, on in PHASE_1.items():
        title = "phase 1: " + " + ".join(word for word, there in zip(words, on, strict=True) if there)
        off = {f"autoencoder.{field}": 0.0 for field, there in zip(PHASE_1_FIELDS, on, strict=True) if not there}
        rows.append(Method(name, title, SUN, "ablation", diffusion_method(), off))
    titles = {"no_phase1": "without phase 1", "no_phase2": "without phase 2", "no_phases": "without either phase"}
    rows += [Method(name, titles[name], SUN, "ablation", diffusion_method(skip)) for name, skip in PHASES.items()]
    for name, (title, numbers, _) in TABLE_2.items():
        changes = {f"fusion.{field}": value for field, value in zip(FUSION_FIELDS, numbers, strict=True)}
        rows.append(Method(name, title, f"{SUN}, Table 2", "ablation", diffusion_method(), changes))
    return rows


_ALL = (
    Method("visdec", "visdec", SUN, "ours", diffusion_method()),
    Method("visdec_mean", "visdec, mean of samples", SUN, "ours", derived_from="visdec"),
    Method("dc_ldm", "DC-LDM", "MinD-Vis: Chen et al., CVPR 2023, arXiv 2211.06956", "comparator",
           diffusion_method(skip=("fuse",)), MSE_ALONE),
    Method("ic_gan", "IC-GAN", "Ozcelik et al., IJCNN 2022, arXiv 2202.12692", "comparator",
           baseline_method(lambda job: ICGAN(job.instance_gan())), numbers=ICGANConfig()),
    Method("ss_ae", "SS-AE", "Beliy et al., NeurIPS 2019, arXiv 1907.02431", "comparator", baseline_method(ss_ae),
           numbers=SSAEConfig()),
    Method("ridge", "ridge", "Hoerl and Kennard 1970: to pixels", "comparator",
           baseline_method(lambda job: RidgeToImages()), numbers=RidgeConfig(), seeded=False),
    Method("ridge_latents", "ridge latents", "Hoerl and Kennard 1970: to the first stage's latents", "comparator",
           baseline_method(lambda job: ridge_to_latents(job.prior())), numbers=RidgeConfig(), seeded=False),
    Method("mean_image", "mean picture", "floor: reads no scan", "floor",
           baseline_method(lambda job: floors.MeanImage()), seeded=False, reads_scans=False),
    Method("nearest_neighbour", "nearest neighbour", "floor: looks up training scans", "floor",
           baseline_method(lambda job: floors.NearestTrainingNeighbour()), seeded=False),
    Method("prior_samples", "prior, untold", "floor: reads no scan", "floor",
           baseline_method(prior_samples), seeded=False, reads_scans=False),
    Method("first_stage", "first stage's copy", "ceiling: sees the true picture", "ceiling",
           ceiling_method(first_stage),
           seeded=False, reads_scans=False),
    Method("label_told", "prior, told the label", "ceiling: told the true label", "ceiling",
           ceiling_method(label_told), seeded=False, reads_scans=False),
    *_ablations(),
)  # fmt: skip
METHODS: dict[str, Method] = {method.name: method for method in _ALL}
SETS = {
    "paper": tuple(name for name, method in METHODS.items() if method.group != "ablation"),
    "ablation": ("visdec", *(name for name, method in METHODS.items() if method.group == "ablation")),
}


def choose_methods(words: Sequence[str]) -> list[Method]:
    """Methods by their names and by the names of `SETS`, in the order of the registry.

    Raises:
        ValueError: nothing has that name; the nearest is named.
    """
    names: set[str] = set()
    for word in words:
        if word not in METHODS and word not in SETS:
            close = get_close_matches(word.lower().replace("-", "_"), [*METHODS, *SETS], n=1)
            hint = f"; did you mean {close[0]!r}?" if close else "."
            raise ValueError(
                f"no method is called {word!r}{hint} There are {', '.join(METHODS)}; and the sets {', '.join(SETS)}"
            )
        names.update(SETS.get(word, (word,)))
    if not names:
        raise ValueError(f"0 methods to compare; name some of {', '.join(METHODS)}, or {' or '.join(SETS)}")
    return [method for name, method in METHODS.items() if name in names]


def trained_for(methods: Sequence[Method]) -> list[Method]:
    """The methods that have to be trained for these: a derived one needs the one it is derived from."""
    needed = {method.derived_from or method.name for method in methods}
    return [method for name, method in METHODS.items() if name in needed]
