"""Messages between the processes of a run: a JSON header and raw arrays over a stream socket. Nothing is unpickled.

A message is MAGIC, header length and payload length (big-endian), the header, the payload. The header names the
message's kind, its fields, and type and shape of every array in the payload.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

PROTOCOL = 1
MAGIC = b"PWC1"
MAX_HEADER = 64 * 1024
MAX_PAYLOAD = 32 * 1024 * 1024
_PREFIX = struct.Struct(">4sIQ")
_TYPES = {name: np.dtype(name) for name in ("<f8", "<f4", "<i8", "<u2", "|u1", "|b1")}
_MOST_DIMENSIONS = 4


class WireError(ValueError):
    """What came over the socket is no message; the connection is of no use any more."""


@dataclass(frozen=True, eq=False)
class Message:
    """kind: what it is. fields: JSON values. arrays: by name."""

    kind: str
    fields: Mapping[str, Any] = field(default_factory=dict)
    arrays: Mapping[str, np.ndarray] = field(default_factory=dict)

    def number(self, name: str) -> float:
        """A finite number among the fields.

        Raises:
            WireError: absent, or something else.
        """
        value = self.fields.get(name)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise WireError(f"{self.kind}: '{name}' is {value!r}, expected a number")
        if not math.isfinite(value):
            raise WireError(f"{self.kind}: '{name}' is {value!r}, expected a finite number")
        return float(value)

    def vector(self, name: str, count: int) -> np.ndarray:
        """A float64 array (count,).

        Raises:
            WireError: absent, or of another shape or type. Its numbers may be anything.
        """
        value = self.arrays.get(name)
        if value is None or value.shape != (count,) or value.dtype != np.float64:
            raise WireError(f"{self.kind}: '{name}' is no float64 array ({count},)")
        return value


def encode(message: Message) -> bytes:
    """Bytes of a message.

    Raises:
        WireError: an array of a type that is not sent, or a message beyond the size limits.
    """
    layout, parts = [], []
    for name, value in message.arrays.items():
        array = np.ascontiguousarray(value)
        if array.dtype.str not in _TYPES or array.ndim > _MOST_DIMENSIONS:
            raise WireError(f"array '{name}' of {array.dtype} {array.shape} cannot be sent")
        layout.append([name, array.dtype.str, list(array.shape)])
        parts.append(array.tobytes())
    header = json.dumps(
        {"kind": message.kind, "fields": dict(message.fields), "arrays": layout}
    ).encode()
    payload = b"".join(parts)
    if len(header) > MAX_HEADER or len(payload) > MAX_PAYLOAD:
        raise WireError(f"a message of {len(header)} + {len(payload)} bytes is too large to send")
    return _PREFIX.pack(MAGIC, len(header), len(payload)) + header + payload


class Decoder:
    """Turns a stream into messages. Sizes are judged before anything of a message is kept."""

    def __init__(self, *, max_header: int = MAX_HEADER, max_payload: int = MAX_PAYLOAD) -> None:
        self._buffer = bytearray()
        self._max_header, self._max_payload = max_header, max_payload

    def feed(self, data: bytes) -> list[Message]:
        """Messages that are complete now.

        Raises:
            WireError: the stream holds something else.
        """
        self._buffer += data
        messages = []
        while len(self._buffer) >= _PREFIX.size:
            magic, header, payload = _PREFIX.unpack_from(self._buffer)
            if magic != MAGIC:
                raise WireError("not a message of this protocol")
            if header > self._max_header or payload > self._max_payload:
                raise WireError(f"a message of {header} + {payload} bytes is over the limit")
            end = _PREFIX.size + header + payload
            if len(self._buffer) < end:
                break
            body = bytes(self._buffer[_PREFIX.size : end])
            del self._buffer[:end]
            messages.append(_parse(body[:header], body[header:]))
        return messages


def _parse(header: bytes, payload: bytes) -> Message:
    try:
        content = json.loads(header.decode("utf-8"))
        kind, fields, layout = content["kind"], content["fields"], content["arrays"]
        if not (isinstance(kind, str) and isinstance(fields, dict) and isinstance(layout, list)):
            raise WireError("a header of the wrong make")
        arrays, at = {}, 0
        for name, code, shape in layout:
            dtype = _TYPES[code]
            sizes = [int(n) for n in shape]
            if min(sizes, default=1) < 0 or len(sizes) > _MOST_DIMENSIONS:
                raise WireError(f"array '{name}' has shape {shape}")
            length = math.prod(sizes) * dtype.itemsize
            if at + length > len(payload):
                raise WireError(f"array '{name}' is longer than its message")
            values = np.frombuffer(payload, dtype, math.prod(sizes), at)
            arrays[str(name)] = values.reshape(sizes)
            at += length
        if at != len(payload):
            raise WireError("a message with bytes that no array claims")
    except WireError:
        raise
    except (ValueError, TypeError, KeyError, RecursionError, OverflowError) as error:
        raise WireError(f"a header that cannot be read: {error}") from error
    return Message(kind=kind, fields=fields, arrays=arrays)
