"""Quasi-static pushing as a guess: against physics, against the laws it stands on, and what never slides."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pointworld.geometry import SUPPORT
from pointworld.model import sliding
from pointworld.model.sliding import MARGIN, sliding_motion

Tensor = torch.Tensor
STEPS = 11
FINGER = 0.01


def box(
    size: tuple[float, float, float],
    place: tuple[float, float],
    yaw: float = 0.0,
    *,
    step: float = 0.01,
) -> Tensor:
    """Points (n, 3) on the top and the sides of a box that stands on z = 0."""
    spans = [torch.linspace(-s / 2, s / 2, max(int(s / step), 2) + 1).double() for s in size]
    grid = torch.stack(torch.meshgrid(*spans, indexing="ij"), -1).flatten(0, 2)
    half = torch.tensor(size, dtype=torch.float64) / 2
    shell = ((grid.abs() - half).abs() < 1e-9).any(-1)
    cos, sin = math.cos(yaw), math.sin(yaw)
    turn = torch.tensor([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]], dtype=torch.float64)
    return grid[shell] @ turn.T + torch.tensor([*place, size[2] / 2], dtype=torch.float64)


def finger(path: Tensor) -> Tensor:
    """(steps, points, 3) surface of an upright finger of radius FINGER whose axis follows path (steps, 2)."""
    angle = torch.arange(16) * (2 * math.pi / 16)
    ring = FINGER * torch.stack([angle.cos(), angle.sin()], -1).double()
    heights = torch.linspace(0.01, 0.09, 9).double()
    shape = torch.cat([torch.cat([ring, h.expand(16, 1)], 1) for h in heights])
    return shape + torch.nn.functional.pad(path, (0, 1))[:, None]


def motion(points: Tensor, robot: Tensor, clusters: Tensor | None = None) -> Tensor:
    """`sliding_motion` of one scene; one cluster unless told otherwise."""
    clusters = torch.zeros(len(points), dtype=torch.int64) if clusters is None else clusters
    near = torch.cdist(points, robot.flatten(0, 1)).amin(-1)
    return sliding_motion(
        points[None],
        clusters[None],
        torch.exp(-near / 0.02)[None],
        robot[None],
        torch.ones(1, *robot.shape[:2], dtype=torch.bool),
    )[0]


def straight(start: tuple[float, float], way: tuple[float, float]) -> Tensor:
    share = torch.linspace(0, 1, STEPS, dtype=torch.float64)[:, None]
    return torch.tensor(start, dtype=torch.float64) + share * torch.tensor(way, dtype=torch.float64)


SCENE = """
<mujoco><option timestep="0.001" cone="elliptic" impratio="10"/><worldbody>
  <geom type="plane" size="1 1 1" friction="{table} 0.0 0.0"/>
  <body name="box" pos="0 0 {z}" euler="0 0 {yaw}"><freejoint/>
    <geom type="box" size="{x} {y} {z}" mass="0.3" friction="{table} 0.0 0.0"/></body>
  <body name="finger" mocap="true" pos="{fx} {fy} 0.05">
    <geom type="capsule" size="0.01 0.05" friction="{table} 0 0"/></body>
</worldbody></mujoco>"""


def simulated(
    size: tuple[float, float, float], yaw: float, path: Tensor, friction: float
) -> Tensor:
    """(steps, 3): x, y and turn of a box that a finger pushes for four seconds."""
    mujoco = pytest.importorskip(
        "mujoco", reason="the simulator is an extra: pip install 'pointworld-open[sim]'"
    )
    x, y, z = (s / 2 for s in size)
    model = mujoco.MjModel.from_xml_string(
        SCENE.format(
            x=x, y=y, z=z, yaw=math.degrees(yaw), table=friction, fx=path[0, 0], fy=path[0, 1]
        )
    )
    data = mujoco.MjData(model)
    poses, fine = [], 400
    for step in range(STEPS):
        for part in range(fine if step else 1):
            now = torch.lerp(path[max(step - 1, 0)], path[step], (part + 1) / fine)
            data.mocap_pos[0, :2] = now.numpy()
            mujoco.mj_step(model, data)
        w, qx, qy, qz = data.qpos[3:7]
        poses.append(
            [*data.qpos[:2], math.atan2(2 * (w * qz + qx * qy), 1 - 2 * (qy**2 + qz**2)) - yaw]
        )
    return torch.from_numpy(np.unwrap(np.array(poses), axis=0))


def test_boxes_go_where_a_simulator_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sliding, "MARGIN", 0.0)  # these points leave nothing out
    generator = np.random.default_rng(7)
    errors, motions, turns = [], [], []
    while len(errors) < 16:
        size = tuple(float(v) for v in generator.uniform([0.04, 0.04, 0.03], [0.12, 0.12, 0.06]))
        yaw, heading = (float(v) for v in generator.uniform(-math.pi, math.pi, 2))
        aside, way = float(generator.uniform(-0.03, 0.03)), float(generator.uniform(0.06, 0.15))
        ahead = np.array([math.cos(heading), math.sin(heading)])
        start = -0.1 * ahead + aside * np.array([-ahead[1], ahead[0]])
        path = straight((start[0], start[1]), tuple((way + 0.03) * ahead))
        pose = simulated(size, yaw, path, friction=float(generator.uniform(0.3, 0.6)))
        points = box(size, (0.0, 0.0), yaw)
        cos, sin = pose[:, 2].cos(), pose[:, 2].sin()
        turn = torch.stack([torch.stack([cos, -sin], -1), torch.stack([sin, cos], -1)], -2)
        true = points[:, :2] @ turn.mT + pose[:, None, :2] - points[:, :2]
        if true[-1].norm(dim=-1).mean() < 0.02:
            continue
        guess = motion(points, finger(path))
        errors.append(float((guess - true).norm(dim=-1).mean()))
        motions.append(float(true.norm(dim=-1).mean()))
        turns.append(abs(float(pose[-1, 2])))
    assert max(turns) > 0.3  # not only straight pushes
    assert sum(errors) < 0.4 * sum(motions), (errors, motions)


def test_a_push_through_the_middle_goes_straight() -> None:
    points = box((0.06, 0.08, 0.05), (0.1, 0.0))
    guess = motion(points, finger(straight((0.0, 0.0), (0.15, 0.0))))
    # The finger's front meets the near side at 0.07 m.
    way = (torch.linspace(0, 0.15, STEPS).double() + FINGER + MARGIN - 0.07).clamp_min(0)
    assert (guess[..., 0] - way[:, None]).abs().max() < 5e-4
    assert guess[..., 1].abs().max() < 5e-4


@given(
    depth=st.floats(1e-4, 0.01),
    along=st.floats(-0.01, 0.01),
    aside=st.floats(-0.03, 0.03),
    turn=st.floats(-3, 3),
)
def test_a_thing_gives_way_by_the_laws(
    depth: float, along: float, aside: float, turn: float
) -> None:
    """Contact, friction cone and limit surface, for a finger tip that got into a square by `depth`."""
    points = box((0.08, 0.08, 0.05), (0.0, 0.0))[None]
    things = sliding._things(
        points, torch.zeros(points.shape[:2], dtype=torch.int64), torch.ones(points.shape[:2])
    )
    angle = torch.tensor([[turn] + [0.0] * (sliding.THINGS - 1)], dtype=torch.float64)
    tip = torch.tensor([[-0.04 - MARGIN + depth, aside]], dtype=torch.float64)
    went = torch.tensor([[depth, along]], dtype=torch.float64)

    def placed(local: Tensor) -> Tensor:
        return torch.nn.functional.pad(sliding._rotate(local, angle[0, 0]), (0, 1), value=0.02)[
            None
        ]

    still = torch.zeros_like(things.centre)
    way, turned = sliding._give_way(
        things,
        still,
        angle,
        placed(tip - went),
        placed(tip),
        torch.ones(1, sliding.THINGS, 1, dtype=bool),
    )
    push = sliding._rotate(way[0, 0], -angle[0, 0])
    spin = float(turned[0, 0] - angle[0, 0])
    lever = torch.tensor([-aside, float(tip[0, 0])], dtype=torch.float64)
    assert not way[0, 1:].any() and torch.equal(turned[0, 1:], angle[0, 1:])
    # The limit surface: a push turns by its torque over the resistance.
    assert abs(spin - float(push @ lever / things.resistance[0, 0])) < 1e-9
    contact = push + spin * lever
    # The contact goes out of the way, and the force stays in the cone.
    assert abs(float(contact[0]) - depth) < 1e-9
    assert abs(float(push[1])) <= sliding.CONTACT_FRICTION * float(push[0]) + 1e-9
    sticks = abs(float(contact[1]) - along) < 1e-9
    on_edge = abs(abs(float(push[1])) - sliding.CONTACT_FRICTION * float(push[0])) < 1e-9
    assert sticks or on_edge
    if not sticks:  # friction pulls the contact towards where the finger goes
        assert (along - float(contact[1])) * float(push[1]) > 0


def test_what_does_not_slide() -> None:
    points = torch.cat(
        [box((0.06, 0.06, 0.05), place) for place in ((0.1, 0.0), (0.1, 0.3), (0.2, 0.0))]
    )
    clusters = torch.arange(3).repeat_interleave(len(points) // 3)
    robot = finger(straight((0.0, 0.0), (0.09, 0.0)))
    guess = motion(points, robot, clusters)
    assert guess[-1, clusters == 0].norm(dim=-1).min() > 0.02
    assert not guess[:, clusters != 0].any()
    assert not motion(points, robot, torch.full_like(clusters, SUPPORT)).any()
    above = robot + torch.tensor([0.0, 0.0, 0.05], dtype=torch.float64)
    assert not motion(points, above, clusters).any()
    held = finger(straight((0.1, 0.0), (0.09, 0.0)))
    held = held[:, (held[0, :, :2] - torch.tensor([0.1, 0.0])).norm(dim=-1) < 0.03]
    assert not motion(points, held, clusters)[:, clusters == 0].any()


def test_place_heading_and_numbers_mean_nothing(generator: torch.Generator) -> None:
    points = torch.cat(
        [box((0.06, 0.09, 0.05), (0.1, 0.02), 0.3), box((0.05, 0.05, 0.05), (0.1, 0.2))]
    )
    clusters = (torch.arange(len(points)) > 250).long()
    robot = finger(straight((0.0, 0.0), (0.15, 0.02)))
    guess = motion(points, robot, clusters)
    assert guess[-1].norm(dim=-1).max() > 0.03
    order = torch.randperm(len(points), generator=generator)
    other = motion(points[order], robot, 5 - clusters[order])
    assert (other - guess[:, order]).abs().max() < 1e-9
    angle = torch.tensor(2 * math.pi / sliding.DIRECTIONS * 5, dtype=torch.float64)
    shift = torch.tensor([0.3, -0.2, 0.1], dtype=torch.float64)

    def moved(places: Tensor) -> Tensor:
        return torch.cat([sliding._rotate(places[..., :2], angle), places[..., 2:]], -1) + shift

    turned = motion(moved(points), moved(robot), clusters)
    assert (turned - sliding._rotate(guess, angle)).abs().max() < 1e-6


def test_scenes_of_a_batch_and_padding_change_nothing() -> None:
    first, second = box((0.06, 0.09, 0.05), (0.1, 0.02), 0.3), box((0.05, 0.05, 0.04), (0.1, 0.0))
    count = max(len(first), len(second)) + 3
    robots = [
        finger(straight((0.0, 0.0), (0.15, 0.02))),
        finger(straight((0.0, 0.01), (0.08, 0.05))),
    ]
    points, clusters, closeness = (
        torch.zeros(2, count, 3).double(),
        torch.full((2, count), SUPPORT),
        torch.zeros(2, count).double(),
    )
    for row, (scene, robot) in enumerate(zip((first, second), robots, strict=True)):
        points[row, : len(scene)], clusters[row, : len(scene)] = scene, 0
        near = torch.cdist(scene, robot.flatten(0, 1)).amin(-1)
        closeness[row, : len(scene)] = torch.exp(-near / 0.02)
    robot = torch.nn.functional.pad(torch.stack(robots), (0, 0, 0, 5))
    exists = (torch.arange(robot.shape[2]) < robots[0].shape[1]).expand(2, STEPS, -1)
    together = sliding_motion(points, clusters, closeness, robot, exists)
    for row, (scene, alone) in enumerate(zip((first, second), robots, strict=True)):
        assert (together[row, :, : len(scene)] - motion(scene, alone)).abs().max() < 1e-12
        assert not together[row, :, len(scene) :].any()


def test_no_robot_and_no_things_are_no_motion() -> None:
    points = box((0.06, 0.06, 0.05), (0.1, 0.0))
    robot = finger(straight((0.0, 0.0), (0.15, 0.0)))
    absent = torch.zeros(1, *robot.shape[:2], dtype=torch.bool)
    clusters = torch.zeros(1, len(points), dtype=torch.int64)
    near = torch.ones(1, len(points)).double()
    guess = sliding_motion(points[None], clusters, near, robot[None], absent)
    assert guess.shape == (1, STEPS, len(points), 2) and not guess.any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_keeps_the_type(dtype: torch.dtype) -> None:
    points = box((0.06, 0.06, 0.05), (0.1, 0.0)).to(dtype)
    guess = motion(points, finger(straight((0.0, 0.0), (0.15, 0.0))).to(dtype))
    assert guess.dtype == dtype and guess.isfinite().all()
