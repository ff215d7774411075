"""The words: list, get, verify, prepare; `python data_download.py` and `visdec-lite download`.

In: names. Out: files in the data home, tables on standard output, progress on standard error. Exit status 1 with
one sentence when something could not be had or is not as it should be, 130 after Ctrl-C.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from visdec_lite.downloads.resume import Patience
from visdec_lite.downloads.room import DownloadError, size
from visdec_lite.files import data_home

if TYPE_CHECKING:
    from visdec_lite.downloads.registry import Entry
    from visdec_lite.downloads.store import OnDisk

app = typer.Typer(
    help="Data sets and pre-trained weights: what there is, download, check, prepare.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

To = Annotated[Path | None, typer.Option("--to", help="data home; default: VISDEC_DATA, else the folder data")]


@app.callback()
def _about() -> None:
    """Data sets and pre-trained weights: what there is, download, check, prepare."""


@app.command("list")
def list_(to: To = None) -> None:
    """What there is: name, size, what is on disk, whether it was verified, licence, page."""
    from visdec_lite.downloads import store
    from visdec_lite.downloads.registry import REGISTRY

    with _told():
        home = data_home() if to is None else to
        typer.echo(f"data home: {home}  (another one: --to DIR or VISDEC_DATA)\n")
        for what in REGISTRY.values():
            typer.echo(_described(what, store.on_disk(what, home)))


@app.command()
def get(
    name: Annotated[str, typer.Argument(help="a name that list shows")],
    subject: Annotated[list[int] | None, typer.Option(help="only this subject; may be given again")] = None,
    to: To = None,
    accept_licence: Annotated[bool, typer.Option("--accept-licence", help="you have read it; needed once")] = False,
    timeout: Annotated[float, typer.Option(min=0.1, help="seconds without news from the server")] = Patience.timeout,
    retries: Annotated[int, typer.Option(min=0, help="in a row without progress, for each mirror")] = Patience.retries,
) -> None:
    """Download NAME, or what is missing of it; a broken download goes on where it stopped."""
    from visdec_lite.downloads import store

    with _told():
        patience = Patience(timeout=timeout, retries=retries)
        files = store.get(name, subjects=subject, home=to, accept_licence=accept_licence, patience=patience)
        shown = files if len(files) <= 8 else [*files[:3], f"... {len(files) - 3} more files"]
        typer.echo("\n".join(map(str, shown)))


@app.command()
def verify(
    name: Annotated[str | None, typer.Argument(help="a name that list shows; default: all")] = None,
    to: To = None,
) -> None:
    """Hash what is on disk again: against the registry, else against the first download."""
    from visdec_lite.downloads import store

    with _told():
        checks = store.verify(name, to)
        for check in checks:
            typer.echo(f"{check.verdict:8s} {check.path}  {check.detail}")
        bad = sum(check.verdict in ("changed", "missing") for check in checks)
        typer.echo(
            f"{len(checks)} files, {bad} of them not as they should be" if checks else "nothing on disk to check"
        )
    if bad:
        raise typer.Exit(1)


@app.command()
def prepare(
    name: Annotated[str, typer.Argument(help="hcp")],
    files: Annotated[list[Path], typer.Argument(help="dense time series, .dtseries.nii")],
    labels: Annotated[Path | None, typer.Option(help="Glasser .dlabel.nii; default: the one in OUT")] = None,
    out: Annotated[Path | None, typer.Option(help="folder; default: hcp in the data home")] = None,
) -> None:
    """Bring downloaded recordings into the form that the loader reads: one npz a person."""
    with _told():
        if name != "hcp":
            raise ValueError(f"{name!r} needs no preparing; only hcp does")
        from visdec_lite.datasets import hcp

        made = hcp.prepare(files, data_home() / "hcp" if out is None else out, labels=labels)
        typer.echo("\n".join(map(str, made)))


def main() -> None:
    """Entry point of data_download.py."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    app()


def _described(what: Entry, there: OnDisk) -> str:
    """Three lines on an entry."""
    about = "size unknown" if what.megabytes is None else f"about {size(what.megabytes * 1e6)}"
    of = f" of {there.of}" if there.of else ""
    disk = f"{there.files}{of} files, {size(there.bytes)}" if there.files else "nothing"
    if there.half:
        disk += f", and {size(there.half)} of a broken download"
    how = {"http": "", "nilearn": "through nilearn; ", "page": "by hand; "}[what.kind]
    trust = "hash known" if what.verified_here else "not verified here"
    note = f"\n    {what.note}" if what.note else ""
    return (
        f"{what.name:13s} {about:15s} on disk: {disk}  ({how}{trust})\n"
        f"    {what.title}{note}\n    licence: {what.licence}\n    {what.page}\n"
    )


@contextmanager
def _told() -> Iterator[None]:
    """Errors of use and of the network become one sentence and exit status 1, Ctrl-C becomes 130."""
    try:
        yield
    except KeyboardInterrupt as interrupt:
        typer.echo("\ninterrupted; what has come is kept, the same command goes on from there", err=True)
        raise typer.Exit(130) from interrupt
    except (DownloadError, ValueError, ImportError, OSError) as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(1) from error
