"""A second device for machines that have none: which tensors would be on a GPU, and where the two would be mixed.

On a CPU nothing tells a tensor that was left in main memory from one that was moved to the model's device. Under
`TwoDevices` the second device is called `cpu:0`: marked are the tensors that `there` put on it, those that are made or
moved with that device, and what operations make of them; `.device` of a marked tensor is `cpu:0`. An operation on
marked and unmarked tensors, or NumPy on marked ones, is the error that CUDA would raise. What CUDA allows is allowed:
scalars of no dimension, and indices in main memory.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, TypeVar

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

Tensor = torch.Tensor
T = TypeVar("T")
SECOND = torch.device("cpu", 0)
#: Attribute of the tensors that would be on the second device.
MARK = "_on_second_device"
_NUMPY = (torch.Tensor.numpy, torch.Tensor.__array__)
_MOVES = (torch.Tensor.to, torch.Tensor.cpu, torch.as_tensor)
_INDEXED = (torch.Tensor.__getitem__, torch.Tensor.__setitem__)
#: They copy from one device to another.
_COPIES = (torch.Tensor.copy_, torch._has_compatible_shallow_copy_type, *_MOVES)


class MixedDevicesError(AssertionError):
    """What would be CUDA's "Expected all tensors to be on the same device"."""


def there(value: T) -> T:
    """Mark a tensor, or all parameters and buffers of a module, as being on the second device."""
    tensors = [*value.parameters(), *value.buffers()] if isinstance(value, nn.Module) else [value]
    for tensor in tensors:
        setattr(tensor, MARK, True)
    return value


def is_there(value: Tensor) -> bool:
    """Whether the tensor would be on the second device."""
    return bool(getattr(value, MARK, False))


class TwoDevices(TorchFunctionMode):
    """Follow marks through operations (see the module)."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        # A deep copy has all that was copied before among its arguments.
        given = [args[0]] if func is torch.Tensor.__deepcopy__ else list(_tensors((args, kwargs)))
        marked = any(is_there(t) for t in given)
        if func == torch.Tensor.device.__get__:
            return SECOND if marked else func(*args, **kwargs)
        if func == torch.Tensor.data.__set__:  # how modules move their parameters
            setattr(args[0], MARK, is_there(args[1]))
            return func(*args, **kwargs)
        if marked and func in _NUMPY:
            raise MixedDevicesError(f"{func.__name__}: NumPy cannot read a tensor of a GPU")
        if marked and func not in _COPIES:
            compared = [args[0]] if func in _INDEXED else given
            if any(t.ndim and not is_there(t) for t in compared):
                shapes = [(tuple(t.shape), is_there(t)) for t in given]
                name = getattr(func, "__name__", func)
                raise MixedDevicesError(f"{name}: tensors of two devices, {shapes}")
        out = func(*args, **kwargs)
        asked = _asked_device(func, args, kwargs)
        mark = marked if asked is None else asked == SECOND
        if func in _MOVES and is_there(out) != mark:
            out = out.view_as(out)  # moving leaves what is moved where it is
        for tensor in _tensors(out):
            if mark:
                setattr(tensor, MARK, True)
        return out


def _asked_device(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """The device that a call names, None where it names none."""
    if func is torch.Tensor.cpu:
        return torch.device("cpu")
    named = [kwargs.get("device"), kwargs.get("other")]
    named += args[1:] if func in _MOVES else []
    for value in named:
        if isinstance(value, torch.device):
            return value
        if isinstance(value, str):
            return torch.device(value)
        if isinstance(value, Tensor):
            return SECOND if is_there(value) else torch.device("cpu")
    return None


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict):
        for part in value.values():
            yield from _tensors(part)
    elif isinstance(value, list | tuple):
        for part in value:
            yield from _tensors(part)
