"""The packages of the extra are needed only where they are used."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest

from pointworld.data import released
from pointworld.data.released import (
    iterate_shard,
    read_episode,
    read_h5_clip,
    synthetic,
    write_confidence,
)
from pointworld.errors import MissingExtraError
from tests.data.released.conftest import Files


def test_nothing_optional_is_imported_early() -> None:
    """At module level `h5py` and `webdataset` may only be imported for the type checker."""
    files = sorted(Path(released.__file__).parent.glob("*.py"))
    assert len(files) > 10
    for file in files:
        for node in ast.parse(file.read_text()).body:
            if isinstance(node, ast.Import | ast.ImportFrom):
                text = ast.unparse(node)
                assert "h5py" not in text and "import webdataset" not in text, file


def test_absent_packages_are_named(
    droid: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "h5py", None)
    monkeypatch.setitem(sys.modules, "webdataset", None)
    for call in (
        lambda: read_episode(droid.h5),
        lambda: read_h5_clip(droid.h5, "5:16"),
        lambda: write_confidence(tmp_path / "c.h5", {}),
        lambda: synthetic.write_h5(tmp_path / "a.h5", {"0:11": droid.raw}),
        lambda: synthetic.write_wds(tmp_path, "test", {"a-0:11": droid.raw}),
    ):
        with pytest.raises(MissingExtraError, match=r"pointworld-open\[datasets\]"):
            call()
    assert not list(tmp_path.glob("*.h5"))
    assert len(list(iterate_shard(droid.shard))) == 1  # shards need neither
