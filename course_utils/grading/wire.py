"""What a child process may say, as bytes: a capped JSON header and raw arrays. Exact types, a dtype whitelist, never pickle.

A frame is `CGW1`, the header's length (4 bytes), the body's length (8 bytes), the header (JSON), the body (array bytes).
Everything here that decodes treats its input as hostile: it returns plain, bounded data or raises `WireError`.
"""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Iterator
from typing import Any

import numpy as np

from course_utils.grading import observe as ob
from course_utils.grading.observe import Failure, Observation, Observations

MAGIC = b"CGW1"
PREFIX = struct.Struct("<4sIQ")
MAX_HEADER = 4 << 20
MAX_BODY = 64 << 20
MAX_TOTAL = 128 << 20
"""Bytes a submission may send in all."""
MAX_CASES, MAX_VALUES, MAX_KEY = 400, 20_000, 200
MAX_TEXT_VALUE, MAX_DIMENSIONS = 100_000, 8
DTYPES = frozenset(
    ["|b1", "|i1", "|u1", "<i2", "<i4", "<i8", "<u2", "<u4", "<u8", "<f2", "<f4", "<f8"],
)
KINDS = frozenset(value for name, value in vars(ob).items() if name.isupper() and isinstance(value, str))
"""The kinds of failure that `observe` names."""
FAILURE_LIMITS = {"kind": 40, "message": 2000, "error": 100, "line": 300, "shapes": 1000}


class WireError(ValueError):
    """The bytes are not a frame that this grader accepts."""


# -- text ---------------------------------------------------------------------------------------------------------

# control characters (terminals, XML), marks that turn text round, and code points that UTF-8 has no bytes for
_UNSAFE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff\ufffe\uffff]"
)
_ADDRESS = re.compile(r"\b0x[0-9a-fA-F]{6,}\b")


def clean(text: str, limit: int = 2000) -> str:
    """Text that is safe to print and to write as UTF-8 and XML, at most `limit` long, the same from run to run."""
    text = _ADDRESS.sub("0x…", _UNSAFE.sub("\ufffd", text[: limit * 2].replace("\r\n", "\n")))
    return text if len(text) <= limit else text[: limit - 1] + "…"


_NUMBERS = re.compile(r"[-+]?\d+\.\d*(?:[eE][-+]?\d+)?|[-+]?\d+[eE][-+]?\d+|\d{7,}")
_LONG_WORDS = re.compile(r"[A-Za-z0-9+/=_\-]{48,}")


def without_inputs(message: str) -> str:
    """An error message without what may be hidden inputs: decimal numbers, long numbers and long unbroken words."""
    return _LONG_WORDS.sub("…", _NUMBERS.sub("#", message))


# -- encoding (the child) -----------------------------------------------------------------------------------------


def frame(header: dict[str, Any], body: bytes = b"") -> bytes:
    """One frame."""
    text = json.dumps(header, separators=(",", ":"), allow_nan=False).encode()
    return PREFIX.pack(MAGIC, len(text), len(body)) + text + body


def encode_observations(observations: Observations) -> tuple[dict[str, Any], bytes]:
    """Observations as a JSON-ready mapping and the arrays' bytes."""
    parts: list[bytes] = []
    cases: dict[str, Any] = {}
    for name, seen in observations.items():
        if seen.failure is not None:
            cases[name] = {"failure": seen.failure.to_dict()}
        else:
            cases[name] = {"values": {key: _encode_leaf(value, parts) for key, value in seen.values.items()}}
    return cases, b"".join(parts)


def _encode_leaf(value: Any, parts: list[bytes]) -> list[Any]:
    if value is None:
        return ["n"]
    if isinstance(value, bool):
        return ["b", bool(value)]
    if isinstance(value, int):
        return ["i", int(value)] if -(2**63) <= value < 2**63 else ["s", "a whole number of more than 64 bits"]
    if isinstance(value, float):
        return ["f", float.hex(float(value))]
    if isinstance(value, str):
        return ["s", str(value)]
    array = np.asarray(value)
    if array.dtype.kind == "U":
        return ["u", list(array.shape), [str(item) for item in array.ravel()]]
    if array.dtype.kind == "f" and array.dtype.itemsize > 8:
        array = array.astype("<f8")
    array = np.ascontiguousarray(array).reshape(array.shape)
    array = array.astype(array.dtype.newbyteorder("<"), copy=False)
    parts.append(array.tobytes())
    return ["a", array.dtype.str, list(array.shape)]


# -- decoding (the trusted side) ----------------------------------------------------------------------------------


class Reader:
    """Collects bytes as they arrive and gives complete frames; raises WireError on the first byte that cannot be right."""

    def __init__(self, max_total: int = MAX_TOTAL) -> None:
        self._held = bytearray()
        self._left = max_total

    def feed(self, data: bytes) -> Iterator[tuple[dict[str, Any], bytes]]:
        self._left -= len(data)
        if self._left < 0:
            raise WireError("more data than any exercise needs")
        self._held += data
        while len(self._held) >= PREFIX.size:
            magic, header_length, body_length = PREFIX.unpack_from(self._held)
            if magic != MAGIC or header_length > MAX_HEADER or body_length > MAX_BODY:
                raise WireError("not a frame")
            end = PREFIX.size + header_length + body_length
            if len(self._held) < end:
                return
            header = _parse_header(bytes(self._held[PREFIX.size : PREFIX.size + header_length]))
            body = bytes(self._held[PREFIX.size + header_length : end])
            del self._held[:end]
            yield header, body


def _parse_header(raw: bytes) -> dict[str, Any]:
    def refuse(text: str) -> Any:
        raise WireError(f"{text} is not JSON")

    try:
        header = json.loads(raw.decode("utf-8"), parse_constant=refuse)
    except WireError:
        raise
    except (ValueError, RecursionError) as error:  # also numbers with more digits than Python converts
        raise WireError(f"the header is not JSON ({type(error).__name__})") from None
    if type(header) is not dict or type(header.get("kind")) is not str:
        raise WireError("the header is not a mapping with a kind")
    return header


def decode_observations(cases: Any, body: bytes) -> Observations:
    """The observations in a frame, with every type and size checked."""
    _want(type(cases) is dict and len(cases) <= MAX_CASES, "cases are not a mapping, or too many")
    place = _Place(body)
    seen = {}
    for name, case in cases.items():
        _want(len(name) <= MAX_KEY and type(case) is dict and len(case) == 1, "a case is not what it should be")
        if "failure" in case:
            seen[name] = Observation(failure=_decode_failure(case["failure"]))
        else:
            values = case.get("values")
            _want(type(values) is dict, "values are not a mapping")
            seen[name] = Observation(values={_key(key): _decode_leaf(leaf, place) for key, leaf in values.items()})
    _want(place.at == len(body), "bytes are left over")
    return seen


class _Place:
    """How far into the body decoding has come, and how many values it has met."""

    def __init__(self, body: bytes) -> None:
        self.body, self.at, self.values = body, 0, 0

    def take(self, count: int) -> bytes:
        _want(0 <= count <= len(self.body) - self.at, "an array is longer than its bytes")
        self.at += count
        return self.body[self.at - count : self.at]


def _decode_failure(record: Any) -> Failure:
    _want(type(record) is dict and record.keys() <= FAILURE_LIMITS.keys(), "a failure is not what it should be")
    _want(all(type(value) is str for value in record.values()), "a failure holds something other than text")
    _want(record.get("kind") in KINDS, "an unknown kind of failure")
    fields = {name: clean(record.get(name, ""), limit) for name, limit in FAILURE_LIMITS.items()}
    if fields["kind"] == ob.RAISED or fields["kind"] == ob.UNREADABLE:
        fields["message"] = without_inputs(fields["message"])
    return Failure(**fields)


def _decode_leaf(leaf: Any, place: _Place) -> Any:
    place.values += 1
    _want(place.values <= MAX_VALUES, "too many values")
    _want(type(leaf) is list and leaf and type(leaf[0]) is str, "a value is not what it should be")
    tag, *rest = leaf
    if tag == "n" and not rest:
        return None
    if tag in ("b", "i", "f", "s") and len(rest) == 1:
        return _decode_scalar(tag, rest[0])
    if tag == "a" and len(rest) == 2:
        return _decode_array(rest[0], _shape(rest[1]), place)
    if tag == "u" and len(rest) == 2:
        shape, items = _shape(rest[0]), rest[1]
        _want(type(items) is list and len(items) == _size(shape) <= MAX_VALUES, "a text array of the wrong size")
        _want(all(type(item) is str and len(item) <= MAX_KEY for item in items), "a text array holds no short text")
        return np.array([_utf8(item) for item in items], dtype=str).reshape(shape)
    raise WireError("an unknown kind of value")


def _decode_scalar(tag: str, value: Any) -> Any:
    if tag == "b" and type(value) is bool:
        return value
    if tag == "i" and type(value) is int and -(2**63) <= value < 2**63:
        return value
    if tag == "f" and type(value) is str and len(value) <= 40:
        try:
            return float.fromhex(value)
        except (ValueError, OverflowError):
            raise WireError("not a number") from None
    if tag == "s" and type(value) is str and len(value) <= MAX_TEXT_VALUE:
        return _utf8(value)
    raise WireError("a value of the wrong type or size")


def _decode_array(dtype: Any, shape: tuple[int, ...], place: _Place) -> np.ndarray:
    _want(type(dtype) is str and dtype in DTYPES, "an array of an unknown type")
    kind = np.dtype(dtype)
    raw = place.take(_size(shape) * kind.itemsize)
    if dtype == "|b1":  # a byte other than 0 and 1 is no bool that numpy can count on
        return (np.frombuffer(raw, dtype="|u1") != 0).reshape(shape)
    return np.frombuffer(raw, dtype=kind).reshape(shape).copy()


def _shape(value: Any) -> tuple[int, ...]:
    _want(type(value) is list and len(value) <= MAX_DIMENSIONS, "a shape is not a short list")
    _want(all(type(n) is int and 0 <= n <= MAX_BODY for n in value), "a shape holds something other than sizes")
    return tuple(value)


def _size(shape: tuple[int, ...]) -> int:
    size = 1
    for n in shape:
        size *= n
    return size


def _key(key: str) -> str:
    _want(len(key) <= MAX_KEY, "a name is too long")
    return _utf8(key)


def _utf8(text: str) -> str:
    return text.encode("utf-8", "replace").decode()


def _want(condition: Any, message: str) -> None:
    if not condition:
        raise WireError(message)
