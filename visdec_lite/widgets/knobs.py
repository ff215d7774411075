"""Knobs: what can be turned, how far, and in which words.

A widget's state is a frozen dataclass whose fields are knobs. The kind of control follows from the field: a list of
options is a menu, a mapping a slider for each key, True or False a box to tick, a number a slider.

    @dataclass(frozen=True)
    class MaskState(State):
        mask_ratio: float = knob(0.75, "share hidden", low=0.1, high=0.9, step=0.05)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any


@dataclass(frozen=True)
class Knob:
    """One knob.

    Attributes:
        label: beside the control.
        low, high: the range, both included; None: known only when the data are.
        step: of the slider; of a number that is no integer.
        options: value -> words in the menu; for a mapping: its keys, each of which has a slider.
        log: the slider moves by factors.
        help: shown on hovering, and read by screen readers.
    """

    label: str
    low: float | None = None
    high: float | None = None
    step: float | None = None
    options: Mapping[Any, str] | None = None
    log: bool = False
    help: str = ""

    def check(self, name: str, value: Any) -> None:
        """Raises ValueError if the value is no option or out of range."""
        if isinstance(value, Mapping):
            for key, part in value.items():
                self._check_option(name, key)
                self._check_number(f"{name}[{key!r}]", part)
        elif self.options is not None:
            self._check_option(name, value)
        elif not isinstance(value, bool):
            self._check_number(name, value)

    def _check_option(self, name: str, value: Any) -> None:
        if self.options is not None and value not in self.options:
            raise ValueError(f"{name} has no {value!r}; there are {', '.join(map(str, self.options))}")

    def _check_number(self, name: str, value: float) -> None:
        low, high = self.low, self.high
        if not (low is None or value >= low) or not (high is None or value <= high) or value != value:
            span = f"{low:g} or more" if high is None else f"{low:g} to {high:g}"
            raise ValueError(f"{name} is {value}, expected {span}")


def knob(default: Any, label: str, **options: Any) -> Any:
    """A dataclass field with a `Knob`; the default `dict` starts as an empty mapping."""
    start = {"default_factory": dict} if default is dict else {"default": default}
    return field(**start, metadata={"knob": Knob(label, **options)})


@dataclass(frozen=True)
class State:
    """A position of all knobs; out of range is an error."""

    def __post_init__(self) -> None:
        check(self, knobs_of(type(self)))


def knobs_of(state_type: type[State]) -> dict[str, Knob]:
    """Field name -> knob, in order."""
    return {f.name: f.metadata["knob"] for f in fields(state_type)}


def check(state: State, knobs: Mapping[str, Knob]) -> None:
    """Raises ValueError for the first value that its knob cannot take."""
    for name, one in knobs.items():
        one.check(name, getattr(state, name))
