"""Every family: exact flow through later depth, the same clip from the same seed, and something that moves."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from pointworld.data import Clip, ClipGenerator, TabletopConfig, clip_facts, true_positions
from pointworld.data.families import GROUPS, REGISTRY, family_shares, is_named
from pointworld.data.robot_tree import RobotTree
from pointworld.data.sample import view_motions
from pointworld.errors import InputError
from pointworld.geometry import invert, project, transform_points, unproject
from tests.data.conftest import SEED
from tests.data.depth import inverse_depth_at

NEW = tuple(name for name, family in REGISTRY.items() if family.group != "tabletop")


@pytest.fixture(scope="module")
def generator(tree: RobotTree) -> ClipGenerator:
    config = TabletopConfig(shapes="all", height=270, width=480)
    return ClipGenerator.create(tree, "fr3", config, "auto")


def _of(generator: ClipGenerator, family: str) -> ClipGenerator:
    return replace(generator, config=replace(generator.config, families=(family,)), timings={})


def _error(clip: Clip, generator: ClipGenerator, step: int) -> tuple[np.ndarray, int]:
    """|carried depth - later depth| [m] of visible pixels, and how many of them moved farther than 1 cm."""
    errors, moved = [], 0
    # Neighbouring links of a rope count as one body: hardly any 2x2 block of pixels shows a single link.
    ids = np.array(
        [0 if name.startswith("object_rope") else k + 1 for k, name in enumerate(clip.body_names)]
    )
    later = generator.views_at(clip.seed, clip.index, step)
    for k, (first, then) in enumerate(zip(clip.views, later, strict=True)):
        seen = (first.depth > 0) & (first.segmentation > 0)
        body = first.segmentation[seen].astype(int) - 1
        points = transform_points(first.T_world_cam, unproject(first.depth, first.K)[seen])
        carried = true_positions(clip, points, view_motions(clip, k)[seen])[step]
        uv, z = project(transform_points(invert(then.T_world_cam), carried), then.K)
        merged = np.concatenate([[0], ids + 1])[then.segmentation].astype(np.uint8)
        depth, ok = inverse_depth_at(replace(then, segmentation=merged), uv, ids[body])
        visible = ok & (z < depth + 0.006)
        errors.append(np.abs(z - depth)[visible])
        displaced = np.linalg.norm(carried - points, axis=-1) > 0.01
        moves = np.isin(body, clip.bodies_of_kind("object") + clip.bodies_of_kind("soft"))
        moved += int((visible & displaced & moves).sum())
    return np.concatenate(errors), moved


@pytest.mark.parametrize("family", NEW)
def test_flow_agrees_with_later_depth_and_clips_repeat(
    generator: ClipGenerator, family: str
) -> None:
    mine = _of(generator, family)
    errors, moved, facts = [], 0, []
    for index in range(3):
        clip = mine.make(SEED, index)
        facts.append(clip_facts(clip))
        error, count = _error(clip, mine, 8)
        errors.append(error)
        moved += count
    again = mine.make(SEED, 2)
    assert np.array_equal(again.body_poses, clip.body_poses)
    assert all(
        np.array_equal(a.rgb, b.rgb) and np.array_equal(a.depth, b.depth)
        for a, b in zip(again.views, clip.views, strict=True)
    )
    error = np.concatenate(errors)
    # A rope covers few pixels.
    assert moved > (5 if family == "rope" else 20) and any(fact["moved"] for fact in facts)
    soft = REGISTRY[family].group == "deformable"
    assert np.median(error) < 1e-4
    assert np.quantile(error, 0.99 if soft else 0.999) < 2e-3
    assert clip.family == family


@pytest.mark.parametrize(("family", "index"), [("drawer", 2), ("door", 1), ("lid", 1), ("knob", 1)])
def test_jointed_bodies_have_one_degree_of_freedom(
    rays: ClipGenerator, family: str, index: int
) -> None:
    clip = _of(rays, family).make(SEED, index)
    body = clip.body_names.index(f"object_{family}")
    motions = clip.body_motions()[:, body]
    moved = np.abs(motions - np.eye(4)).max((1, 2)) > 1e-3
    assert moved.any()
    for T in motions[moved]:
        if family == "drawer":
            np.testing.assert_allclose(T[:3, :3], np.eye(3), atol=1e-9)
            direction = T[:3, 3] / np.linalg.norm(T[:3, 3])
            assert abs(direction[2]) < 1e-9
        else:
            # A turn about a fixed line: no shift along the axis of the rotation.
            values, vectors = np.linalg.eig(T[:3, :3])
            axis = np.real(vectors[:, np.argmin(np.abs(values - 1))])
            assert abs(axis @ T[:3, 3]) < 1e-6
    assert "fixture_" + family in clip.body_names


def test_a_held_tool_moves_with_the_hand(rays: ClipGenerator) -> None:
    clip = _of(rays, "broom").make(SEED, 0)
    assert clip.info["held"] == ["object_broom"]
    motions = clip.body_motions()
    tool, hand = clip.body_names.index("object_broom"), clip.body_names.index("fr3_hand")
    np.testing.assert_allclose(motions[:, tool], motions[:, hand], atol=1e-9)
    assert clip.body_kinds[tool] == "object"


def test_shares_of_families() -> None:
    assert list(family_shares(TabletopConfig())) == [
        "push", "nudge", "grasp_lift", "topple", "near_miss", "empty",
    ]  # fmt: skip
    mix = family_shares(TabletopConfig(families=("tabletop=3", "drawer=1", "tool")))
    assert sum(mix.values()) == pytest.approx(5.0)
    assert mix["drawer"] == 1.0 and mix["broom"] == pytest.approx(1 / 3)
    assert mix["push"] == pytest.approx(3 * 0.34)
    assert set(family_shares(TabletopConfig(families=("all",)))) == set(REGISTRY)
    assert "all" in GROUPS


def test_a_name_that_is_family_and_group_means_the_family() -> None:
    assert list(family_shares(TabletopConfig(families=("clutter",)))) == ["clutter"]
    assert {name for name in REGISTRY if is_named(name, ("clutter",))} == {"clutter"}
    assert {name for name in REGISTRY if is_named(name, ("tool", "tray"))} == {
        "broom", "duster", "spatula", "tray",
    }  # fmt: skip
    assert {name for name in REGISTRY if is_named(name, ("all",))} == set(REGISTRY)
    assert not is_named("my own clips", ("clutter", "tabletop"))


@pytest.mark.rejects_input
@pytest.mark.parametrize(
    ("entry", "message"),
    [("drawr", "Did you mean 'drawer'"), ("drawer=x", "positive number"), ("lid=-1", "positive")],
)
def test_unknown_families_are_refused(entry: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        family_shares(TabletopConfig(families=(entry,)))
