"""Checks of lesson 09: memory of a training, negatives of a batch, the learning rate of a step."""

from __future__ import annotations

import math
from typing import Any

from visdec_lite.teaching.verdicts import Wrong, call, close, expect
from visdec_lite.training import TrainingConfig, learning_rate_at


def training_bytes(attempt: Any) -> str:
    """`attempt(weights, trained)` -> bytes of weights, gradients and Adam's memory in float32."""

    def size(weights: int, trained: int) -> float:
        return _number(call(attempt, weights, trained, given=f"weights={weights}, trained={trained}"))

    million = 1_000_000
    whole = size(million, million)
    expect(
        not close(whole, 4.0 * million),
        "For a million weights you get 4 MB: those are the weights alone. Training also keeps a gradient and Adam's "
        "two running means for each: 16 MB.",
    )
    expect(
        not close(whole, 8.0 * million),
        "For a million weights you get 8 MB: weights and gradients. Adam remembers 2 more numbers a weight: 16 MB.",
    )
    expect(
        not close(whole, 12.0 * million),
        "For a million weights you get 12 MB, three numbers each. There are four: weight, gradient, running mean of "
        "the gradient, running mean of its square.",
    )
    expect(
        close(whole, 16.0 * million),
        f"A million weights, all trained, take 4 numbers of 4 bytes each: 16 MB. Yours are {whole / million:.4g} MB.",
    )
    frozen = size(million, 0)
    expect(
        not close(frozen, 16.0 * million),
        "With nothing trained you still count 16 MB. A frozen weight has no gradient and no place in Adam: 4 MB.",
    )
    expect(
        not close(frozen, 0.0),
        "With nothing trained you get 0. Frozen weights are there all the same, 4 bytes each: the scan passes through.",
    )
    expect(
        close(frozen, 4.0 * million),
        f"A million frozen weights take 4 MB, their own; yours are {frozen / million:.4g} MB.",
    )
    mixed = size(10 * million, million)
    expect(
        close(mixed, 52.0 * million),
        f"Ten million weights of which one million learns: 40 MB + 12 MB = 52 MB; yours are {mixed / million:.4g} MB.",
    )
    return (
        "16 bytes for a weight that learns, 4 for one that does not: freezing saves memory where the Adam states were."
    )


def negatives(attempt: Any) -> str:
    """`attempt(batch_size, devices, accumulate, gather)` -> wrong keys that each query has to be told from."""

    def count(batch_size: int, devices: int, accumulate: int, gather: bool) -> float:
        given = f"batch_size={batch_size}, devices={devices}, accumulate={accumulate}, gather={gather}"
        return _number(call(attempt, batch_size, devices, accumulate, gather, given=given))

    plain = count(64, 1, 1, False)
    expect(
        not close(plain, 64.0),
        "With 64 rows you get 64 negatives. One of the 64 keys is the query's own, the positive: 63.",
    )
    expect(close(plain, 63.0), f"64 rows on one device leave 63 wrong keys for each query; yours gives {plain:g}.")
    summed = count(64, 1, 4, False)
    expect(
        not close(summed, 255.0),
        "With 4 passes of 64 you get 255. The four passes never meet: each has its own softmax over 64 keys, 63 of "
        "them wrong. That is the point.",
    )
    expect(
        not close(summed, 15.0),
        "With accumulate=4 you get 15: you cut 64 rows into 4. Here batch_size is the rows of one pass, so 63 stay.",
    )
    expect(close(summed, 63.0), f"accumulate=4 changes nothing for a query: 63 negatives, and not {summed:g}.")
    spread = count(64, 4, 1, False)
    expect(
        not close(spread, 63.0),
        "On 4 devices without gather you still get 63. Each device holds 16 of the 64 rows and sees no others: 15.",
    )
    expect(
        close(spread, 15.0), f"64 rows on 4 devices without gather: 16 each, so 15 negatives; yours gives {spread:g}."
    )
    gathered = count(64, 4, 1, True)
    expect(
        not close(gathered, 15.0),
        "With gather=True you get 15 on 4 devices. That is what gathering is for: the rows of all 4 are the keys, 63.",
    )
    expect(
        not close(gathered, 255.0),
        "With gather on 4 devices you get 255: you took batch_size as rows a device. It is all of them together: 63.",
    )
    expect(
        close(gathered, 63.0), f"Gathered, 64 rows are 63 negatives on any number of devices; yours gives {gathered:g}."
    )
    return "The rows that stand in one softmax, less one. Devices can be joined to it; passes one after another cannot."


def learning_rate(attempt: Any) -> str:
    """`attempt(step, steps, warmup, highest)` -> learning rate of the update after `step` updates."""
    steps, warmup, highest = 1000, 100, 1.0

    def rate(step: int) -> float:
        given = f"step={step}, steps={steps}, warmup={warmup}, highest={highest}"
        return _number(call(attempt, step, steps, warmup, highest, given=given))

    first = rate(0)
    expect(
        not close(first, 0.0),
        "At step 0 your rate is 0, and the first update changes nothing. It grows as (step + 1) / warmup: 0.01.",
    )
    expect(
        not close(first, 1.0),
        "At step 0 your rate is at its height, 1: there is no warm-up. With 100 steps of it, it starts at 0.01.",
    )
    expect(
        close(first, 0.01), f"With warmup=100 the first of them has 1/100 of the height, 0.01; yours is {first:.4g}."
    )
    expect(close(rate(49), 0.5), f"After 49 updates half the warm-up is done: 0.5; yours is {rate(49):.4g}.")
    expect(
        close(rate(100), 1.0), f"At step 100 the warm-up is over and the rate at its height, 1; yours: {rate(100):.4g}."
    )
    middle = rate(550)
    over_all = 0.5 * (1 + math.cos(math.pi * 0.55))
    expect(
        not close(middle, over_all),
        f"At step 550 you get {middle:.4f}: your cosine runs over all 1000 steps. It begins after the warm-up: 450 of "
        "its 900 steps are done, half way, 0.5.",
    )
    quarter, straight = rate(325), 0.75
    expect(
        not (close(middle, 0.5) and close(quarter, straight)),
        "At step 325 you get 0.75: a straight line down. Half a cosine stays high for longer: 0.8536.",
    )
    expect(
        not close(middle, 0.0),
        "At step 550 you get 0: half way, cos(pi/2) is 0. Lift it and halve it, (1 + cos) / 2, and it is 0.5.",
    )
    expect(close(middle, 0.5), f"At step 550 the cosine is half way down, 0.5; yours is {middle:.4g}.")
    config = TrainingConfig(steps=steps, batch_size=1, learning_rate=highest, warmup_fraction=warmup / steps)
    for step in (7, 99, 101, 325, 800, 999):
        wanted = learning_rate_at(step, config)
        expect(close(rate(step), wanted), f"At step {step} it should be {wanted:.4f}; yours is {rate(step):.4f}.")
    return (
        "Up a line to 1 at step 100, half a cosine down: the library's learning_rate_at, at every step that was tried."
    )


def _number(found: Any) -> float:
    try:
        return float(found)
    except (TypeError, ValueError):
        raise Wrong(f"1 number is expected; your function returns {found!r}.") from None
