"""How far a stage is: a bar for who watches, one line for a log file."""

from __future__ import annotations

import io
from contextlib import redirect_stderr

import numpy as np
import pytest
import torch
from torch import nn

from visdec_lite.progress import IN_NOTEBOOK, Bar
from visdec_lite.training import TrainingConfig, fit


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_training_leaves_one_line_in_a_log_file():
    def loss(model, batch, generator):
        return {"loss": model(batch["x"]).square().mean()}

    data = {"x": np.random.default_rng(0).normal(size=(64, 4)).astype(np.float32)}
    log = io.StringIO()
    with redirect_stderr(log):
        for stage in ("pretrain", "fuse"):
            fit(nn.Linear(4, 1), loss, data, TrainingConfig(300, 8, 1e-3), description=stage, device="cpu")
    lines = log.getvalue().splitlines()
    assert [line.partition(" in ")[0] for line in lines] == ["pretrain: 300/300it", "fuse: 300/300it"]
    assert all(", loss=" in line for line in lines) and "\r" not in log.getvalue()


@pytest.mark.parametrize("form", ["loop", "by hand", "broken off"])
def test_whatever_is_counted_is_told_once(form):
    log = io.StringIO()
    if form == "loop":
        assert list(Bar(range(7), desc="rows", unit="row", file=log)) == list(range(7))
    elif form == "by hand":
        with Bar(total=7, desc="rows", unit="row", file=log) as bar:
            for _ in range(7):
                bar.update()
                bar.refresh()
        bar.close()
    else:
        with pytest.raises(KeyError), Bar(total=9, desc="rows", unit="row", file=log) as bar:
            bar.update(7)
            raise KeyError
    assert log.getvalue() == f"rows: 7/{9 if form == 'broken off' else 7}row in 00:00\n"


def test_bytes_and_an_unknown_end_are_told():
    log = io.StringIO()
    with Bar(desc="a.bin", unit="B", unit_scale=True, file=log) as bar:
        bar.update(300_000)
    assert log.getvalue() == "a.bin: 300k/?B in 00:00\n"


def test_a_terminal_keeps_its_bar_and_nothing_is_told_where_nothing_is_asked_for():
    terminal, log = Terminal(), io.StringIO()
    for _ in Bar(range(3), desc="rows", file=terminal):
        pass
    for _ in Bar(range(3), desc="rows", file=log, disable=True):
        pass
    assert "\rrows: 100%" in terminal.getvalue() and log.getvalue() == ""
    assert not IN_NOTEBOOK, "tests run in no notebook; a lesson's kernel is asked in test_machine.py"


def test_the_pipeline_counts_in_a_line_too():
    from test_pipeline import build, paint

    pipe, log = build(), io.StringIO()
    pipe.set_progress_bar_config(disable=False, desc="sampling", leave=False)
    with redirect_stderr(log), torch.no_grad():
        paint(pipe)
    assert log.getvalue() == "sampling: 4/4it in 00:00\n"
