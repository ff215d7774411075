"""`visdec-lite app`: the BrainToImageDemo as a web page for a table at an open day.

In: a data set, for recorded data a trained pipeline, and an address. Out: a page without code, until Ctrl-C. The page
is a notebook of two cells in a folder that is gone afterwards.
"""

from __future__ import annotations

import json
import os
import secrets
import tempfile
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from visdec_lite.files import atomic_path, data_home

if TYPE_CHECKING:
    from visdec_lite.widgets.brain import BrainToImageDemo

SIMULATED = (
    "A **simulated** visual cortex was shown a picture: nobody was scanned. From its activity alone, and from what it "
    "knows of pictures, a decoder paints what it may have been."
)
RECORDED = (
    "A person in a scanner looked at pictures: data set **{dataset}**. From the activity of the visual cortex alone, "
    "and from what it knows of pictures, a decoder paints what one of them may have been."
)
HONEST = "It does not read thoughts. What the scan does not tell, it makes up."


def app(
    dataset: Annotated[str, typer.Option(help="simulated, digits69 or another with pictures")] = "simulated",
    path: Annotated[Path | None, typer.Option(help="file or folder of the data set, where it needs one")] = None,
    pipeline: Annotated[
        Path | None, typer.Option(help="folder of a saved pipeline, or of `visdec-lite train finetune`")
    ] = None,
    ip: Annotated[str, typer.Option(help="address to listen on; 0.0.0.0: every machine around may ask")] = "127.0.0.1",
    port: Annotated[int | None, typer.Option(min=1, max=65535, help="default: 8866 or the next that is free")] = None,
    base_url: Annotated[str, typer.Option(help="what a proxy's address for the page begins with: /brain/")] = "/",
    allow_host: Annotated[
        list[str] | None, typer.Option(help="name of a proxy that the page may be asked by; may be repeated")
    ] = None,
    visitors: Annotated[
        int | None, typer.Option(min=1, help="pages open at a time, 1.3 GB each; default: what memory holds")
    ] = None,
    token: Annotated[str | None, typer.Option(help="what visitors have to bring; default: a new random one")] = None,
    browser: Annotated[bool, typer.Option(help="open the page in the browser")] = True,
) -> None:
    """Show the brain-to-image demo as a web page, without code, until Ctrl-C."""
    missing = [name for name in ("voila", "ipywidgets") if find_spec(name) is None]
    if missing:
        raise ImportError(f'{", ".join(missing)} missing; install the notebook tools: pip install -e ".[notebooks]"')
    if token == "":
        raise ValueError("an empty token would let everybody in; leave --token out and a random one is made")
    what = {
        "dataset": dataset,
        "path": None if path is None else str(path.resolve()),
        "pipeline": None if pipeline is None else str(pipeline.resolve()),
    }
    # the kernel inherits these; see cli.py for the first two
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ["VISDEC_DATA"] = str(data_home().resolve())
    try:
        from visdec_lite.widgets import page_places, page_server

        base_url, names = page_server.base_address(base_url), [page_server.host_name(name) for name in allow_host or []]
        sockets = page_server.listening(ip, port)
        place = page_places.PLACE
        if what != {"dataset": "simulated", "path": None, "pipeline": None}:
            demo = make_demo(**what)  # what is wrong is better said here than to the first visitor
            place = page_places.place_here()
            del demo
        room = page_places.free_memory() // place
        visitors = visitors or max(1, room)

        def tell(url: str) -> None:
            typer.echo(f"the page is at\n\n    {url}\n\nfor {visitors} at a time. Ctrl-C ends it.")
            if names:
                typer.echo(f"Behind a proxy: {names[0]}{base_url}?token={url.partition('?token=')[2]}")
            if visitors > max(1, room):
                typer.echo(f"So many need {visitors * place / 1e9:.0f} GB of memory; there is room for {room}.")
            if not page_server.is_local(ip):
                typer.echo(
                    "Whoever reaches this machine and has the token can open it; the connection is not encrypted."
                )

        with tempfile.TemporaryDirectory(prefix="visdec-app-") as folder:  # readable by this user only
            notebook = write_notebook(Path(folder) / "brain-to-image.ipynb", **what)
            page_server.serve(
                notebook, sockets, token or secrets.token_hex(24), ip=ip, base_url=base_url, names=names,
                places=visitors, open_browser=browser, tell=tell,
            )  # fmt: skip
    except KeyboardInterrupt as interrupt:
        raise typer.Exit(130) from interrupt


def make_demo(dataset: str = "simulated", path: str | None = None, pipeline: str | None = None) -> BrainToImageDemo:
    """The widget of the page.

    Args:
        dataset: a name that `load_dataset` knows.
        path: of the data set, where it needs one.
        pipeline: folder of `FMRIToImagePipeline.save_pretrained`, or of the class preset's stages as
            `visdec-lite train finetune` writes them. None: the shipped one, for simulated data.

    Raises:
        ValueError: nothing trained is shipped for the data set, or pipeline and data set do not fit.
        FileNotFoundError: no data set there, or no pipeline.
    """
    from visdec_lite import chain
    from visdec_lite.datasets import load_dataset
    from visdec_lite.presets import preset_for
    from visdec_lite.widgets.brain import BrainToImageDemo

    if dataset == "simulated" and path is not None:
        raise ValueError(f"simulated data lie in no file, but --path is {path}; leave it out")
    if pipeline is None:
        if dataset == "simulated":
            return BrainToImageDemo.simulated()
        raise ValueError(
            f"no brain is shipped trained for {dataset}; train one: visdec-lite train finetune --dataset {dataset} "
            "--out FOLDER, then say --pipeline FOLDER"
        )
    folder = Path(pipeline)
    saved, stages = (folder / "model_index.json").is_file(), (folder / "finetune.safetensors").is_file()
    if not saved and not stages:
        raise FileNotFoundError(
            f"{folder} holds no pipeline (model_index.json) and no trained stages (finetune.safetensors); "
            "save one with pipe.save_pretrained(folder)"
        )
    data = load_dataset(dataset, **({} if path is None else {"root": path}))
    if saved and not chain.shipped(dataset).is_dir():
        return BrainToImageDemo(folder, data)
    chosen = preset_for(dataset, "class").with_categories(len(data.category_names))
    own = stages and (folder / "diffusion.safetensors").is_file()
    world = chain.load_world(folder if own else chain.shipped(dataset), chosen)
    if saved:
        return BrainToImageDemo(folder, data, classifier=world.classifier)
    data = chain.ready_for(data, chosen)
    pipe = chain.load_brain(folder, data, world, chosen).pipeline(chosen)
    return BrainToImageDemo(pipe, data, classifier=world.classifier)


def show_demo(**what: str | None) -> None:
    """Display `make_demo(**what)`; an error is said in words on the page before it is raised."""
    from IPython.display import HTML, display

    from visdec_lite.widgets.face import error_html

    try:
        demo = make_demo(**what)
        display(demo)
    except Exception as error:
        display(HTML(error_html(error)))
        raise


def write_notebook(file: Path, dataset: str = "simulated", **others: str | None) -> Path:
    """The notebook of the page: a heading with a sentence, and one cell that calls `show_demo` with these words."""
    words = SIMULATED if dataset == "simulated" else RECORDED.format(dataset=dataset)
    what = {"dataset": dataset, **others}
    call = ", ".join(f"{name}={value!r}" for name, value in what.items() if value is not None)
    text = f"# What did this brain see?\n\n{words} {HONEST}"
    cells: list[dict[str, Any]] = [
        {"cell_type": "markdown", "id": "words", "metadata": {}, "source": text},
        {
            "cell_type": "code", "id": "demo", "metadata": {}, "outputs": [], "execution_count": None,
            "source": f"from visdec_lite.widgets.app import show_demo\n\nshow_demo({call})",
        },
    ]  # fmt: skip
    notebook = {
        "cells": cells,
        "metadata": {
            "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
            "language_info": {"name": "python"},
            "title": "From brain to image",
        },
        "nbformat": 4,
        "nbformat_minor": 5,
    }
    with atomic_path(file) as temporary:
        temporary.write_text(json.dumps(notebook, indent=1), encoding="utf-8")
    return file
