"""Dispatch, configuration files and error lines of the command line."""

from __future__ import annotations

import importlib
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest
import torch

from pointworld.cli.app import COMMANDS, main
from pointworld.cli.common import parse, pick_device
from pointworld.errors import InputError


@dataclass(frozen=True)
class Inner:
    """Nested settings."""

    rate: float = 0.5
    names: tuple[str, ...] = ("a",)


@dataclass(frozen=True)
class Args:
    """Example arguments."""

    source: Path
    count: int = 3
    mode: Literal["fast", "good"] = "fast"
    limit: float | None = None
    inner: Inner = field(default_factory=Inner)


def test_every_command_has_a_module_and_help(capsys: pytest.CaptureFixture[str]) -> None:
    for name, (module, _) in COMMANDS.items():
        assert callable(importlib.import_module(f"pointworld.cli.{module}").main)
        with pytest.raises(SystemExit) as stop:
            main([*name.split(), "--help"])
        assert stop.value.code == 0
        text = capsys.readouterr().out
        assert "pointworld" in text and "xample" in text, f"{name} --help shows no example"


def test_unknown_commands_suggest_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["predcit"]) == 2
    assert "Did you mean 'predict'" in capsys.readouterr().err
    assert main(["doctor"]) == 2
    assert "capture" in capsys.readouterr().err


def test_config_file_then_command_line(tmp_path: Path) -> None:
    config = tmp_path / "c.yaml"
    config.write_text("source: /data\ncount: 7\nmode: good\ninner:\n  rate: 2\n  names: [x, y]\n")
    args = parse(Args, ["--config", str(config), "--count", "9"], prog="t")
    assert args == Args(
        source=Path("/data"), count=9, mode="good", inner=Inner(rate=2.0, names=("x", "y"))
    )
    assert parse(Args, ["--source", "s", "--inner.rate", "3"], prog="t").inner.rate == 3.0


@pytest.mark.rejects_input
@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("source: a\ncuont: 7\n", "Did you mean 'count'"),
        ("source: a\ncount: abc\n", "expected int"),
        ("source: a\ncount: true\n", "expected int"),
        ("source: a\ninner:\n  rat: 1\n", "Did you mean 'rate'"),
        ("source: a\nmode: slow\n", "expected one of 'fast', 'good'"),
        ("source: a\ninner: 3\n", "group of keys"),
        ("- 1\n", "expected keys and values"),
        ("a: [", "not valid YAML"),
        ("source: !!python/object/apply:os.system ['true']\n", "not valid YAML"),
    ],
)
def test_bad_config_is_refused(tmp_path: Path, text: str, message: str) -> None:
    config = tmp_path / "c.yaml"
    config.write_text(text)
    with pytest.raises(InputError, match=message):
        parse(Args, ["--config", str(config)], prog="t")


@pytest.mark.rejects_input
@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a CUDA GPU")
def test_absent_cuda_is_an_error_not_a_fallback() -> None:
    assert pick_device("auto").type == "cpu"
    with pytest.raises(InputError, match="no CUDA GPU"):
        pick_device("cuda")


@pytest.mark.rejects_input
def test_an_input_error_is_one_line_and_exit_code_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["predict", "--config", str(tmp_path / "absent.yaml")]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1


def test_who_stops_reading_gets_no_traceback() -> None:
    words = f"{sys.executable} -m pointworld.cli.app train --help | head -1"
    run = subprocess.run(["bash", "-c", words], capture_output=True, text=True, check=True)
    assert run.stdout.startswith("usage: pointworld train") and run.stderr == ""
