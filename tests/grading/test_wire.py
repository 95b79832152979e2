"""The wire: what goes in comes out, and nothing but frames of plain data is accepted."""

from __future__ import annotations

import json
import math
import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from course_utils.grading import wire
from course_utils.grading.observe import Failure, Observation


def roundtrip(observations: dict[str, Observation]) -> dict[str, Observation]:
    cases, body = wire.encode_observations(observations)
    frames = list(wire.Reader().feed(wire.frame({"kind": "observations", "cases": cases}, body)))
    assert len(frames) == 1
    return wire.decode_observations(frames[0][0]["cases"], frames[0][1])


def test_every_plain_value_survives_exactly() -> None:
    values = {
        "none": None, "yes": True, "n": -5, "x": 0.1, "inf": -math.inf, "text": "ü\n`", "empty": np.zeros((0, 3), np.float32),
        "f16": np.ones(3, np.float16), "i64": np.arange(6).reshape(2, 3), "bools": np.array([True, False]),
        "scalar": np.array(2, np.float32), "big-endian": np.arange(3, dtype=">i4"), "words": np.array([["a", "bc"]]),
    }  # fmt: skip
    seen = roundtrip(
        {"one": Observation(values=values), "two": Observation(failure=Failure("raised", "m", "E", "l", "s"))}
    )
    assert seen["two"].failure == Failure("raised", "m", "E", "l", "s")
    for name, value in values.items():
        got = seen["one"].values[name]
        if isinstance(value, np.ndarray):
            assert got.shape == value.shape
            np.testing.assert_array_equal(got, value)
        else:
            assert type(got) is type(value)
            assert got == value
    assert math.isnan(roundtrip({"c": Observation(values={"": math.nan})})["c"].values[""])


def test_frames_arrive_in_any_pieces() -> None:
    data = wire.frame({"kind": "a"}, b"123") + wire.frame({"kind": "b"})
    reader = wire.Reader()
    kinds = [header["kind"] for i in range(len(data)) for header, _ in reader.feed(data[i : i + 1])]
    assert kinds == ["a", "b"]


@given(st.binary(max_size=200))
@settings(max_examples=200, deadline=None)
def test_random_bytes_never_do_anything_but_refuse(data: bytes) -> None:
    reader = wire.Reader()
    try:
        for header, body in reader.feed(wire.PREFIX.pack(wire.MAGIC, len(data), 0) + data):
            wire.decode_observations(header.get("cases"), body)
    except wire.WireError:
        pass


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(["values", "failure", "", "kind"]), inner, max_size=3)
    ),
    max_leaves=12,
)


@given(json_values, st.binary(max_size=40))
@settings(max_examples=300, deadline=None)
def test_random_json_never_does_anything_but_refuse(cases: object, body: bytes) -> None:
    try:
        seen = wire.decode_observations(cases, body)
    except wire.WireError:
        return
    assert all(isinstance(observation, Observation) for observation in seen.values())


@pytest.mark.parametrize(
    "leaf",
    [["a", "|O", [1]], ["a", "<c8", [1]], ["a", "<f4", [-1]], ["a", "<f4", [2**40, 2**40]], ["a", "<f4", [1.0]], ["a", "<f4", [True]],
     ["a", "<f4", [1] * 9], ["i", True], ["i", 2**63], ["i", 1.0], ["b", 1], ["f", "nonsense"], ["f", 1.0], ["s", 1], ["n", 1], ["x"], [],
     "n", None, ["u", [2], ["a"]], ["u", [1], [1]]],
)  # fmt: skip
def test_values_of_the_wrong_kind_are_refused(leaf: object) -> None:
    with pytest.raises(wire.WireError):
        wire.decode_observations({"c": {"values": {"": leaf}}}, b"1234")


def test_sizes_are_capped() -> None:
    with pytest.raises(wire.WireError):
        list(wire.Reader().feed(wire.PREFIX.pack(wire.MAGIC, wire.MAX_HEADER + 1, 0)))
    with pytest.raises(wire.WireError):
        list(wire.Reader().feed(wire.PREFIX.pack(wire.MAGIC, 1, wire.MAX_BODY + 1)))
    with pytest.raises(wire.WireError):
        list(wire.Reader(max_total=10).feed(wire.frame({"kind": "x"})))
    with pytest.raises(wire.WireError):
        list(wire.Reader().feed(pickle.dumps({"kind": "x"})))
    with pytest.raises(wire.WireError, match="left over"):
        wire.decode_observations({}, b"1")


def test_text_is_made_safe_to_show() -> None:
    shown = wire.clean("a\x1b[31m\x00\u202eb\ud800 <function f at 0x7f1234567890>")
    assert shown.isprintable() or "\ufffd" in shown
    assert "0x7f" not in shown
    shown.encode()
    assert len(wire.clean("x" * 9999, 50)) == 50


def test_messages_lose_what_may_be_hidden_inputs() -> None:
    text = wire.without_inputs(
        "mat1 and mat2 shapes cannot be multiplied (8x5 and 3x4), got 0.31834 and 12345678 " + "ab" * 30
    )
    assert "(8x5 and 3x4)" in text
    assert "0.31834" not in text
    assert "12345678" not in text
    assert "abab" not in text


def test_headers_are_json_without_extras() -> None:
    for raw in (b"[]", b'{"kind": 1}', b'{"kind": NaN}', b"{", json.dumps({"a": 1}).encode()):
        with pytest.raises(wire.WireError):
            list(wire.Reader().feed(wire.PREFIX.pack(wire.MAGIC, len(raw), 0) + raw))
