"""Raw channels of the released model, normalisation and running statistics."""

from __future__ import annotations

import torch

from pointworld.model.features_released import robot_distance, time_difference
from pointworld.model.normalisation import RunningMoments, moments, normalise, unnormalise


def test_time_difference_of_a_parabola_is_central_inside_and_one_sided_at_the_ends() -> None:
    t = torch.arange(5, dtype=torch.float64)
    x = (t**2)[:, None, None].expand(5, 1, 3)
    assert time_difference(x)[:, 0, 0].tolist() == [1, 2, 4, 6, 7]
    assert time_difference(x[:1]).tolist() == [[[0, 0, 0]]]


def test_robot_distance_ignores_padding_and_slices_alike(generator: torch.Generator) -> None:
    points = torch.rand(2, 50, 3, generator=generator)
    robot = torch.rand(2, 3, 7, 3, generator=generator)
    exists = torch.ones(2, 3, 7, dtype=torch.bool)
    exists[0, :, 5:] = False
    exists[1, 2] = False
    distance = robot_distance(points, robot, exists)
    for b in range(2):
        for t in range(3):
            for n in range(0, 50, 7):
                near = [
                    (points[b, n] - r).norm()
                    for r, e in zip(robot[b, t], exists[b, t], strict=True)
                    if e
                ]
                expected = min(near) if near else torch.tensor(0.0)
                assert abs(float(distance[b, n, t] - expected)) < 1e-6


def test_normalisation_floors_the_variance_and_inverts(generator: torch.Generator) -> None:
    x = torch.randn(10, 3, generator=generator)
    mean, variance = torch.tensor([0.0, 1.0, 2.0]), torch.tensor([1.0, 4.0, 0.0])
    scaled = normalise(x, mean, variance)
    torch.testing.assert_close(scaled[:, 2], (x[:, 2] - 2.0) / 1e-3)
    torch.testing.assert_close(unnormalise(scaled, mean, variance), x)


def test_running_moments_equal_those_of_all_rows(generator: torch.Generator) -> None:
    rows = 100 + torch.randn(1000, 4, generator=generator, dtype=torch.float64)
    running = RunningMoments()
    for part in rows.split([1, 499, 0, 500]):
        running.add(part)
    mean, variance = running.result()
    torch.testing.assert_close(mean, rows.mean(0))
    torch.testing.assert_close(variance, rows.var(0, unbiased=False))
    torch.testing.assert_close(moments(rows.split(300))[1], variance)
