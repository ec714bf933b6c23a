"""The graph-network baseline."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from pointworld.errors import CheckpointError, InputError
from pointworld.model import collate
from pointworld.train import TrainConfig
from pointworld.train.augment import whole
from pointworld.train.graph_model import (
    GraphModel,
    GraphSpec,
    load_graph_model,
    save_graph_model,
)
from pointworld.train.graph_training import measure_scale, moved_ratio, train_graph
from tests.train.synthetic import push

SMALL = GraphSpec(width=24, rounds=3, neighbours=6, dilations=(1, 3))


@pytest.fixture(scope="module")
def model() -> GraphModel:
    torch.manual_seed(0)
    made = GraphModel(SMALL).eval()
    measure_scale(made, [push(i) for i in range(8)])
    return made


def test_order_and_padding_of_points_change_nothing(model: GraphModel) -> None:
    a, b = (whole(push(seed), step_dt=0.1) for seed in (0, 2))
    shorter = b.scene.select(torch.arange(150))
    alone = model.predict(shorter, b.robot)[0]
    with torch.no_grad():
        batched = model(collate([(a.scene, a.robot), (shorter, b.robot)])).displacements
    assert torch.allclose(batched[1, :, :150], alone, atol=1e-5)
    order = torch.randperm(420, generator=torch.Generator().manual_seed(1))
    shuffled, _ = model.predict(a.scene.select(order), a.robot)
    assert torch.allclose(shuffled, model.predict(a.scene, a.robot)[0][:, order], atol=1e-5)
    assert shuffled.abs().max() > 1e-3 and not shuffled[0].any()


def test_it_turns_and_shifts_with_the_scene(model: GraphModel) -> None:
    item = whole(push(0), step_dt=0.1)
    angle = torch.tensor(0.7)
    R = torch.tensor(
        [[angle.cos(), -angle.sin(), 0.0], [angle.sin(), angle.cos(), 0.0], [0.0, 0.0, 1.0]]
    )
    shift = torch.tensor([0.3, -0.2, 0.05])
    scene, robot = item.scene, item.robot
    turned_scene = type(scene)(
        points=scene.points @ R.T + shift, colors=scene.colors, normals=scene.normals @ R.T
    )
    turned_robot = type(robot)(
        positions=robot.positions @ R.T + shift,
        normals=robot.normals @ R.T,
        gripper_open=robot.gripper_open,
        step_dt=robot.step_dt,
    )
    here, sigma = model.predict(scene, robot)
    there, _ = model.predict(turned_scene, turned_robot)
    assert torch.allclose(there, here @ R.T, atol=2e-4)
    assert sigma.shape == here.shape[:2] and (sigma > 0).all()


def test_far_points_stay(model: GraphModel) -> None:
    item = whole(push(0), step_dt=0.1)
    near = GraphModel(GraphSpec(width=24, rounds=1, context_points=100))
    moved = near.predict(item.scene, item.robot)[0].norm(dim=-1).amax(0) > 0
    assert int(moved.sum()) == 100
    reach = push(0).reach
    assert reach[moved].max() <= reach[~moved].min() + 1e-6


def test_training_beats_no_motion_and_a_file_keeps_it(tmp_path: Path) -> None:
    samples = [push(i) for i in range(16)]
    seen: list[int] = []
    trained, result = train_graph(
        samples,
        samples[:6],
        tmp_path / "run",
        TrainConfig(minutes=0, steps=40, batch_size=4, average=0.9, learning_rate=3e-3),
        spec=SMALL,
        on_step=lambda step, _: seen.append(step),
    )
    assert result.steps == 40 and seen[-1] == 40 and result.losses[-1] < result.losses[0]
    assert result.moved_ratio is not None and result.moved_ratio < 0.6
    untrained = moved_ratio(GraphModel(SMALL), samples[:6])
    assert untrained is not None and result.moved_ratio < untrained
    save_graph_model(trained, tmp_path / "gnn", training={"steps": 40})
    again = load_graph_model(tmp_path / "gnn")
    item = whole(push(3), step_dt=0.1)
    for mine, theirs in zip(
        again.predict(item.scene, item.robot),
        trained.predict(item.scene, item.robot),
        strict=True,
    ):
        assert torch.equal(mine, theirs)


def test_a_stopped_run_goes_on_to_the_same_network(tmp_path: Path) -> None:
    samples = [push(i) for i in range(6)]
    config = TrainConfig(minutes=0, steps=4, batch_size=2, schedule="constant", warmup=0.0)
    whole_run, _ = train_graph(samples, samples[:2], tmp_path / "whole", config, spec=SMALL)
    half = replace(config, steps=2)
    stopped, _ = train_graph(samples, samples[:2], tmp_path / "parts", half, spec=SMALL)
    resumed, result = train_graph(samples, samples[:2], tmp_path / "parts", config, spec=SMALL)
    assert result.steps == 4 and len(result.losses) == 4
    pairs = list(zip(whole_run.parameters(), resumed.parameters(), strict=True))
    assert all(torch.equal(a, b) for a, b in pairs)
    assert not all(
        torch.equal(a, b) for a, b in zip(stopped.parameters(), resumed.parameters(), strict=True)
    )
    with pytest.raises(InputError, match="other settings"):
        other = replace(config, learning_rate=0.5)
        train_graph(samples, samples[:2], tmp_path / "parts", other, spec=SMALL)


@pytest.mark.rejects_input
def test_damaged_files_and_sizes_are_refused(tmp_path: Path, model: GraphModel) -> None:
    path = save_graph_model(model, tmp_path, training={})
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(CheckpointError, match="no graph network"):
        load_graph_model(path)
    with pytest.raises(CheckpointError, match="no graph network"):
        load_graph_model(tmp_path / "absent")
    with pytest.raises(InputError, match="at least 1"):
        GraphSpec(rounds=0)
