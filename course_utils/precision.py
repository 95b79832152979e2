"""Whether products in bfloat16 pay: on some processors they are four times quicker than float32, on others forty times slower."""

from __future__ import annotations

import functools
import time
import warnings
from typing import Literal, cast

import torch

Precision = Literal["float32", "bfloat16"]
ROWS, INNER, COLUMNS = 64, 256, 512
"""Of the product that is timed: a fifth of a millisecond in float32."""


class SlowPrecision(UserWarning):
    """bfloat16 was asked for where float32 is quicker."""


@functools.cache
def bfloat16_cost(device: str = "cpu") -> float:
    """Time of a product in bfloat16 over that of the same product in float32, measured once a process.

    Measured, not read off the processor's name: a processor without instructions for bfloat16 computes it in steps, right but
    up to fifty times slower. For a graphics processor it is not measured: 0.5 where PyTorch says that it is supported.
    """
    kind = torch.device(device).type
    if kind != "cpu":
        return 0.5 if kind != "cuda" or torch.cuda.is_bf16_supported(including_emulation=False) else 2.0
    return _seconds(torch.bfloat16) / _seconds(torch.float32)


def quicker_precision(device: str = "cpu") -> Precision:
    """ "bfloat16" where its products are quicker than those in float32, else "float32"."""
    return "bfloat16" if bfloat16_cost(device) < 1 else "float32"


def resolve_precision(precision: str, device: str = "cpu") -> Precision:
    """`precision` itself, or for "auto" the quicker one.

    Errors:
        ValueError: for anything but "auto", "float32" and "bfloat16".
    """
    if precision not in ("auto", "float32", "bfloat16"):
        raise ValueError(f"no precision {precision!r}; there are: auto, float32, bfloat16")
    return quicker_precision(device) if precision == "auto" else cast(Precision, precision)


def slow_precision(precision: str, device: str = "cpu") -> str | None:
    """What bfloat16 costs here, in a sentence, when it was asked for and float32 would be quicker; otherwise None."""
    if precision != "bfloat16" or (cost := bfloat16_cost(device)) <= 1:
        return None
    return (
        f"this processor has no quick products in bfloat16: they take {cost:.2g} times as long as in float32. "
        "Use the precision float32, or auto where it is offered"
    )


def warn_if_slow(precision: str, device: str = "cpu") -> None:
    """Warn with `slow_precision`. Nothing is measured unless bfloat16 is asked for."""
    if said := slow_precision(precision, device):
        warnings.warn(said, SlowPrecision, stacklevel=3)


def _seconds(dtype: torch.dtype) -> float:
    """The best of three, after one that is not counted."""
    left, right = (torch.ones(shape, dtype=dtype) for shape in ((ROWS, INNER), (INNER, COLUMNS)))
    taken = []
    for _ in range(4):
        begun = time.perf_counter()
        left @ right
        taken.append(time.perf_counter() - begun)
    return min(taken[1:])
