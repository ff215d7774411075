"""What a field of a config may hold: a rule is words for the reader and a test of the value.

In: a frozen config and a table, field -> rule, which names every field. Out: nothing, or a `ValueError` that says the
field, its value and what was expected, before anything is built or trained. A truth value is no number here, and a
whole number is written whole.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import fields
from reprlib import repr as shorten
from typing import Any, NamedTuple


class Rule(NamedTuple):
    """What is expected, in words and as a test."""

    words: str
    holds: Callable[[Any], bool]


def is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def whole(least: int, most: int = 10**9) -> Rule:
    """A whole number between two bounds, both allowed; the upper one is where memory or arithmetic would end."""
    return Rule(f"a whole number from {least} to {most}", lambda value: is_whole(value) and least <= value <= most)


def number(words: str, holds: Callable[[float], bool]) -> Rule:
    """A number, whole or not, for which `holds`; NaN passes no comparison."""
    return Rule(words, lambda value: is_number(value) and holds(value))


def one_of(*words: str) -> Rule:
    listed = " or ".join(map(repr, words)) if len(words) < 3 else f"one of {', '.join(map(repr, words))}"
    return Rule(listed, lambda value: isinstance(value, str) and value in words)


def several(rule: Rule, count: int | None = None) -> Rule:
    """A tuple of values that each pass `rule`: `count` of them, or at least one."""
    amount = "one or more of" if count is None else f"{count} of"
    return Rule(
        f"{amount}: {rule.words}",
        lambda values: (
            isinstance(values, tuple)
            and (len(values) == count if count else len(values) > 0)
            and all(rule.holds(value) for value in values)
        ),
    )


COUNT = whole(1)
WHOLE = whole(0)
SIZE = whole(1, 65536)  # of a layer or a picture
SEED = whole(0, 2**32 - 1)
POSITIVE = number("a finite number > 0", lambda value: 0 < value < math.inf)
WEIGHT = number("a finite number >= 0", lambda value: 0 <= value < math.inf)
SHARE = number("a number in [0, 1]", lambda value: 0 <= value <= 1)
BELOW_ONE = number("a number in [0, 1)", lambda value: 0 <= value < 1)
INSIDE = number("a number in (0, 1)", lambda value: 0 < value < 1)
SWITCH = Rule("True or False", lambda value: isinstance(value, bool))
WORD = Rule("a word", lambda value: isinstance(value, str) and bool(value.strip()))


def of(kind: type) -> Rule:
    """A config of its own, which has checked itself."""
    return Rule(f"a {kind.__name__}", lambda value: isinstance(value, kind))


def check_fields(config: Any, rules: dict[str, Rule]) -> None:
    """Every field of a dataclass against its rule.

    Raises:
        ValueError: a field breaks its rule.
        TypeError: the table and the fields are not the same; a new field needs a rule.
    """
    kind = type(config).__name__
    names = {field.name for field in fields(config)}
    if names != rules.keys():
        raise TypeError(f"{kind}: fields and rules differ in {sorted(names ^ rules.keys())}")
    for name, rule in rules.items():
        value = getattr(config, name)
        if not rule.holds(value):
            raise ValueError(f"{kind}.{name} is {shorten(value)}; expected {rule.words}")


# the fields of an encoder and a decoder as `check_transformer` reads them
TRANSFORMER = {
    **{f"{part}{name}": SIZE for part in ("", "decoder_") for name in ("embed_dim", "num_heads")},
    **{f"{part}depth": whole(0, 1024) for part in ("", "decoder_")},  # without blocks, tokens stay as embedded
    "mlp_ratio": number("a number in (0, 64]", lambda value: 0 < value <= 64),
}


def check_transformer(config: Any, axes: int) -> None:
    """Widths that split into attention heads and into sines and cosines along so many axes.

    Raises:
        ValueError: one does not, or its MLP would have no width.
    """
    kind = type(config).__name__
    for part in ("", "decoder_"):
        width, heads = getattr(config, f"{part}embed_dim"), getattr(config, f"{part}num_heads")
        for count, what in ((heads, "attention heads"), (2 * axes, "parts, sines and cosines of each axis")):
            if width % count:
                raise ValueError(
                    f"{kind}.{part}embed_dim is {width}, which does not split into {count} {what}; "
                    f"choose a multiple of {count}"
                )
        if round(width * config.mlp_ratio) < 1:
            raise ValueError(f"{kind}.mlp_ratio {config.mlp_ratio} leaves an MLP of width 0; choose a higher one")


def check_hides(ratio: float, length: int, name: str = "mask ratio") -> int:
    """How many of `length` patches a mask ratio hides.

    Raises:
        ValueError: none, or all of them.
    """
    hidden = round(ratio * length)
    if not 0 < hidden < length:
        raise ValueError(
            f"{name} {ratio} hides {hidden} of {length} patches; at least 1 must be hidden and 1 kept: "
            "choose a ratio further from 0 and 1, or smaller patches"
        )
    return hidden
