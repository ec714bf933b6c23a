"""`pointworld capture record`: pictures with the joints of their moment."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest

from pointworld.capture import read_capture
from pointworld.cli.app import main
from pointworld.cli.capture_record import main as record_main
from pointworld.errors import InputError

pytest.importorskip("mujoco", reason="mujoco is not installed")


def test_a_simulated_arm_is_recorded(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [str(tmp_path / "cap"), "--seconds", "0.3", "--every", "0.1", "--json"]
    assert main(["capture", "record", *words]) == 0
    summary = json.loads(capsys.readouterr().out)
    capture = read_capture(tmp_path / "cap")
    assert summary["moments"] == 3 and len(capture.frames) == summary["frames"] == 9
    times = sorted({round(frame.timestamp, 3) for frame in capture.frames})
    assert np.allclose(np.diff(times), 0.1, atol=0.01)
    assert capture.robot == "fr3" and capture.T_world_base is not None
    joints = [frame.joint_positions for frame in capture.frames]
    assert all(q is not None and q.shape == (8,) for q in joints)


def test_shots_wait_for_a_person(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("\n\n"))
    assert record_main([str(tmp_path / "cap"), "--shots", "2"]) == 0
    assert len({frame.name for frame in read_capture(tmp_path / "cap").frames}) == 6


@pytest.mark.rejects_input
def test_what_cannot_be_recorded_is_said(tmp_path: Path) -> None:
    before = tmp_path / "before"
    before.mkdir()
    (before / "capture.json").write_text("{}")
    with pytest.raises(InputError, match="holds a recording already"):
        record_main([str(before)])
    with pytest.raises(InputError, match="replayed"):
        record_main([str(tmp_path), "--robot", "fake", "--camera", "replay:x"])
    with pytest.raises(InputError, match="--every"):
        record_main([str(tmp_path), "--every", "0"])
    with pytest.raises(InputError, match="--host"):
        record_main([str(tmp_path), "--robot", "franka"])
