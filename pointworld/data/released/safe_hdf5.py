"""Opens HDF5 files that come from elsewhere: nothing outside the file is followed, nothing is read unchecked.

An HDF5 file can point out of itself in three ways: external links, external raw storage, and virtual datasets. Soft
links are paths that may run through any of them. The released files use none, so all are refused.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pointworld.data.released.layout import FieldSpec, check_claim
from pointworld.errors import InputError, MissingExtraError

if TYPE_CHECKING:
    import h5py

#: Filters that need no plug-in: deflate, shuffle, checksum, LZF.
_FILTERS = (1, 2, 3, 32000)
_MAX_CHUNK_BYTES = 1 << 28
_MAX_ATTRIBUTE_VALUES = 1 << 16
_MAX_MEMBERS = 1 << 17


@contextmanager
def open_hdf5(path: str | Path) -> Iterator[h5py.File]:
    """Open a local HDF5 file for reading; errors of the library inside the block become InputError.

    Raises:
        InputError: no such file, or not HDF5, or damaged.
        MissingExtraError: h5py is not installed.
    """
    try:
        import h5py
    except ImportError as error:
        raise MissingExtraError("h5py", "datasets", "reading released H5 files") from error
    source = Path(path)
    if not source.is_file():
        raise InputError(f"{source}: no such file (only local files are read, no URLs)")
    try:
        with h5py.File(source, "r") as file:
            yield file
    except InputError:
        raise
    except (OSError, RuntimeError, KeyError, ValueError, TypeError, UnicodeError) as error:
        raise InputError(
            f"{source} is not a readable HDF5 file ({error}). Download it again."
        ) from error


def member_names(group: h5py.Group) -> list[str]:
    """Names in a group, sorted.

    Raises:
        InputError: there are more than any released file has.
    """
    if len(group) > _MAX_MEMBERS:
        raise InputError(f"{_where(group)} has {len(group)} members, at most {_MAX_MEMBERS}")
    return sorted(group.keys())


def child_group(parent: h5py.Group, name: str) -> h5py.Group:
    """A sub-group reached by a hard link.

    Raises:
        InputError: absent, a link out of the group, or no group.
    """
    import h5py

    child = _child(parent, name)
    if not isinstance(child, h5py.Group):
        raise InputError(f"{_where(parent)}/{name} is no group")
    return child


def read_array(
    parent: h5py.Group, name: str, spec: FieldSpec, sizes: dict[str, int], *, complete: bool
) -> np.ndarray:
    """Read a dataset after its dtype, shape and storage were checked.

    Args:
        complete: insist on the attribute `write_complete`; when absent it is then an error.
    """
    dataset = checked_dataset(parent, name, complete=complete)
    check_claim(spec, dataset.dtype, dataset.shape, f"{_where(parent)}/{name}", sizes)
    return np.asarray(dataset[()])


def read_bytes(parent: h5py.Group, name: str, limit: int, *, complete: bool) -> bytes:
    """Read a dataset of one variable-length byte string (an encoded image), shape (1,) of uint8 sequences."""
    import h5py

    dataset = checked_dataset(parent, name, complete=complete)
    where = f"{_where(parent)}/{name}"
    base = h5py.check_vlen_dtype(dataset.dtype)
    if base != np.dtype(np.uint8) or dataset.shape != (1,):
        raise InputError(
            f"{where} is {dataset.dtype} {dataset.shape}, expected one variable-length sequence of uint8"
        )
    value = np.asarray(dataset[0], np.uint8)
    if value.size > limit:
        raise InputError(f"{where} has {value.size} bytes, at most {limit}")
    return value.tobytes()


def read_strings(parent: h5py.Group, name: str, limit: int, *, complete: bool) -> tuple[str, ...]:
    """Read a one-dimensional dataset of strings."""
    dataset = checked_dataset(parent, name, complete=complete)
    where = f"{_where(parent)}/{name}"
    if dataset.ndim != 1 or dataset.shape[0] > limit or dataset.dtype.kind not in "OS":
        raise InputError(
            f"{where} is {dataset.dtype} {dataset.shape}, expected at most {limit} strings"
        )
    return tuple(_text(value, where) for value in dataset[()])


def read_attributes(item: h5py.Group | h5py.Dataset) -> dict[str, Any]:
    """All attributes as str, bool, int, float or NumPy arrays of them."""
    import h5py

    found: dict[str, Any] = {}
    for name in item.attrs:
        identifier = h5py.h5a.open(item.id, name.encode())
        where = f"{_where(item)} attribute '{name}'"
        if (
            identifier.shape is None
            or math.prod(identifier.shape, start=1) > _MAX_ATTRIBUTE_VALUES
            or identifier.dtype.kind not in "biufSO"
            or h5py.check_ref_dtype(identifier.dtype) is not None
        ):
            raise InputError(f"{where} is neither text nor numbers, or too large")
        value = item.attrs[name]
        if isinstance(value, bytes | str | np.bytes_):
            found[name] = _text(value, where)
        elif isinstance(value, np.ndarray) and value.dtype.kind in "OS":
            found[name] = np.array([_text(v, where) for v in value.ravel()]).reshape(value.shape)
        else:
            found[name] = value.item() if isinstance(value, np.generic) else value
    return found


def _child(parent: h5py.Group, name: str) -> Any:
    import h5py

    where = f"{_where(parent)}/{name}"
    if "/" in name or name in ("", ".", ".."):
        raise InputError(f"{where}: '{name}' is a path, expected the name of a member")
    link = parent.get(name, getlink=True)
    if link is None:
        raise InputError(
            f"{where} is missing. Is this file complete, and of the released layout? See docs/released_data.md"
        )
    if not isinstance(link, h5py.HardLink):
        target = getattr(link, "filename", "") or getattr(link, "path", "")
        raise InputError(
            f"{where} is a {type(link).__name__} to '{target}'. Links that could lead out of the file are not "
            "followed; copy the data in (h5repack does) or download the file again."
        )
    return parent[name]


def checked_dataset(parent: h5py.Group, name: str, *, complete: bool) -> h5py.Dataset:
    """A dataset reached by a hard link, whose values lie in this file, unread."""
    import h5py

    dataset = _child(parent, name)
    where = f"{_where(parent)}/{name}"
    if not isinstance(dataset, h5py.Dataset):
        raise InputError(f"{where} is no dataset")
    if dataset.is_virtual or dataset.external:
        raise InputError(f"{where} keeps its values in another file, which is not followed")
    creation = dataset.id.get_create_plist()
    filters = [creation.get_filter(i)[0] for i in range(creation.get_nfilters())]
    if any(f not in _FILTERS for f in filters):
        raise InputError(
            f"{where} is compressed with filters {filters}; only gzip and LZF are read"
        )
    chunks = dataset.chunks or ()
    if chunks and math.prod(chunks) * dataset.dtype.itemsize > _MAX_CHUNK_BYTES:
        raise InputError(f"{where} claims chunks of {chunks} values, too large to be read")
    if not bool(dataset.attrs.get("write_complete", not complete)):
        raise InputError(
            f"{where}: write_complete is not set: the writer was interrupted. Leave this clip out."
        )
    return dataset


def _text(value: Any, where: str) -> str:
    if isinstance(value, bytes):
        return value.decode("utf-8")
    if isinstance(value, str):
        return str(value)
    raise InputError(f"{where} holds {type(value).__name__}, expected text")


def _where(item: Any) -> str:
    return f"{Path(item.file.filename).name}:{item.name}"
