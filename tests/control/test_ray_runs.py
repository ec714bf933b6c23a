"""Episodes on a Ray cluster give what they give one after another."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pointworld.control.ray_runs import run_on_ray
from pointworld.control.task_runs import RunConfig, run_many

pytest.importorskip("mujoco", reason="mujoco is not installed")
pytest.importorskip("ray", reason="needs the extra [distributed]")


@pytest.mark.slow
def test_a_cluster_gives_the_same_episodes(tmp_path: Path) -> None:
    config = RunConfig(
        task="tissue_box",
        dynamics="none",
        planner="random",
        perception="true",
        max_steps=3,
        execute=3,
    )
    alone = run_many(config, [3, 4])
    (tmp_path / "episode_00003.json").write_text(json.dumps(alone[0]))
    seen: list[int] = []
    spread = run_on_ray(
        config,
        [3, 4],
        address="local",
        workers=1,
        out=tmp_path,
        on_episode=lambda seed, episode: seen.append(seed),
    )
    assert seen == [3, 4] and [e["seed"] for e in spread] == [3, 4]
    for key in ("outcome", "distance", "moved", "steps"):
        assert spread[1]["result"][key] == alone[1]["result"][key]
    assert json.loads((tmp_path / "episode_00004.json").read_text())["seed"] == 4
