"""Exercises of lesson 03: known answers against what a student wrote."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F

from visdec_lite.teaching.verdicts import Wrong, call, close, expect


def info_nce(attempt: Any) -> str:
    """`attempt(query, key, temperature)` -> mean loss in nats, shape ()."""
    alike, basis = torch.ones(8, 8), torch.eye(8)
    found = _loss(attempt, alike, 0.1, given="eight identical queries and keys of shape (8, 8), temperature 0.1")
    expect(
        not close(found, 0.0),
        "With eight identical embeddings your loss is 0; nothing tells them apart, so it should be log(8) = 2.08. Is "
        "the denominator summing over the whole batch?",
    )
    expect(
        not close(found, math.log(7)),
        "With eight identical embeddings you get log(7) = 1.95: the own key is missing in the denominator. The sum "
        "goes over all j, i included: eight candidates, log(8) = 2.08.",
    )
    expect(
        not close(found, 8 * math.log(8)),
        "With eight identical embeddings you get 16.6 = 8 log(8). Take the mean over the batch, not the sum, else the "
        "loss grows with it.",
    )
    expect(
        not close(found, -math.log(8)),
        "With eight identical embeddings you get -2.08. The logarithm of a share is negative; the loss is minus that.",
    )
    expect(
        close(found, math.log(8)),
        f"Eight identical embeddings cannot be told apart: the loss is log(8) = 2.08; yours is {found:.3g}.",
    )
    found = _loss(attempt, basis, 0.5, given="eight orthogonal queries, each equal to its key, temperature 0.5")
    right = math.log(1 + 7 * math.exp(-2))
    expect(
        not close(found, math.log(1 + 7 * math.exp(-1))),
        f"Own key at cosine 1, seven others at 0, temperature 0.5: {right:.3f}. You get {found:.3f}, as for "
        "temperature 1. Divide the cosines by it.",
    )
    expect(
        not close(found, math.log(1 + 7 * math.exp(-0.5))),
        f"Own key at cosine 1, seven others at 0, temperature 0.5: {right:.3f}. You get {found:.3f}: multiplied by the "
        "temperature? Divide: small temperatures sharpen.",
    )
    expect(
        not close(found, right + 7 / 8 * 2),
        f"Own key at cosine 1, seven others at 0: {right:.3f}. You get {found:.3f}, the mean over all 64 entries. Only "
        "the diagonal counts, where query i meets key i.",
    )
    expect(
        close(found, right),
        f"Own key at cosine 1, seven others at 0, temperature 0.5: log(1 + 7 exp(-2)) = {right:.3f}; yours is "
        f"{found:.3f}.",
    )
    found = _loss(attempt, 3 * basis, 0.5, given="the same, three times as long")
    expect(
        close(found, right),
        f"Three times as long, the same embeddings lose {found:.3g} and not {right:.3f}. A cosine does not see length: "
        "divide each row by its norm, F.normalize(x, dim=-1).",
    )
    generator = torch.Generator().manual_seed(0)
    query, key = torch.randn(2, 6, 5, generator=generator)
    logits = F.normalize(query, dim=-1) @ F.normalize(key, dim=-1).T / 0.2
    right = float(F.cross_entropy(logits, torch.arange(6)))
    found = float(_number(call(attempt, query, key, 0.2, given="random queries and keys of shape (6, 5)")))
    backwards = float(F.cross_entropy(logits.T, torch.arange(6)))
    expect(
        not close(found, backwards),
        f"On random embeddings you get {found:.3f}, where {right:.3f} is right. You let each *key* choose among the "
        "queries. Row i belongs to query i, and its shares add up to 1: softmax over dim=1.",
    )
    expect(close(found, right), f"On random embeddings you get {found:.4f}, where {right:.4f} is right.")
    return "log(8) for what nothing tells apart, blind to length, sharper at small temperatures: that is InfoNCE."


def temperature(attempt: Any) -> str:
    """Loss of a batch of 64: own key at cosine 0.5, all others at 0, temperature 0.1."""
    found = _number(attempt)
    right = math.log(1 + 63 * math.exp(-5))
    expect(
        not close(found, math.log(1 + 63 * math.exp(-0.5)), 1e-3),
        "3.67 is the loss at temperature 1. At 0.1 a cosine of 0.5 becomes 5, and exp(5) = 148 outweighs 63 times 1.",
    )
    expect(
        not close(found, math.log(64), 2e-3),
        "log(64) = 4.16 is guessing. The own key is ahead here: exp(5) = 148 against 63 times exp(0) = 1.",
    )
    expect(
        found >= 0,
        f"{found:.2f} is below 0, which no share below 1 can give. The own key belongs in the denominator too: "
        "148 + 63.",
    )
    expect(
        not close(found, math.exp(-right), 2e-3),
        "0.70 is the share 148 / (148 + 63) that the own key gets. The loss is minus its logarithm.",
    )
    expect(
        not close(found, right / math.log(2), 2e-3),
        "0.51 is right in bits. Here losses are in nats: the natural logarithm.",
    )
    expect(
        abs(found - right) < 0.005,
        f"You say {found:.4g}. The own key weighs exp(0.5 / 0.1) = 148, the 63 others exp(0) = 1 each. What share is "
        "the own key's, and what is minus its logarithm?",
    )
    return "log(1 + 63 exp(-5)) = 0.354, far below log(64) = 4.16. Remember the cosine 0.5: it comes back."


def pairs(attempt: Any) -> str:
    """`attempt(first, second, original)` -> (query, key) pairs of the cross-contrast, and of the self-contrast."""
    generator = torch.Generator().manual_seed(0)
    named = dict(zip(("first", "second", "original"), torch.randn(3, 4, 6, generator=generator), strict=True))
    answer = call(attempt, *named.values(), given="two reconstructions and the originals, each (4, 6)")
    form = "Give 2 lists, each of pairs (query, key): return [(a, b)], [(c, d), (e, f)]."
    expect(isinstance(answer, tuple | list) and len(answer) == 2, form)
    cross, own = (_names(pairs, named, form) for pairs in answer)
    right = {("first", "original"), ("second", "original")}
    expect(
        not (set(cross) == right and set(own) <= {("first", "second"), ("second", "first")}),
        "The 2 contrasts are swapped. Cross: across the two views. Self: a view and its own original.",
    )
    expect(
        cross in ([("first", "second")], [("second", "first")]),
        f"The cross-contrast has 1 pair, the two views of one scan; yours is {_say(cross)}.",
    )
    expect(
        not any("original" in query for query, _ in own),
        f"In your self-contrast the original is the query, {_say(own)}: it chooses among reconstructions. The 2 "
        "reconstructions should each find their original: (view, original).",
    )
    expect(
        not any("unknown" in pair for pair in own),
        "Your self-contrast holds tensors that are none of the 3 given. If you stacked both views: then each original "
        "stands twice among the keys, and the twin of the right answer counts as wrong.",
    )
    expect(
        not any(query == key for query, key in own),
        "A view contrasted with itself has cosine 1 whatever it says, and nothing is learnt from it. The key is the "
        "original.",
    )
    expect(
        set(own) == right and len(own) == 2,
        f"The self-contrast has 2 pairs, each view with the original; yours is {_say(own)}. No view should go free.",
    )
    return "One pair across the views, two pairs back to the original: three line-ups in all."


def joint_loss(attempt: Any) -> str:
    """`attempt(L_M, L_C, L_S1, L_S2, w_M, w_C, w_S)` -> the weighted sum."""
    given = "L_M = 1, L_C = 2, L_S of the two views 3 and 5, and weights 2, 0.5 and 3"
    found = _number(call(attempt, 1.0, 2.0, 3.0, 5.0, 2.0, 0.5, 3.0, given=given))
    expect(
        not close(found, 27.0),
        "You get 27: the two views of the self-contrast are added up. Take their mean, 4, so that w_S means what it "
        "says.",
    )
    expect(not close(found, 12.0), "You get 12: only the first view is in L_S. The mean of 3 and 5 is 4.")
    expect(not close(found, 10.0), "You get 10: w_C and w_S have changed places. 0.5 belongs to L_C, 3 to L_S.")
    expect(not close(found, 7.0), "You get 7 = 1 + 2 + 4: the weights 2, 0.5 and 3 are not used.")
    expect(
        not close(found, 6.0),
        "You get 6, with weights 1, 0.5 and 1 whatever is asked. Use the arguments: a knob that changes nothing is "
        "worse than no knob.",
    )
    expect(close(found, 15.0), f"With {given}, the loss is 2 + 1 + 12 = 15; yours is {found:.4g}.")
    return "2 * 1 + 0.5 * 2 + 3 * 4 = 15: three terms, each with a weight of its own, each of which can be 0."


def _loss(attempt: Any, rows: torch.Tensor, temperature: float, given: str) -> float:
    return _number(call(attempt, rows.clone(), rows.clone(), temperature, given=given))


def _number(value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError, RuntimeError):
        shape = f"of shape {tuple(value.shape)}" if hasattr(value, "shape") else repr(value)
        raise Wrong(f"Expected 1 number; this is {type(value).__name__} {shape}.") from None


def _names(found: Any, named: dict[str, torch.Tensor], form: str) -> list[tuple[str, str]]:
    if isinstance(found, tuple) and len(found) == 2 and all(isinstance(part, torch.Tensor) for part in found):
        found = [found]  # one pair, without its list
    expect(isinstance(found, tuple | list) and all(isinstance(p, tuple | list) and len(p) == 2 for p in found), form)
    return [tuple(_name(part, named) for part in pair) for pair in found]


def _name(part: Any, named: dict[str, torch.Tensor]) -> str:
    return next((name for name, tensor in named.items() if close(part, tensor)), "unknown")


def _say(pairs: list[tuple[str, str]]) -> str:
    return " and ".join(f"({query}, {key})" for query, key in pairs) or "empty"
