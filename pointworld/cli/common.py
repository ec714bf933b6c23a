"""What every command shares: argument parsing, progress, run records, device choice."""

from __future__ import annotations

import dataclasses
import difflib
import importlib.metadata
import json
import platform
import sys
import types
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import torch
import tyro
import yaml
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from pointworld.errors import InputError
from pointworld.files import write_json

T = TypeVar("T")

#: Everything for people goes to stderr; stdout carries only what a script asked for.
console = Console(stderr=True, highlight=False)


def package_version() -> str:
    """Version of the installed distribution."""
    return importlib.metadata.version("pointworld-open")


def parse(cls: type[T], argv: Sequence[str], *, prog: str) -> T:
    """Fill the dataclass `cls` from its defaults, then `--config FILE` (YAML), then the command line.

    Raises:
        InputError: the YAML file has unknown keys or values of the wrong type.
    """
    arguments = list(argv)
    default: Any = None
    config = _take_option(arguments, "--config")
    if config is not None:
        default = load_config(cls, Path(config))
    description = (
        cls.__doc__ or ""
    ) + "\n\n--config FILE reads defaults from YAML; options given here win."
    kwargs: dict[str, Any] = {"args": arguments, "prog": prog, "description": description}
    if default is not None:
        kwargs["default"] = default
    return tyro.cli(cls, **kwargs)


def _take_option(arguments: list[str], option: str) -> str | None:
    for index, word in enumerate(arguments):
        if word == option:
            if index + 1 >= len(arguments):
                raise InputError(f"{option} needs a file name after it")
            value = arguments[index + 1]
            del arguments[index : index + 2]
            return value
        if word.startswith(option + "="):
            del arguments[index]
            return word.split("=", 1)[1]
    return None


def load_config(cls: type[T], path: Path) -> T:
    """Read a YAML file into the dataclass `cls`; unknown keys and wrong types are errors.

    Keys of fields without a default may stay absent only if the command line gives them.
    """
    if not path.is_file():
        raise InputError(f"--config {path}: no such file")
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise InputError(f"{path} is not valid YAML: {error}") from error
    if not isinstance(values, Mapping):
        raise InputError(
            f"{path}: expected keys and values at the top level, got {type(values).__name__}"
        )
    return from_mapping(cls, values, str(path))


def from_mapping(cls: type[T], values: Mapping[str, Any], where: str) -> T:
    """Build the dataclass `cls` from a mapping, strictly; nested dataclasses from nested mappings."""
    hints = typing.get_type_hints(cls)
    fields = {f.name: f for f in dataclasses.fields(cls) if f.init}  # type: ignore[arg-type]
    built: dict[str, Any] = {}
    for key, value in values.items():
        if key not in fields:
            close = difflib.get_close_matches(str(key), fields, n=1)
            hint = f" Did you mean '{close[0]}'?" if close else f" Known keys: {', '.join(fields)}."
            raise InputError(f"{where}: unknown key '{key}'.{hint}")
        built[key] = _convert(hints[key], value, f"{where}: '{key}'")
    for name, f in fields.items():
        absent = f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
        if name not in built and absent:
            built[name] = tyro.MISSING
    return cls(**built)


def _convert(hint: Any, value: Any, where: str) -> Any:
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Annotated:
        return _convert(args[0], value, where)
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        if not isinstance(value, Mapping):
            raise InputError(f"{where} must be a group of keys, got {value!r}")
        return from_mapping(hint, value, where)
    if origin is typing.Literal:
        if value not in args:
            raise InputError(f"{where} is {value!r}, expected one of {', '.join(map(repr, args))}")
        return value
    if origin in (typing.Union, types.UnionType):
        return _convert_union(args, value, where)
    if origin in (tuple, list):
        if not isinstance(value, list):
            raise InputError(f"{where} must be a list, got {value!r}")
        inner = args[0] if origin is list or (len(args) == 2 and args[1] is Ellipsis) else None
        items = [_convert(inner or args[i], v, f"{where}[{i}]") for i, v in enumerate(value)]
        return items if origin is list else tuple(items)
    return _convert_scalar(hint, value, where)


def _convert_union(args: tuple[Any, ...], value: Any, where: str) -> Any:
    if value is None and type(None) in args:
        return None
    problems = []
    for option in args:
        if option is type(None):
            continue
        try:
            return _convert(option, value, where)
        except InputError as error:
            problems.append(error)
    raise problems[0]


def _convert_scalar(hint: Any, value: Any, where: str) -> Any:
    if hint is Any:
        return value
    if hint is Path and isinstance(value, str):
        return Path(value)
    if hint is float and isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    exact = isinstance(hint, type) and type(value) is hint
    if not exact:
        expected = getattr(hint, "__name__", str(hint))
        raise InputError(f"{where} is {value!r} ({type(value).__name__}), expected {expected}")
    return value


def stdout_json(value: Any) -> None:
    """Print one JSON object on stdout (NaN refused: it is not JSON)."""
    sys.stdout.write(json.dumps(value, allow_nan=False) + "\n")


@contextmanager
def progress(total: int | None, label: str) -> Iterator[Callable[[int], None]]:
    """A progress bar on stderr; yields `advance(n)`."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=not console.is_terminal) as bar:
        task = bar.add_task(label, total=total)

        def advance(count: int = 1) -> None:
            bar.advance(task, count)

        yield advance


def write_run_json(
    folder: Path,
    *,
    command: str,
    config: Any,
    seed: int | None,
    timings: Mapping[str, float],
    extra: Mapping[str, Any] | None = None,
) -> None:
    """Record what made the results in `folder`: versions, resolved config, seed, timings [s]."""
    versions = {
        "pointworld-open": package_version(),
        "python": platform.python_version(),
        "torch": torch.__version__,
    }
    record: dict[str, Any] = {
        "command": command,
        "versions": versions,
        "platform": platform.platform(),
        "threads": torch.get_num_threads(),
        "seed": seed,
        "config": plain(config),
        "timings_s": {name: round(float(value), 4) for name, value in timings.items()},
    }
    record.update({key: plain(value) for key, value in (extra or {}).items()})
    write_json(folder / "run.json", record)


def plain(value: Any) -> Any:
    """Turn dataclasses, paths and tuples into what JSON can hold."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, Path):
        return str(value)
    return value


def pick_device(name: str) -> torch.device:
    """Resolve `auto | cpu | cuda` to a device; never falls back silently.

    Raises:
        InputError: the name is unknown, or CUDA is asked for and absent.
    """
    if name not in ("auto", "cpu", "cuda"):
        raise InputError(f"--device is '{name}', expected auto, cpu or cuda")
    available = torch.cuda.is_available()
    if name == "cuda" and not available:
        raise InputError(
            "--device cuda was asked for, but PyTorch finds no CUDA GPU. Use --device cpu, or install a CUDA build "
            "of PyTorch and check nvidia-smi."
        )
    return torch.device("cuda" if available and name != "cpu" else "cpu")
