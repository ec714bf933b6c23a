"""A cloth is found on its table by its colours."""

from __future__ import annotations

import numpy as np
import pytest

from pointworld.plan.tasks.choice import _travelled
from pointworld.plan.tasks.push_paths import Push
from pointworld.plan.tasks.shades import Shades


def _scene(
    rng: np.random.Generator, corner: np.ndarray, cloth: np.ndarray, table: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A cloth of 20 cm x 14 cm with its corner there, on a table: points, noisy colours, and which are the cloth's."""
    flat = rng.uniform(0.0, 0.6, (4000, 2))
    inside = ((flat > corner) & (flat < corner + np.array([0.2, 0.14]))).all(-1)
    points = np.column_stack([flat, np.where(inside, 0.003, 0.0)])
    points[:, 2] += 0.0015 * rng.standard_normal(len(points))
    colors = np.where(inside[:, None], cloth, table) + 0.04 * rng.standard_normal((len(points), 3))
    return points, colors.clip(0, 1), inside


@pytest.mark.parametrize("seed", range(5))
def test_a_cloth_that_moved_is_told_from_its_table(seed: int) -> None:
    rng = np.random.default_rng(seed)
    cloth, table = rng.uniform(0.1, 0.9, (2, 3))
    cloth = table + 0.3 * (cloth - table) / np.linalg.norm(cloth - table)
    first, colors, inside = _scene(rng, np.array([0.1, 0.2]), cloth, table)
    shades = Shades(first[inside], first, colors)
    points, colors, inside = _scene(rng, np.array([0.25, 0.1]), cloth, table)
    found = shades.find(points, colors)
    assert (found == inside).mean() > 0.98
    # A thing of the cloth's colour that stands on the table is not the cloth.
    tall = points + np.array([0.0, 0.0, 0.05])
    assert not shades.find(tall, colors).any()


def test_without_colours_to_compare_everything_low_may_be_the_cloth() -> None:
    points = np.random.default_rng(0).uniform(0, 0.1, (6, 3)) * [1, 1, 0]
    shades = Shades(points, points, np.full((6, 3), 0.5))
    assert shades.find(points, np.zeros((6, 3))).all()


def test_a_hand_that_drags_sets_off_from_rest() -> None:
    push = Push(contact=np.zeros(3), ahead=np.array([1.0, 0.0]), way=0.1, over=0.1, speed=0.1)
    times = np.linspace(0, 1, 101)
    pushed = _travelled(push, times)
    np.testing.assert_allclose(pushed, 0.1 * times)
    dragged = _travelled(
        Push(contact=push.contact, ahead=push.ahead, way=0.1, over=0.1, speed=0.1, press=True),
        times,
    )
    speed = np.gradient(dragged, times)
    assert speed[0] < 0.005 and np.allclose(speed[40:], 0.1, atol=1e-6)
    assert (np.diff(speed) > -1e-9).all()
