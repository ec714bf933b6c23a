"""Results are written whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pointworld.files import atomic_folder, atomic_path, write_json


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    target = tmp_path / "result.npz"
    target.write_text("old")
    with pytest.raises(RuntimeError), atomic_path(target) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert target.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["result.npz"]


def test_the_temporary_name_keeps_the_suffix(tmp_path: Path) -> None:
    with atomic_path(tmp_path / "a.mp4") as temporary:
        assert temporary.suffix == ".mp4"
        temporary.write_text("x")
    assert (tmp_path / "a.mp4").read_text() == "x"


def test_a_failed_folder_writes_nothing(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), atomic_folder(tmp_path / "out") as folder:
        (folder / "a.txt").write_text("a")
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []


def test_a_folder_keeps_files_the_run_does_not_write(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "mine.txt").write_text("keep")
    with atomic_folder(out) as folder:
        (folder / "sub").mkdir()
        (folder / "sub" / "a.txt").write_text("a")
    assert (out / "mine.txt").read_text() == "keep"
    assert (out / "sub" / "a.txt").read_text() == "a"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out"]


def test_files_are_on_the_disk_before_they_have_their_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[str] = []
    flush, rename = os.fsync, Path.replace

    def fsync(descriptor: int) -> None:
        events.append("flush")
        flush(descriptor)

    def replace(source: Path, target: Path) -> Path:
        events.append(f"name {target.name}")
        return rename(source, target)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(Path, "replace", replace)
    with atomic_path(tmp_path / "one") as temporary:
        temporary.write_text("1")
    with atomic_folder(tmp_path / "out") as folder:
        for name in ("a", "b"):
            (folder / name).write_text(name)
        (folder / "b").chmod(0o444)
    assert events == ["flush", "name one", "flush", "name a", "flush", "name b"]


def test_json_refuses_nan(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "a.json", {"x": float("nan")})
    assert list(tmp_path.iterdir()) == []
