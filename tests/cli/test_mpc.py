"""`pointworld mpc` and `pointworld goal`: files, resuming, dry run, what is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pointworld.capture import write_capture
from pointworld.cli.demo import bundled_clip
from pointworld.cli.goal import main as goal_main
from pointworld.cli.mpc import main as mpc_main
from pointworld.control.task_runs import RunConfig, run_many, summarise, wilson
from pointworld.data import clip_to_capture
from pointworld.errors import InputError
from pointworld.plan.goal import ClickSelection, StillGoal, TranslationGoal, read_goal

pytest.importorskip("mujoco", reason="mujoco is not installed")

QUICK = RunConfig(
    task="tissue_box", dynamics="none", planner="random", perception="true", max_steps=3, execute=3
)


def test_a_run_goes_on_where_it_stopped(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--planner", "random", "--perception", "true", "--max-steps", "3", "--execute", "3"]
    command = [*words, "--episodes", "2", "--out", str(tmp_path), "--json"]
    assert mpc_main(command) == 0
    first = json.loads(capsys.readouterr().out)
    assert first["episodes"] == 2 and [o["seed"] for o in first["outcomes"]] == [0, 1]
    assert first["success_rate"] == 0.0 and first["interval_95"][1] > 0.5
    path = tmp_path / "episode_00000.json"
    made = path.stat().st_mtime_ns
    (tmp_path / "episode_00001.json").unlink()
    assert mpc_main(command) == 0
    again = json.loads(capsys.readouterr().out)
    assert path.stat().st_mtime_ns == made, "not run again"
    assert again["outcomes"][1]["distance"] == first["outcomes"][1]["distance"], "same seed"
    with pytest.raises(InputError, match="other settings"):
        run_many(replace(QUICK, horizon=12), [0], out=tmp_path)
    older = json.loads(path.read_text())
    del older["config"]["uncertainty"]
    path.write_text(json.dumps(older))
    assert run_many(QUICK, [0], out=tmp_path)[0]["seed"] == 0, "it had its default then"
    with pytest.raises(InputError, match="other settings"):
        run_many(replace(QUICK, uncertainty=1.0), [0], out=tmp_path)
    del older["rules"]
    path.write_text(json.dumps(older))
    with pytest.raises(InputError, match="other rules"):
        run_many(QUICK, [0], out=tmp_path)
    path.write_text("{}")
    with pytest.raises(InputError, match="no episode"):
        run_many(QUICK, [0], out=tmp_path)


def test_a_dry_run_moves_nothing_and_is_recorded(tmp_path: Path) -> None:
    folder = tmp_path / "record"
    episodes = run_many(
        replace(QUICK, planner="straight", dry_run=True, renderer="rays"), [0], record=folder
    )
    result = episodes[0]["result"]
    assert result["outcome"] == "dry run" and result["moved"] < 1e-3
    assert result["distance"] == pytest.approx(result["start_distance"], abs=1e-3)
    run = folder / "episode_00000"
    start, end = (np.asarray(Image.open(run / name)) for name in ("start.png", "end.png"))
    assert (np.abs(start.astype(int) - end.astype(int)).max(-1) > 8).mean() < 0.002
    events = [json.loads(line) for line in (run / "events.jsonl").read_text().splitlines()]
    assert any("dry run" in json.dumps(event) for event in events)


def test_an_interrupted_episode_is_recorded_anew(tmp_path: Path) -> None:
    """With --out, which tells what was interrupted; without, nothing is overwritten."""
    record, out = tmp_path / "record", tmp_path / "out"
    config = replace(QUICK, renderer="rays")
    torn = record / "episode_00000"
    torn.mkdir(parents=True)
    (torn / "events.jsonl").write_text("{}\n")
    (torn / "torn").touch()
    with pytest.raises(InputError, match="holds a recording already"):
        run_many(config, [0], record=record)
    run_many(config, [0], out=out, record=record)
    assert (torn / "recording.json").is_file() and not (torn / "torn").exists()


def test_a_target_that_nobody_sees_is_lost(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """One episode, not the command: the others go on."""

    def blind(*words: object) -> None:
        raise InputError("out of sight of all cameras")

    monkeypatch.setattr("pointworld.plan.tasks.seen.TrueView.see", blind)
    result = run_many(QUICK, [0], out=tmp_path)[0]["result"]
    assert result["outcome"] == "lost" and result["perceived"] is None and result["steps"] == 0


@pytest.mark.slow
def test_the_oracle_brings_a_box_to_its_goal() -> None:
    config = RunConfig(task="tissue_box", dynamics="oracle", perception="true", samples=16)
    summary = summarise(run_many(config, [0]))
    assert summary["successes"] == 1
    assert summary["outcomes"][0]["error"] <= 0.02 < 0.1 < summary["outcomes"][0]["start_distance"]


@pytest.mark.rejects_input
def test_settings_that_cannot_be_are_refused() -> None:
    with pytest.raises(InputError, match="perception true"):
        RunConfig(task="book", dynamics="oracle", perception="rgbd")
    with pytest.raises(InputError, match="task"):
        RunConfig(task="boook")
    with pytest.raises(InputError, match="horizon"):
        RunConfig(task="book", execute=11)
    with pytest.raises(InputError, match="uncertainty"):
        RunConfig(task="book", uncertainty=-1.0)
    with pytest.raises(InputError, match="--device is 'gpu'"):
        mpc_main(["--planner", "random", "--perception", "true", "--device", "gpu"])


def test_wilson_interval_matches_known_values() -> None:
    low, high = wilson(8, 10)
    assert (low, high) == (pytest.approx(0.4902, abs=1e-4), pytest.approx(0.9433, abs=1e-4))
    assert wilson(0, 20)[0] == pytest.approx(0.0, abs=1e-12)
    assert wilson(20, 20)[1] == pytest.approx(1.0)
    assert wilson(0, 0) == (0.0, 1.0)


@pytest.fixture(scope="module")
def capture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("capture")
    write_capture(clip_to_capture(bundled_clip()), folder / "capture")
    return folder / "capture"


@pytest.mark.slow
def test_goal_adds_sets_that_choose_points(
    capture: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "goal.json"
    view = bundled_clip().views[0]
    row, column = (int(v) for v in np.argwhere(view.depth > 0)[len(view.depth) * 100])
    common = ["--capture", str(capture), "--camera", "cam0", "--out", str(out), "--json"]
    from pointworld.capture import read_capture

    frame = next(f.name for f in read_capture(capture).frames if f.camera == "cam0")
    common += ["--frame", frame]
    with pytest.raises(InputError, match="still"):
        goal_main([*common, "--name", "rest", "--box", "0,0,320,180", "--still"])
    click = f"{column + 0.5},{row + 0.5}"
    move = ["--click", click, "--radius", "0.2", "--translation", "0.1,0,0"]
    assert goal_main([*common, *move]) == 0
    assert goal_main([*common, "--name", "rest", "--box", "0,0,320,180", "--still"]) == 0
    points = json.loads(capsys.readouterr().out.splitlines()[-1])["points"]
    assert points["object"] > 0 and points["rest"] > points["object"] / 10
    goal = read_goal(out)
    assert isinstance(goal.sets[0].select, ClickSelection)
    assert goal.sets[0].goal == TranslationGoal(vector=(0.1, 0.0, 0.0))
    assert isinstance(goal.sets[1].goal, StillGoal)


@pytest.mark.rejects_input
@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (["--translation", "0,0,1"], "choose points"),
        (["--box", "0,0,9,9", "--mask", "m.png", "--still"], "--mask and --box"),
        (["--box", "0,0,9,9"], "where they go"),
        (["--box", "0,0,9", "--still"], "expected 4 numbers"),
        (["--click", "1,nan", "--translation", "0,0,1"], "expected 2 numbers"),
        (["--object-id", "3", "--still"], "--ids"),
    ],
)
def test_goals_that_say_nothing_are_refused(tmp_path: Path, words: list[str], hint: str) -> None:
    with pytest.raises(InputError, match=hint):
        goal_main(["--capture", str(tmp_path), "--camera", "c", "--frame", "f", *words])
