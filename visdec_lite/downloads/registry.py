"""What can be downloaded, from where, and how far each file can be trusted.

Enters: a name. Leaves: an `Entry` with its files, licence, citation and page. Only for digits69 a hash is known
here; no other address was opened when this table was written, so those entries are marked `verified_here=False`
and the hash of the first download is what later ones are compared with.

Sources: the pages named with each entry; file numbers of GOD from KamitaniLab/GenericObjectDecoding, figshare
numbers of BOLD5000 from its users' download scripts, both as published on GitHub.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import PurePosixPath
from types import ModuleType
from typing import Any, Literal

from visdec_lite.datasets import bold5000, digits69, god, haxby, hcp, miyawaki

Kind = Literal["http", "nilearn", "page"]


@dataclass(frozen=True)
class File:
    """One file of an entry."""

    path: str  # below the folder of its entry
    urls: tuple[str, ...] = ()  # mirrors: the next is tried when one fails
    sha256: str | None = None  # None: the first download is trusted and recorded
    size: int | None = None  # bytes, where known exactly: another length is refused
    megabytes: float | None = None  # about; None: only the server knows
    subject: int | None = None  # None: belongs to all subjects
    article: int | None = None  # figshare article to ask for the address, size and md5 of `path`
    unpack: bool = False  # an archive: its members are placed in its folder, and it goes

    def __post_init__(self) -> None:
        parts = PurePosixPath(self.path).parts
        if not parts or self.path.startswith("/") or ".." in parts:
            raise ValueError(f"file path is {self.path!r}, expected one that stays below its folder: name or a/name")
        if not self.urls and self.article is None:
            raise ValueError(f"{self.path} has 0 addresses, expected at least one url or a figshare article")


@dataclass(frozen=True)
class Entry:
    """A data set or a set of weights."""

    name: str
    title: str  # one line: what it is
    kind: Kind  # http: fetched here; nilearn: by its fetcher; page: by hand, after a form or a login
    folder: str  # below the data home
    licence: str  # what must be kept to; shown before a first download
    citation: str
    page: str  # where a person can read more, ask, or download by hand
    files: tuple[File, ...] = ()
    megabytes: float | None = None  # of everything, about; None: not known here
    must_accept: bool = False  # nothing is fetched before the licence was accepted once
    verified_here: bool = False  # True: a hash is known of every file
    note: str = ""  # what to do with it, where that is not obvious
    fetcher: str = ""  # of nilearn.datasets
    subjects: tuple[int, ...] = ()  # those that can be asked for one by one

    def __post_init__(self) -> None:
        if self.kind == "nilearn" and not self.fetcher:
            raise ValueError(f"{self.name} is of kind nilearn and names no fetcher; set fetcher='fetch_...'")
        if bool(self.files) != (self.kind == "http"):
            raise ValueError(f"{self.name} is of kind {self.kind} with {len(self.files)} files; only http lists files")
        if self.verified_here and not all(file.sha256 for file in self.files):
            raise ValueError(f"{self.name} is called verified, but not every file has a sha256")

    def chosen(self, subjects: Sequence[int] | None) -> tuple[File, ...]:
        """The files of these subjects, and those that belong to all; None: every file.

        Raises:
            ValueError: a subject that is not there, or subjects asked of what comes in one piece.
        """
        if subjects is None:
            return self.files
        for subject in subjects:
            if not self.subjects:
                raise ValueError(f"{self.name} comes in one piece, not by subject; leave --subject {subject} out")
            if subject not in self.subjects:
                raise ValueError(
                    f"{self.name} has no subject {subject}; it has {self.subjects[0]} to {self.subjects[-1]}"
                )
        return tuple(file for file in self.files if file.subject is None or file.subject in subjects)


def entry(name: str) -> Entry:
    """The entry of that name.

    Raises:
        ValueError: there is none; the message names those there are.
    """
    if name not in REGISTRY:
        close = get_close_matches(name.lower(), REGISTRY, n=1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        raise ValueError(f"nothing to download is called {name!r}; there are {', '.join(REGISTRY)}{hint}")
    return REGISTRY[name]


def _said(dataset: ModuleType) -> dict[str, Any]:
    """What the module of a data set says of it."""
    return {"title": dataset.TITLE, "licence": dataset.LICENCE, "citation": dataset.CITATION}


def _figshare(number: int) -> tuple[str, ...]:
    return (f"https://ndownloader.figshare.com/files/{number}", f"https://figshare.com/ndownloader/files/{number}")


_DGMM = "286503c79b010fd285065da7092ca43f873c1f58"  # the commit that added the file
_MIND_VIS = (
    "Chen, Z., Qing, J., Xiang, T., Yue, W. L., & Zhou, J. H. (2023). Seeing beyond the brain: conditional diffusion "
    "model with sparse masked modeling for vision decoding. CVPR 2023."
)

_ENTRIES = (
    Entry(
        name="digits69",
        kind="http",
        folder="digits69",
        **_said(digits69),
        page="https://github.com/ChangdeDu/DGMM",
        megabytes=digits69.MEGABYTES,
        must_accept=True,
        verified_here=True,
        files=(
            File(
                path=digits69.FILE,
                urls=(
                    f"https://raw.githubusercontent.com/ChangdeDu/DGMM/{_DGMM}/{digits69.FILE}",
                    f"https://github.com/ChangdeDu/DGMM/raw/master/{digits69.FILE}",
                    f"https://cdn.jsdelivr.net/gh/ChangdeDu/DGMM@{_DGMM}/{digits69.FILE}",
                ),
                sha256=digits69.SHA256,
                megabytes=digits69.MEGABYTES,
            ),
        ),
    ),
    Entry(
        name="god",
        kind="http",
        folder="god",
        **_said(god),
        page="https://figshare.com/articles/Generic_Object_Decoding/7387130",
        megabytes=5 * god.MEGABYTES,
        note="fMRI only; the pictures are god-images",
        subjects=(1, 2, 3, 4, 5),
        files=tuple(
            File(path=f"Subject{subject}.h5", urls=_figshare(number), megabytes=god.MEGABYTES, subject=subject)
            for subject, number in enumerate((24080120, 24080123, 24080126, 24080129, 24080132), start=1)
        ),
    ),
    Entry(
        name="god-features",
        title="features of the images of Generic Object Decoding (CNN, HMAX, GIST, SIFT)",
        kind="http",
        folder="god",
        licence=god.LICENCE,
        citation=god.CITATION,
        page="https://figshare.com/articles/Generic_Object_Decoding/7387130",
        files=(File(path="ImageFeatures.h5", urls=_figshare(15015971)),),
    ),
    Entry(
        name="god-images",
        title="the images of Generic Object Decoding",
        kind="page",
        folder="god/images",
        licence="others' copyright: given on request only",
        citation=god.CITATION,
        page=god.REQUEST_FORM,
        note="fill in the form of Kamitani Lab",
    ),
    Entry(
        name="bold5000",
        kind="http",
        folder="bold5000",
        **_said(bold5000),
        megabytes=bold5000.MEGABYTES,
        page="https://kilthub.cmu.edu/articles/dataset/BOLD5000_Release_2_0/14456124",
        files=(
            File(path="BOLD5000_GLMsingle_ROI_betas.zip", article=14456124, unpack=True),
            File(
                path="BOLD5000_Stimuli.zip",
                urls=("https://www.dropbox.com/s/5ie18t4rjjvsl47/BOLD5000_Stimuli.zip?dl=1",),
                unpack=True,
            ),
        ),
    ),
    Entry(
        name="miyawaki",
        kind="nilearn",
        folder=miyawaki.FOLDER,
        **_said(miyawaki),
        page="https://nilearn.github.io/stable/modules/generated/nilearn.datasets.fetch_miyawaki2008.html",
        megabytes=miyawaki.MEGABYTES,
        fetcher="fetch_miyawaki2008",
    ),
    Entry(
        name="haxby",
        kind="nilearn",
        folder=haxby.FOLDER,
        **_said(haxby),
        page="https://nilearn.github.io/stable/modules/generated/nilearn.datasets.fetch_haxby.html",
        megabytes=6 * haxby.MEGABYTES,
        fetcher="fetch_haxby",
        subjects=(1, 2, 3, 4, 5, 6),
    ),
    Entry(
        name="hcp",
        kind="page",
        folder="hcp",
        **_said(hcp),
        page="https://db.humanconnectome.org/data/projects/HCP_1200",
        note=f"one .dtseries.nii a person, {hcp.MEGABYTES:.0f} MB each; then: prepare hcp FILES --labels GLASSER",
    ),
    Entry(
        name="cin256-v2",
        title="CompVis latent diffusion, ImageNet 256 x 256, told the label: UNet and VQ-f4 first stage",
        kind="http",
        folder="cin256-v2",
        licence="as stated on the page; it was not read here",
        citation=(
            "Rombach, R., Blattmann, A., Lorenz, D., Esser, P., & Ommer, B. (2022). High-resolution image synthesis "
            "with latent diffusion models. CVPR 2022."
        ),
        page="https://github.com/CompVis/latent-diffusion",
        megabytes=1800,
        note="a pickle: load it with weights_only=True",
        files=(
            File(
                path="model.ckpt",
                urls=("https://ommer-lab.com/files/latent-diffusion/nitro/cin/model.ckpt",),
                megabytes=1800,
            ),
        ),
    ),
    Entry(
        name="vit-mae-base",
        title="facebook/vit-mae-base: image masked autoencoder, for phase 2 at paper scale",
        kind="http",
        folder="vit-mae-base",
        licence="apache-2.0, says its model card",
        citation=(
            "He, K., Chen, X., Xie, S., Li, Y., Dollar, P., & Girshick, R. (2022). Masked autoencoders are scalable "
            "vision learners. CVPR 2022."
        ),
        page="https://huggingface.co/facebook/vit-mae-base",
        megabytes=448,
        files=tuple(
            File(
                path=path,
                urls=(f"https://huggingface.co/facebook/vit-mae-base/resolve/main/{path}",),
                megabytes=megabytes,
            )
            for path, megabytes in (
                ("config.json", 0.001),
                ("preprocessor_config.json", 0.001),
                ("model.safetensors", 448),
            )
        ),
    ),
    Entry(
        name="mind-vis",
        title="MinD-Vis: fMRI encoders for GOD and BOLD5000 (fmri_encoder.pth), GOD as sbj_N.npz",
        kind="page",
        folder="mind-vis",
        licence="as stated on the figshare page; it was not read here",
        citation=_MIND_VIS,
        page="https://figshare.com/s/94cd778e6afafb00946e",
        note="a private link, to be opened in a browser; sbj_N.npz belong into the folder god",
    ),
    Entry(
        name="sun2023",
        title="the paper's own fMRI encoders, phase 1 and phase 2",
        kind="page",
        folder="sun2023",
        licence="none given: yours to try, not to pass on",
        citation=(
            "Sun, J., Li, M., Chen, Z., Zhang, Y., Wang, S., & Moens, M.-F. (2023). Contrast, attend and diffuse to "
            "decode high-resolution images from brain activities. NeurIPS 2023."
        ),
        page="https://github.com/soinx0629/vis_dec_neurips",
        note="the OneDrive links of its README, to be opened in a browser",
    ),
)

REGISTRY: dict[str, Entry] = {one.name: one for one in _ENTRIES}
