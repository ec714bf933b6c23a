"""Raw features of our own models: what they mean, and that nothing depends on place, order or padding."""

from __future__ import annotations

from functools import partial

import torch

from pointworld.geometry import SUPPORT, make_transform, quat_wxyz_to_matrix, transform_points
from pointworld.model.features_relative import (
    CARRY_RANGE,
    CLEARANCE_RANGE,
    CONTACT_RANGE,
    OFFERED_CONTACT,
    PLACE_RANGE,
    STEPS,
    SURFEL_RADIUS,
    SWEEP_WIDTH,
    VECTOR_RANGE,
    farthest_robot_points,
    relative_guesses,
    relative_robot_channels,
    relative_robot_features,
    relative_scene_channels,
    relative_scene_features,
)
from pointworld.model.hand_frame import TRAVEL_OFFSET, closing_step, hand_frame
from pointworld.model.sliding import sliding_motion

Tensor = torch.Tensor
scene_features = partial(relative_scene_features, sliding=True)


def scene_and_robot(
    generator: torch.Generator, points: int = 9, robot: int = 12
) -> dict[str, Tensor]:
    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    angle = 0.1 * torch.arange(STEPS, dtype=torch.float64)
    quat = torch.stack([(angle / 2).cos(), 0 * angle, 0 * angle, (angle / 2).sin()], -1)
    motion = make_transform(
        quat_wxyz_to_matrix(quat), 0.03 * angle[:, None] * torch.ones(3).double()
    )
    surface = draw(robot, 3) * 0.05
    return {
        "points": draw(1, points, 3) * 0.1,
        "colors": torch.rand(1, points, 3, generator=generator, dtype=torch.float64),
        "normals": torch.nn.functional.normalize(draw(1, points, 3), dim=-1),
        "clusters": torch.arange(points)[None] % 3 - 1,
        "exists": torch.ones(1, points, dtype=torch.bool),
        "robot_positions": transform_points(motion, surface.expand(STEPS, -1, -1))[None],
        "robot_normals": torch.nn.functional.normalize(draw(1, STEPS, robot, 3), dim=-1),
        "robot_exists": torch.ones(1, STEPS, robot, dtype=torch.bool),
        "gripper_open": torch.rand(1, STEPS, 1, generator=generator, dtype=torch.float64),
    }


def nearest_on_disc(point: Tensor, centre: Tensor, normal: Tensor) -> Tensor:
    """The place on a disc of SURFEL_RADIUS that is nearest to `point`."""
    offset = point - centre
    inside = offset - (offset @ normal) * normal
    length = float(inside.norm())
    return centre + inside * (min(length, SURFEL_RADIUS) / max(length, 1e-300))


def test_channels_against_loops(generator: torch.Generator) -> None:
    case = scene_and_robot(generator)
    case["gripper_open"][0, :, 0] = torch.tensor([0.9, 0.9, 0.7, 0.3] + [0.29] * 7)
    closed = 3  # 0.3 is within the tolerance of 0.29
    assert closing_step(case["gripper_open"]).tolist() == [closed]
    scene = scene_features(**case)
    features, guesses = scene.features[0], scene.guesses[0]
    assert features.shape[1] == relative_scene_channels(1, sliding=True)
    assert guesses.shape == (relative_guesses(sliding=True), STEPS, 9, 3)
    robot = case["robot_positions"][0]
    centres = [rows.mean(0) for rows in robot]
    travel = [
        max(float((centres[t] - centres[s]).norm()) for s in range(t + 1)) + TRAVEL_OFFSET
        for t in range(STEPS)
    ]
    path = torch.cat([c - centres[0] for c in centres]) / PLACE_RANGE
    for n, point in enumerate(case["points"][0]):
        front = [case["colors"][0, n], case["normals"][0, n], (point - centres[0]) / PLACE_RANGE]
        assert (features[n, :42] - torch.cat([*front, path])).abs().max() < 1e-9
        contacts = []
        for t in range(STEPS):
            normals = case["robot_normals"][0, t]
            spots = [nearest_on_disc(point, r, m) for r, m in zip(robot[t], normals, strict=True)]
            gaps = [float((spot - point).norm()) for spot in spots]
            nearest = min(range(len(gaps)), key=gaps.__getitem__)
            vector = spots[nearest] - point
            seen = features[n, 42 + 5 * t : 47 + 5 * t]
            assert (seen[:3] - vector / (vector.norm() + VECTOR_RANGE)).abs().max() < 1e-7
            contacts.append(torch.exp(-vector.norm() / CONTACT_RANGE))
            assert abs(seen[3] - contacts[-1]) < 1e-7
            clearance = (point - robot[t, nearest]) @ normals[nearest]
            clipped = clearance.clamp(-CLEARANCE_RANGE, CLEARANCE_RANGE) / CLEARANCE_RANGE
            assert abs(seen[4] - clipped) < 1e-9
        together = largest_of_cluster(case, n, features[:, [45 + 5 * t for t in range(STEPS)]])
        least = -CONTACT_RANGE * torch.cat([torch.stack(contacts), together]).max().log()
        near = torch.exp(-least / CARRY_RANGE)
        reach = [
            max(
                [float(r[0] - point[0]) for r in rows if (r - point)[1:].norm() < SWEEP_WIDTH],
                default=-torch.inf,
            )
            for rows in robot
        ]
        for t in range(STEPS):
            first, now = robot[closed], robot[t]
            R = torch.linalg.lstsq(first - first.mean(0), now - now.mean(0)).solution.T
            target = R @ (point - first.mean(0)) + now.mean(0)
            carried = (target - point) / travel[t] if t >= closed else torch.zeros(3)
            assert (features[n, 97 + 3 * t : 100 + 3 * t] - carried * near).abs().max() < 1e-6
            offered = min(float(torch.exp(-least / CONTACT_RANGE)) / OFFERED_CONTACT, 1.0)
            assert (guesses[0, t, n] - carried * offered).abs().max() < 1e-6
            swept = max(reach[t], 0.0) / travel[t] if reach[0] <= SWEEP_WIDTH else 0.0
            assert abs(float(features[n, 130 + t]) - swept) < 1e-9
        assert torch.equal(features[n, 141:152], case["gripper_open"][0, :, 0])
        assert (features[n, 159:170] - together).abs().max() < 1e-12
        swept_most = largest_of_cluster(case, n, features[:, 130:141])
        assert (features[n, 170:181] - swept_most).abs().max() < 1e-12
        pushed = torch.maximum(features[n, 130:141], swept_most)
        assert torch.equal(guesses[1, :, n, 0], pushed) and not guesses[1, :, n, 1:].any()
        slid = guesses[2, :, n]
        assert torch.equal(features[n, 181:203], slid[:, :2].flatten()) and not slid[:, 2].any()
    without = relative_scene_features(**case, sliding=False)
    assert torch.equal(without.features[0], features[:, :181])
    assert torch.equal(without.guesses[0], guesses[:2])
    closeness = _closeness(features)
    motion = sliding_motion(
        case["points"],
        case["clusters"],
        closeness[None],
        case["robot_positions"],
        case["robot_exists"],
    )[0]
    expected = motion / motion.new_tensor(travel)[:, None, None]
    assert (guesses[2, ..., :2] - expected).abs().max() < 1e-12 and expected.any()


def _closeness(features: Tensor) -> Tensor:
    """How near the path comes to each point or to its cluster, (points,)."""
    contact = features[:, [45 + 5 * t for t in range(STEPS)]]
    return torch.maximum(contact, features[:, 159:170]).amax(-1)


def largest_of_cluster(case: dict[str, Tensor], n: int, values: Tensor) -> Tensor:
    """Largest of `values` (points, channels) over the cluster of point n; zero on a supporting surface."""
    clusters = case["clusters"][0]
    if clusters[n] == SUPPORT:
        return torch.zeros_like(values[0])
    return values[clusters == clusters[n]].amax(0)


def test_place_in_the_cluster(generator: torch.Generator) -> None:
    case = scene_and_robot(generator)
    features = scene_features(**case).features[0]
    for n, cluster in enumerate(case["clusters"][0].tolist()):
        member, extent, offset = features[n, 152], features[n, 153:156], features[n, 156:159]
        if cluster == SUPPORT:
            assert not member and not extent.any() and not offset.any()
            continue
        mine = case["points"][0, case["clusters"][0] == cluster]
        low, high = mine.min(0).values, mine.max(0).values
        assert member == 1
        assert (extent - (high - low) / 2 / PLACE_RANGE).abs().max() < 1e-9
        expected = (case["points"][0, n] - (low + high) / 2) / PLACE_RANGE
        assert (offset - expected).abs().max() < 1e-9


def test_numbers_of_clusters_and_absent_points_mean_nothing(generator: torch.Generator) -> None:
    case = scene_and_robot(generator)
    case["exists"][0, 4] = False
    features = scene_features(**case).features
    other = dict(case, clusters=torch.where(case["clusters"] >= 0, 7 - case["clusters"], SUPPORT))
    assert torch.equal(features, scene_features(**other).features)
    kept = torch.arange(9) != 4
    alone = {
        name: value[:, kept]
        if name in ("points", "colors", "normals", "clusters", "exists")
        else value
        for name, value in case.items()
    }
    assert torch.equal(features[:, kept], scene_features(**alone).features)


def test_a_sweep_reaches_past_what_lies_ahead_and_not_past_what_it_has_passed() -> None:
    robot = torch.zeros(1, STEPS, 1, 3)
    robot[0, :, 0, 0] = torch.linspace(0, 0.1, STEPS)
    points = torch.tensor([[[0.04, 0.0, 0.0], [-0.05, 0.0, 0.0], [0.04, 0.03, 0.0]]])
    features = scene_features(
        points,
        torch.zeros(1, 3, 3),
        torch.zeros(1, 3, 3),
        torch.full((1, 3), SUPPORT),
        torch.ones(1, 3, dtype=torch.bool),
        robot,
        torch.tensor([1.0, 0.0, 0.0]).expand_as(robot),
        torch.ones(1, STEPS, 1, dtype=torch.bool),
        torch.zeros(1, STEPS, 1),
    ).features
    swept = features[0, :, 130 : 130 + STEPS]
    expected = (torch.linspace(0, 0.1, STEPS) - 0.04).clamp_min(0) / (
        torch.linspace(0, 0.1, STEPS) + TRAVEL_OFFSET
    )
    assert (swept[0] - expected).abs().max() < 1e-6
    assert not swept[1].any() and not swept[2].any()


def test_a_shift_of_everything_changes_nothing(generator: torch.Generator) -> None:
    case = scene_and_robot(generator)
    moved = dict(case)
    shift = torch.tensor([3.0, -2.0, 1.0], dtype=torch.float64)
    for name in ("points", "robot_positions"):
        moved[name] = case[name] + shift
    difference = scene_features(**case).features - scene_features(**moved).features
    assert difference.abs().max() < 1e-9
    robot = [
        relative_robot_features(
            c["robot_positions"], c["robot_normals"], c["robot_exists"], c["gripper_open"]
        )
        for c in (case, moved)
    ]
    assert robot[0].shape[-1] == relative_robot_channels(1)
    assert (robot[0] - robot[1]).abs().max() < 1e-9


def test_padding_and_order_of_the_robot_change_nothing(generator: torch.Generator) -> None:
    case = scene_and_robot(generator)
    order = torch.randperm(12, generator=generator)
    padded = dict(case)
    for name in ("robot_positions", "robot_normals"):
        rows = case[name][:, :, order]
        padded[name] = torch.cat([rows, torch.zeros(1, STEPS, 4, 3, dtype=torch.float64)], 2)
    padded["robot_exists"] = torch.arange(16).expand(1, STEPS, 16) < 12
    difference = scene_features(**case).features - scene_features(**padded).features
    assert difference.abs().max() < 1e-10


def test_no_robot_is_zero_not_nan(generator: torch.Generator) -> None:
    case = scene_and_robot(generator)
    case["robot_exists"] = torch.zeros_like(case["robot_exists"])
    scene = scene_features(**case)
    features = scene.features
    assert features.isfinite().all() and not scene.guesses.any()
    assert not features[..., 6:141].any()
    assert not features[..., 159:].any()


def test_chosen_robot_points_spread_and_do_not_depend_on_order(generator: torch.Generator) -> None:
    points = torch.rand(1, 200, 3, generator=generator, dtype=torch.float64)
    exists = torch.ones(1, 200, dtype=torch.bool)
    chosen = points[0, farthest_robot_points(points, exists, 10)[0]]
    order = torch.randperm(200, generator=generator)
    padded = torch.cat([points[:, order], torch.full((1, 30, 3), 9.0, dtype=torch.float64)], 1)
    again = padded[0, farthest_robot_points(padded, torch.arange(230)[None] < 200, 10)[0]]
    assert torch.equal(chosen, again)
    gaps = torch.cdist(chosen, chosen) + torch.eye(10) * 9
    some = points[0, :10]
    assert gaps.min() > 3 * (torch.cdist(some, some) + torch.eye(10) * 9).min()
    few = farthest_robot_points(points[:, :4], exists[:, :4], 10)
    assert set(few[0].tolist()) == {0, 1, 2, 3}


def test_the_hand_frame_follows_the_heading(generator: torch.Generator) -> None:
    case = scene_and_robot(generator)
    positions, exists = case["robot_positions"], case["robot_exists"]
    frame = hand_frame(positions, exists)
    turned = frame.turn(positions).mean(2)
    net = turned[0, -1] - turned[0, 0]
    assert abs(net[1]) < 1e-9 and net[0] > 0.01
    assert (frame.turn_back(frame.turn(positions)) - positions).abs().max() < 1e-12
    centre = positions.mean(2)
    travel = (centre - centre[:, :1]).norm(dim=-1) + TRAVEL_OFFSET
    assert (frame.travel - travel).abs().max() < 1e-12  # this path never comes back
    there_and_back = torch.cat([positions[:, :6], positions[:, :5].flip(1)], 1)
    returned = hand_frame(there_and_back, exists).travel[0]
    assert (returned[:6] - travel[0, :6]).abs().max() < 1e-12
    assert abs(returned[10] - travel[0, 5]) < 1e-12
    still = hand_frame(positions[:, :1].expand_as(positions), exists)
    assert torch.equal(still.rotation[0], torch.eye(3, dtype=torch.float64))


def test_the_view_from_the_hand_frame_does_not_know_the_bases_axes(
    generator: torch.Generator,
) -> None:
    case = scene_and_robot(generator)
    R = quat_wxyz_to_matrix(torch.tensor([0.8, 0.0, 0.0, 0.6], dtype=torch.float64))
    frames = [
        hand_frame(case["robot_positions"] @ A.T, case["robot_exists"])
        for A in (torch.eye(3).double(), R)
    ]
    seen = [
        frame.turn(case["points"] @ A.T)
        for frame, A in zip(frames, (torch.eye(3).double(), R), strict=True)
    ]
    assert (seen[0] - seen[1]).abs().max() < 1e-9
