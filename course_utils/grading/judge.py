"""Compare an answer's observations with the reference's: tolerances, bounds, and sentences that say what differs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from course_utils.grading.observe import RAISED, UNREADABLE, Failure, Leaf, Observation


class Rule:
    """How one value is judged. `problem` gives None for agreement, otherwise a sentence; `same` compares two answers."""

    def problem(self, got: Leaf, want: Leaf) -> str | None:
        raise NotImplementedError

    def same(self, a: Leaf, b: Leaf) -> bool:
        return self.problem(a, b) is None


@dataclass(frozen=True)
class Close(Rule):
    """Numbers equal within `atol + rtol * |expected|`; shapes equal. The default suits float32 sums of some hundred terms."""

    rtol: float = 1e-4
    atol: float = 1e-5

    def problem(self, got: Leaf, want: Leaf) -> str | None:
        if not _numeric(want):
            return _plain_problem(got, want)
        if not _numeric(got):
            return f"is {_show(got)}, expected {_kind(want)}"
        a, b = np.asarray(got), np.asarray(want)
        if a.shape != b.shape:
            return f"has shape {list(a.shape)}, expected {list(b.shape)}" + _shape_hint(a.shape, b.shape)
        a, b = a.astype(float), b.astype(float)
        agree = np.isclose(a, b, rtol=self.rtol, atol=self.atol, equal_nan=True)
        return None if agree.all() else _describe_difference(a, b, agree, self)


@dataclass(frozen=True)
class Exact(Rule):
    """Equal, with no tolerance: counts, names, orders, yes or no."""

    def problem(self, got: Leaf, want: Leaf) -> str | None:
        if _numeric(got) and _numeric(want):
            return Close(0.0, 0.0).problem(got, want)
        return _plain_problem(got, want)


@dataclass(frozen=True)
class Between(Rule):
    """Every number lies in [low, high], whatever the reference's is: trained results and statistics."""

    low: float = -np.inf
    high: float = np.inf
    unit: str = ""

    def problem(self, got: Leaf, want: Leaf = None) -> str | None:
        if not _numeric(got):
            return f"is {_show(got)}, expected a number"
        a = np.asarray(got, dtype=float)
        if a.size == 0:
            return "is empty, expected numbers"
        if np.isnan(a).any():
            return "is NaN (not a number)"
        if np.isinf(a).any():
            return "is infinite"
        worst = a.min() if a.min() < self.low else a.max()
        if self.low <= worst <= self.high:
            return None
        if np.isinf(self.low):
            return f"is {worst:.4g}{self.unit}, expected at most {self.high:.4g}"
        if np.isinf(self.high):
            return f"is {worst:.4g}{self.unit}, expected at least {self.low:.4g}"
        return f"is {worst:.4g}{self.unit}, expected between {self.low:.4g} and {self.high:.4g}"

    def same(self, a: Leaf, b: Leaf) -> bool:
        return self._side(a) == self._side(b)

    def _side(self, value: Leaf) -> Any:
        if not _numeric(value):
            return "none"
        a = np.asarray(value, dtype=float)
        if a.size == 0 or not np.isfinite(a).all():
            return "nan" if np.isnan(a).any() else "empty or infinite"
        return bool((a < self.low).any()), bool((a > self.high).any())


def case_problem(
    got: Observation, want: Observation, rule: Rule | Mapping[str, Rule]
) -> tuple[str, Failure | None] | None:
    """None if one case agrees; else a sentence, and the failure behind it where learner code raised."""
    if want.failure is not None:
        raise RuntimeError(f"the reference itself fails: {want.failure.message}")
    if got.failure is not None:
        return got.failure.message, got.failure
    missing = want.values.keys() - got.values.keys()
    extra = got.values.keys() - want.values.keys()
    if missing or extra:
        if want.values.keys() == {""} or got.values.keys() == {""}:
            return f"gives {_count(got.values)}, expected {_count(want.values)}", None
        said = [f"lacks {_names(missing)}"] * bool(missing) + [f"has {_names(extra)} besides"] * bool(extra)
        return " and ".join(said), None
    for key, wanted in want.values.items():
        problem = rule_for(rule, key).problem(got.values[key], wanted)
        if problem:
            return (f"`{key}` {problem}" if key and not key.isdigit() else problem), None
    return None


def same_behaviour(a: Observation, b: Observation, rule: Rule | Mapping[str, Rule]) -> bool:
    """Whether two answers did the same thing in one case: how a known mistake is recognised."""
    if a.failure and b.failure:
        return (_kind_of(a.failure), a.failure.error) == (_kind_of(b.failure), b.failure.error)
    if a.failure or b.failure:
        return False
    if a.values.keys() != b.values.keys():
        return False
    return all(rule_for(rule, key).same(a.values[key], b.values[key]) for key in a.values)


def _kind_of(failure: Failure) -> str:
    # where exactly an exception came up depends on how the code is split into functions, not on what it does
    return RAISED if failure.kind == UNREADABLE else failure.kind


def rule_for(rule: Rule | Mapping[str, Rule], key: str) -> Rule:
    if isinstance(rule, Mapping):
        return rule.get(key) or rule.get("*") or Close()
    return rule


def _numeric(value: Leaf) -> bool:
    return isinstance(value, (bool, int, float)) or (isinstance(value, np.ndarray) and value.dtype.kind in "biuf")


def _plain_problem(got: Leaf, want: Leaf) -> str | None:
    """Equality of text, None and arrays of text."""
    if isinstance(got, np.ndarray) or isinstance(want, np.ndarray):
        agree = type(got) is type(want) and np.array_equal(got, want)
    else:
        agree = type(got) is type(want) and got == want
    return None if agree else f"is {_show(got)}, expected {_show(want)}"


def _describe_difference(a: np.ndarray, b: np.ndarray, agree: np.ndarray, rule: Close) -> str:
    """Say what a person would notice: NaN, zeros, sign, a constant factor or offset, a transpose; else how much differs."""
    if a.ndim == 0:
        tail = _pattern(a.reshape(1), b.reshape(1), rule, single=True)
        return f"is {float(a):.5g}, expected {float(b):.5g}" + (f" ({tail})" if tail else "")
    bad = ~np.isfinite(a) & np.isfinite(b)
    if bad.any():
        return f"holds NaN or infinity in {bad.sum()} of {a.size} places"
    pattern = _pattern(a.ravel(), b.ravel(), rule)
    if pattern:
        return pattern
    if a.ndim == 2 and a.shape[0] == a.shape[1] and np.allclose(a.T, b, rtol=rule.rtol, atol=rule.atol):
        return "is transposed: rows and columns are exchanged"
    wrong = int((~agree).sum())
    worst = float(np.nanmax(np.abs(a - b)))
    return f"differs in {wrong} of {a.size} values (by up to {worst:.3g}; typical size {np.nanmean(np.abs(b)):.3g})"


def _pattern(a: np.ndarray, b: np.ndarray, rule: Close, single: bool = False) -> str:
    def close(x: np.ndarray, y: np.ndarray) -> bool:
        return bool(np.allclose(x, y, rtol=max(rule.rtol, 1e-3), atol=rule.atol))

    if not np.isfinite(a).all() or not np.isfinite(b).all() or not np.abs(b).max() > 0:
        return ""
    if not np.abs(a).max() > 0:
        return "" if single else "is zero everywhere"
    if close(-a, b):
        return "the sign is the wrong way round" if single else "has the sign the wrong way round"
    factor = float((a * b).sum() / (b * b).sum())
    simple = _simple_number(factor)
    if single:
        return f"{simple} times the expected value" if simple else ""
    # "1 times what is expected" would say nothing: a factor that close to 1 is a small difference, told as one
    if close(a, factor * b) and format(factor, ".4g") != "1":
        return f"is {simple or format(factor, '.4g')} times what is expected, everywhere"
    offset = float((a - b).mean())
    if a.size > 2 and close(a - offset, b):
        return f"is {abs(offset):.4g} too {'large' if offset > 0 else 'small'} everywhere"
    return ""


def _simple_number(factor: float) -> str:
    """A factor a learner can place (2, 1/2, 64, 1/64 ...), or the empty string."""
    for value, text in ((factor, "{}"), (1 / factor if factor else 0, "1/{}")):
        if 1.5 < value < 1e5 and abs(value - round(value)) < 1e-3 * value:
            return text.format(round(value))
    return ""


def _shape_hint(got: tuple[int, ...], want: tuple[int, ...]) -> str:
    if got == want[::-1] and len(got) > 1:
        return " (transposed?)"
    if sorted(got) == sorted(want) and len(got) > 1:
        return " (axes in another order?)"
    if len(got) < len(want):
        return " (summed or averaged over one axis too many?)"
    if len(got) > len(want):
        return " (an axis that should have been summed or averaged?)"
    return ""


def _kind(value: Leaf) -> str:
    return f"an array of shape {list(value.shape)}" if isinstance(value, np.ndarray) and value.ndim else "a number"


def _show(value: Leaf) -> str:
    if isinstance(value, np.ndarray):
        return f"an array of shape {list(value.shape)}"
    text = repr(value)
    return text if len(text) < 60 else text[:57] + "..."


def _count(values: Mapping[str, Leaf]) -> str:
    return "one value" if values.keys() == {""} else f"{len(values)} values ({_names(values)})"


def _names(names: Any) -> str:
    return ", ".join(sorted(f"`{name}`" for name in names))
