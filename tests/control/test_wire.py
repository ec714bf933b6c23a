"""Messages: what goes in comes out; what is no message is refused before it costs anything."""

from __future__ import annotations

import json
import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pointworld.control.wire import MAGIC, Decoder, Message, WireError, encode


def test_messages_survive_any_split() -> None:
    message = Message(
        "state",
        {"a": 1, "b": [1.5, None, "x"]},
        {"q": np.arange(7.0), "m": np.eye(3, dtype=np.float32)},
    )
    data = encode(message) * 2
    for size in (1, 7, len(data)):
        decoder, out = Decoder(), list[Message]()
        for at in range(0, len(data), size):
            out += decoder.feed(data[at : at + size])
        assert len(out) == 2
        assert out[1].kind == "state" and out[1].fields["b"] == [1.5, None, "x"]
        assert np.array_equal(out[1].arrays["q"], np.arange(7.0))
        assert out[1].arrays["m"].dtype == np.float32


def _raw(header: object, payload: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack(">4sIQ", MAGIC, len(text), len(payload)) + text + payload


def _arrays(*layout: object) -> dict[str, object]:
    return {"kind": "x", "fields": {}, "arrays": list(layout)}


BAD = {
    "another protocol": b"GET / HTTP/1.1\r\n\r\n",
    "a pickle": b"\x80\x04\x95" + bytes(40),
    "no JSON": _raw(b"{{{{"),
    "deep JSON": _raw(b"[" * 60_000),
    "a list": _raw([1, 2]),
    "an unknown type": _raw(_arrays(["q", "|O", [1]]), b"12345678"),
    "longer than the message": _raw(_arrays(["q", "<f8", [10]]), bytes(8)),
    "negative": _raw(_arrays(["q", "<f8", [-1]]), b""),
    "a product that overflows": _raw(_arrays(["q", "<f8", [2**40, 2**40]]), bytes(8)),
    "bytes left over": _raw(_arrays(), bytes(8)),
    "not UTF-8": _raw(b"\xff\xfe{}"),
}


@pytest.mark.rejects_input
@pytest.mark.parametrize("name", BAD)
def test_what_is_no_message_is_refused(name: str) -> None:
    with pytest.raises(WireError):
        Decoder().feed(BAD[name])


def test_large_sizes_are_refused_before_the_data_comes() -> None:
    with pytest.raises(WireError, match="over the limit"):
        Decoder().feed(struct.pack(">4sIQ", MAGIC, 10, 2**60))


def test_objects_are_not_sent() -> None:
    with pytest.raises(WireError):
        encode(Message("x", {}, {"q": np.array([{}], dtype=object)}))


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=300), st.integers(0, 15))
def test_any_bytes_give_messages_or_one_error(data: bytes, keep: int) -> None:
    start = encode(Message("x", {"a": 1}, {"q": np.zeros(3)}))
    for stream in (data, start[:keep] + data):
        try:
            for message in Decoder().feed(stream):
                assert isinstance(message.kind, str)
        except WireError:
            continue
