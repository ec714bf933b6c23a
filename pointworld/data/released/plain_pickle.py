"""Reads the `.pyd` members of the released shards, which are pickles, without unpickling.

A pickle is a program for a stack machine that may call any function of any module. Here the opcodes are only parsed
(`pickletools.genops` executes nothing) and a few of them are interpreted on plain data: dictionaries, lists, tuples,
strings, bytes, numbers, and NumPy arrays and scalars (object arrays only of text). The names by which NumPy pickles
arrays are recognised as text and never imported; arrays are built from their raw bytes after their claimed size was
checked.
"""

from __future__ import annotations

import io
import pickletools
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from pointworld.errors import InputError

#: Operations of one member; a released clip has a few dozen per mesh.
MAX_OPERATIONS = 1 << 20
#: Bits of an integer.
_MAX_LONG_BYTES = 8
_MARK = object()

_CORE = ("numpy.core", "numpy._core")
_ROLES: dict[tuple[str, str], str] = {
    ("numpy", "ndarray"): "ndarray",
    ("numpy", "dtype"): "dtype",
    **{(f"{core}.multiarray", "_reconstruct"): "reconstruct" for core in _CORE},
    **{(f"{core}.multiarray", "scalar"): "scalar" for core in _CORE},
    **{(f"{core}.numeric", "_frombuffer"): "frombuffer" for core in _CORE},
}
_KINDS = "biufSUO"
_BYTE_ORDERS = ("<", "|", "=", ">")


@dataclass(frozen=True)
class _Name:
    """A recognised global, by what it does."""

    role: str


@dataclass
class _Dtype:
    """A dtype before and after its state was set."""

    code: str
    order: str = "|"

    def build(self) -> np.dtype[Any]:
        order = "" if self.order == "|" else self.order
        return np.dtype(order + self.code)


@dataclass
class _Array:
    """An array before and after its state was set."""

    value: np.ndarray | list[str] | None = None


def loads_plain(data: bytes, *, where: str) -> Any:
    """The value of a pickle made of plain containers, strings, numbers and NumPy arrays.

    Args:
        data: the whole pickle, of protocol 3 or newer.
        where: file and member, for messages.

    Raises:
        InputError: it would import or call anything else, is truncated, claims more bytes than it has, or uses an
            operation that such data does not need.
    """
    try:
        return _Machine(where).run(data)
    except InputError:
        raise
    except (
        ValueError,
        IndexError,
        KeyError,
        TypeError,
        AttributeError,
        OverflowError,
        UnicodeError,
        MemoryError,
        RecursionError,
        struct.error,
    ) as error:
        raise InputError(
            f"{where}: not a readable pickle of arrays ({error}). Download the shard again."
        ) from error


class _Machine:
    """The stack of one pickle; nothing is called.

    array_bytes: what arrays may still take; bytes that are used twice count twice, so that small pickles stay small.
    """

    def __init__(self, where: str) -> None:
        self.where = where
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}
        self.array_bytes = 0

    def refuse(self, what: str) -> InputError:
        return InputError(
            f"{self.where}: {what}. Only dictionaries, lists, strings, numbers and NumPy arrays are read from a .pyd "
            "member; anything else could run code when loaded."
        )

    def run(self, data: bytes) -> Any:
        stream = io.BytesIO(data)
        self.array_bytes = len(data)
        for count, (operation, argument, _) in enumerate(pickletools.genops(stream)):
            if count >= MAX_OPERATIONS:
                raise self.refuse(f"more than {MAX_OPERATIONS} pickle operations")
            name = operation.name
            if name == "STOP":
                if len(self.stack) != 1 or stream.tell() != len(data):
                    raise self.refuse("bytes or values left over after the pickle's end")
                return _finish(self.stack.pop(), self)
            step = _OPERATIONS.get(name)
            if step is None:
                raise self.refuse(f"pickle operation {name} is not allowed")
            step(self, argument)
        raise ValueError("no end")

    def to_mark(self) -> list[Any]:
        """Pop everything above the last mark, and the mark."""
        for index in range(len(self.stack) - 1, -1, -1):
            if self.stack[index] is _MARK:
                items = self.stack[index + 1 :]
                del self.stack[index:]
                return items
        raise ValueError("no mark")

    def fold(self, count: int) -> None:
        if count > len(self.stack):
            raise ValueError("stack underflow")
        items = tuple(self.stack[len(self.stack) - count :])
        del self.stack[len(self.stack) - count :]
        self.stack.append(items)

    def memoize(self, index: int | None) -> None:
        self.memo[len(self.memo) if index is None else index] = self.stack[-1]

    def name(self, module: str, attribute: str) -> None:
        role = _ROLES.get((module, attribute))
        if role is None:
            raise self.refuse(f"it names {module}.{attribute}")
        self.stack.append(_Name(role))

    def integer(self, value: int) -> None:
        if abs(value) >= 1 << (8 * _MAX_LONG_BYTES):
            raise self.refuse("an integer of more than 64 bits")
        self.stack.append(value)

    def set_items(self, pairs: list[Any]) -> None:
        target = self.stack[-1]
        if type(target) is not dict or len(pairs) % 2:
            raise ValueError("items for something that is no dictionary")
        for key, value in zip(pairs[::2], pairs[1::2], strict=True):
            if not isinstance(key, str | int):
                raise self.refuse(f"a dictionary key of type {type(key).__name__}")
            target[key] = value

    def append(self, values: list[Any]) -> None:
        if type(self.stack[-1]) is not list:
            raise ValueError("values for something that is no list")
        self.stack[-1].extend(values)

    def reduce(self) -> None:
        arguments, target = self.stack.pop(), self.stack.pop()
        if not isinstance(target, _Name) or not isinstance(arguments, tuple):
            raise self.refuse("it calls something that is no array constructor")
        self.stack.append(_REDUCE[target.role](self, *arguments))

    def build(self) -> None:
        state, target = self.stack.pop(), self.stack[-1]
        if isinstance(target, _Dtype) and isinstance(state, tuple):
            _set_dtype(self, target, state)
        elif isinstance(target, _Array) and isinstance(state, tuple):
            _set_array(self, target, state)
        else:
            raise self.refuse("it sets the state of something that is no array")


def _told(value: Any) -> str:
    """A value for a message. Of containers only the type: what shares or nests itself has no end as text."""
    return repr(value[:40]) if isinstance(value, str) else f"<{type(value).__name__}>"


def _make_dtype(machine: _Machine, code: Any, *flags: Any) -> _Dtype:
    valid = isinstance(code, str) and code[:1] in _KINDS and code[1:].isdigit() and len(code) <= 8
    if not valid or not 1 <= int(code[1:]) <= 1 << 16:
        raise machine.refuse(f"an array of dtype {_told(code)}")
    return _Dtype(code)


def _set_dtype(machine: _Machine, target: _Dtype, state: tuple[Any, ...]) -> None:
    if len(state) < 5 or state[1] not in _BYTE_ORDERS or any(v is not None for v in state[2:5]):
        raise machine.refuse("a structured or sub-array dtype")
    target.order = state[1]


def _set_array(machine: _Machine, target: _Array, state: tuple[Any, ...]) -> None:
    _, shape, dtype, fortran, data = state
    if isinstance(dtype, _Dtype) and dtype.code[0] == "O":
        target.value = _strings(machine, shape, data)
        return
    target.value = _array(machine, data, dtype, shape, "F" if fortran else "C")


def _strings(machine: _Machine, shape: Any, data: Any) -> list[str]:
    """A flat object array, which is how HDF5 strings arrive: its elements must be text."""
    if not isinstance(data, list) or shape != (len(data),):
        raise machine.refuse("an array of Python objects that is no flat list")
    if not all(isinstance(v, str | bytes) for v in data):
        raise machine.refuse("an array of Python objects other than text")
    return [v.decode() if isinstance(v, bytes) else v for v in data]


def _array(machine: _Machine, data: Any, dtype: Any, shape: Any, order: str) -> np.ndarray:
    """An array over raw bytes, after their number was compared with the claimed shape."""
    if (
        not isinstance(dtype, _Dtype)
        or dtype.code[0] == "O"
        or not isinstance(data, bytes | bytearray)
    ):
        raise machine.refuse("an array of Python objects")
    if not isinstance(shape, tuple) or not all(type(n) is int and n >= 0 for n in shape):
        raise machine.refuse("an array of a shape that is no tuple of sizes")
    kind = dtype.build()
    size = kind.itemsize
    for n in shape:
        size *= n
    if size != len(data) or len(shape) > 8:
        raise machine.refuse(f"an array that claims {size} bytes and has {len(data)}")
    machine.array_bytes -= size
    if machine.array_bytes < 0:
        raise machine.refuse("arrays that together are larger than the pickle")
    flat = np.frombuffer(data, dtype=kind) if data else np.empty(0, kind)
    return flat.reshape(shape, order="F" if order == "F" else "C").copy()


def _reconstruct(machine: _Machine, kind: Any, shape: Any, code: Any) -> _Array:
    if kind != _Name("ndarray"):
        raise machine.refuse("an array of another class than ndarray")
    return _Array()


def _scalar(machine: _Machine, dtype: Any, data: Any) -> Any:
    return _array(machine, data, dtype, (), "C")[()]


def _frombuffer(machine: _Machine, data: Any, dtype: Any, shape: Any, order: Any) -> _Array:
    if order not in ("C", "F"):
        raise machine.refuse(f"an array of order {_told(order)}")
    return _Array(_array(machine, data, dtype, shape, order))


def _no_call(machine: _Machine, *arguments: Any) -> Any:
    raise machine.refuse("it calls numpy.ndarray directly")


_REDUCE: dict[str, Callable[..., Any]] = {
    "reconstruct": _reconstruct,
    "scalar": _scalar,
    "frombuffer": _frombuffer,
    "dtype": _make_dtype,
    "ndarray": _no_call,
}


def _stack_global(machine: _Machine, _: Any) -> None:
    attribute, module = machine.stack.pop(), machine.stack.pop()
    if not isinstance(module, str) or not isinstance(attribute, str):
        raise machine.refuse(f"it names {_told(module)}.{_told(attribute)}")
    machine.name(module[:80], attribute[:80])


def _global(machine: _Machine, argument: str) -> None:
    module, _, attribute = argument.partition(" ")
    machine.name(module[:80], attribute[:80])


def _set_item(machine: _Machine, _: Any) -> None:
    machine.set_items([machine.stack.pop(-2), machine.stack.pop()])


def _push(make: Callable[[], Any]) -> Callable[[_Machine, Any], None]:
    return lambda machine, _: machine.stack.append(make())


def _fold(count: int) -> Callable[[_Machine, Any], None]:
    return lambda machine, _: machine.fold(count)


def _argument(machine: _Machine, value: Any) -> None:
    machine.stack.append(value)


_OPERATIONS: dict[str, Callable[[_Machine, Any], None]] = {
    "PROTO": lambda machine, _: None,
    "FRAME": lambda machine, _: None,
    "MARK": _push(lambda: _MARK),
    "EMPTY_DICT": _push(dict),
    "EMPTY_LIST": _push(list),
    "EMPTY_TUPLE": _push(tuple),
    "NONE": _push(lambda: None),
    "NEWTRUE": _push(lambda: True),
    "NEWFALSE": _push(lambda: False),
    "TUPLE1": _fold(1),
    "TUPLE2": _fold(2),
    "TUPLE3": _fold(3),
    "TUPLE": lambda machine, _: machine.stack.append(tuple(machine.to_mark())),
    "DICT": lambda machine, _: _make_dict(machine),
    "LIST": lambda machine, _: machine.stack.append(machine.to_mark()),
    "SETITEM": _set_item,
    "SETITEMS": lambda machine, _: machine.set_items(machine.to_mark()),
    "APPEND": lambda machine, _: machine.append([machine.stack.pop()]),
    "APPENDS": lambda machine, _: machine.append(machine.to_mark()),
    "MEMOIZE": lambda machine, _: machine.memoize(None),
    "BINPUT": lambda machine, index: machine.memoize(index),
    "LONG_BINPUT": lambda machine, index: machine.memoize(index),
    "BINGET": lambda machine, index: machine.stack.append(machine.memo[index]),
    "LONG_BINGET": lambda machine, index: machine.stack.append(machine.memo[index]),
    "GLOBAL": _global,
    "STACK_GLOBAL": _stack_global,
    "REDUCE": lambda machine, _: machine.reduce(),
    "BUILD": lambda machine, _: machine.build(),
    **dict.fromkeys(("BININT", "BININT1", "BININT2", "LONG1"), _Machine.integer),
    **dict.fromkeys(
        (
            "BINFLOAT",
            "SHORT_BINUNICODE",
            "BINUNICODE",
            "BINUNICODE8",
            "SHORT_BINBYTES",
            "BINBYTES",
            "BINBYTES8",
            "BYTEARRAY8",
        ),
        _argument,
    ),
}


def _make_dict(machine: _Machine) -> None:
    pairs = machine.to_mark()
    machine.stack.append({})
    machine.set_items(pairs)


def _finish(value: Any, machine: _Machine, depth: int = 0, budget: list[int] | None = None) -> Any:
    """Replace array placeholders in nested containers; shared or deep structures cannot blow up."""
    budget = [MAX_OPERATIONS] if budget is None else budget
    budget[0] -= 1
    if budget[0] < 0 or depth > 16:
        raise machine.refuse("containers nested or shared without end")
    if isinstance(value, _Array):
        if value.value is None:
            raise machine.refuse("an array without contents")
        return value.value
    if isinstance(value, dict):
        return {k: _finish(v, machine, depth + 1, budget) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_finish(v, machine, depth + 1, budget) for v in value]
    if value is _MARK or isinstance(value, _Name | _Dtype):
        raise machine.refuse("a bare class or dtype")
    return value
