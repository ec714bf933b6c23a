"""A simulated scene whose arm follows another one, also after its process was put aside for a while."""

from __future__ import annotations

import numpy as np
import pytest

from pointworld.control.twin import PERIOD, Twin
from tests.control.test_goal_view import Stage

pytest.importorskip("mujoco", reason="mujoco is not installed")


def test_a_twin_that_comes_late_catches_up_without_a_jump() -> None:
    stage = Stage()
    twin = Twin(stage.task, stage.joints)
    there = stage.joints.copy()
    there[0] += 0.2
    sent = []
    for _ in range(10):
        twin.step(there, np.zeros_like(there))
        sent.append(twin.arm._to[:-1].copy())
    steps = np.abs(np.diff([stage.joints[:-1], *sent], axis=0)).max(1)
    assert steps.max() <= 1.5 * PERIOD + 1e-9 and steps[0] > 0.9 * 1.5 * PERIOD
    assert np.allclose(sent[-1], there[:-1]), "it arrives"
    twin.close()
