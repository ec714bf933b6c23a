"""`pointworld evaluate` with every baseline, and on released data."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pointworld.cli.app import main
from pointworld.data.released import (
    decode_clip,
    evaluation_sample,
    low_confidence,
    synthetic,
    write_confidence,
)
from pointworld.model import WorldModel, save_checkpoint
from pointworld.robot import RobotModel
from pointworld.train.graph_model import GraphModel, GraphSpec, save_graph_model
from pointworld.train.objective import prepare_heads
from tests.model.test_rollout import make_model
from tests.train.test_released_evaluation import droid_model

SCENES = [
    "--tabletop.families",
    "push",
    "--tabletop.height",
    "90",
    "--tabletop.width",
    "160",
    "--seed",
    "4",
]


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip(
        "mujoco", reason="the simulator is an extra: pip install 'pointworld-open[sim]'"
    )
    folder = tmp_path_factory.mktemp("clips")
    command = ["generate", "--out", str(folder), "--clips", "2", "--workers", "0", *SCENES]
    assert main(command) == 0
    return folder


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    model = make_model("stable")
    prepare_heads(model)
    return save_checkpoint(model, tmp_path_factory.mktemp("model") / "small")


@pytest.fixture(scope="module")
def validation(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Other scenes than those evaluated."""
    folder = tmp_path_factory.mktemp("validation")
    command = ["generate", "--out", str(folder), "--clips", "2", "--workers", "0", *SCENES]
    assert main([*command, "--seed", "5"]) == 0
    return folder


def test_every_baseline_and_a_fitted_spread(
    clips: Path, validation: Path, checkpoint: Path, tmp_path: Path
) -> None:
    network = GraphModel(GraphSpec(width=8, rounds=1, neighbours=4, context_points=200))
    save_graph_model(network, tmp_path / "gnn", training={})
    command = ["evaluate", str(clips), "--checkpoint", str(checkpoint)]
    command += ["--validation", str(validation)]
    extra = ["--gnn", str(tmp_path / "gnn"), "--simulator", "--fit-spread"]
    assert main([*command, *extra, "--out", str(tmp_path / "all")]) == 0
    result = json.loads((tmp_path / "all" / "evaluation.json").read_text())
    ratios = result["overall"]["ratios_to_no_motion"]
    assert set(ratios) == {
        "model",
        "no_motion",
        "rigid_carry",
        "object_carry",
        "gnn",
        "wrong_physics",
        "wrong_friction",
        "wrong_mass",
    }
    # They know geometry, path and mechanics: nothing else comes near them.
    for name in ("wrong_physics", "wrong_friction", "wrong_mass"):
        assert 0 < ratios[name] < 0.4 < ratios["gnn"]
    model = result["overall"]["metrics"]["model"]
    near = {p: model[f"coverage_{p}_near"]["mean"] for p in (68, 95)}
    assert abs(near[68] - 0.683) < 0.15 and abs(near[95] - 0.95) < 0.15
    assert main([*command, "--spread", str(tmp_path / "all" / "spread.json"), "--limit", "1",
                 "--out", str(tmp_path / "again")]) == 0  # fmt: skip
    again = json.loads((tmp_path / "again" / "evaluation.json").read_text())
    assert again["spread"] == result["spread"] and again["clips"] == 1
    assert {p.name for p in (tmp_path / "all").iterdir()} == {
        "evaluation.json",
        "evaluation.md",
        "families.png",
        "steps.png",
        "spread.json",
        "run.json",
    }


@pytest.fixture(scope="module")
def droid(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, WorldModel, dict[str, Any]]:
    pytest.importorskip("h5py", reason="pip install 'pointworld-open[datasets]'")
    pytest.importorskip("webdataset", reason="pip install 'pointworld-open[datasets]'")
    root = tmp_path_factory.mktemp("droid")
    uuid = "SYNTH+0a1b2c3d+2023-01-01-00h-00m-00s"
    clips = {
        f"{start}:{start + 11}": synthetic.droid_clip(
            np.random.default_rng(start), key=f"{uuid}-{start}:{start + 11}", points=500
        )
        for start in (0, 11)
    }
    (root / "h5").mkdir()
    synthetic.write_h5(root / "h5" / f"{uuid}_flows.h5", clips)
    synthetic.write_wds(root / "wds", "test", {clip.key: clip for clip in clips.values()})
    robot = RobotModel.load("panda_robotiq")
    masks, generator = {}, torch.Generator().manual_seed(0)
    for clip in clips.values():
        sample = evaluation_sample(decode_clip(clip), robot)
        values = torch.rand(11, len(sample.flow.scene), generator=generator)
        masks[clip.key] = low_confidence(values, sample.base_points().float())
    write_confidence(root / "expert.h5", masks)
    model = droid_model("released", channels=0)
    save_checkpoint(model, root / "model")
    return root, model, clips


def test_released_data_by_command(
    droid: tuple[Path, WorldModel, dict[str, Any]],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    root, _, _ = droid
    options = [
        "--checkpoint",
        str(root / "model"),
        "--confidence",
        str(root / "expert.h5"),
        "--json",
    ]
    tables = []
    for name in ("h5", "wds"):
        command = ["evaluate", "--released", str(root / name), "--min-shard-bytes", "0", *options]
        assert main([*command, "--out", str(tmp_path / name)]) == 0
        tables.append(json.loads(capsys.readouterr().out)["rows"])
    assert tables[0] == tables[1]
    model, still = tables[0]["model"], tables[0]["no_motion"]
    prefix = "full_eval/test"
    assert model["compat"][f"{prefix}/_meta/total_sequences"] == 2
    for name in ("l2", "l2_moved", "l2_static", "filtered_l2_moved"):
        assert model["exact"][f"{prefix}/{name}/mean"] > 0
    assert f"{prefix}/l2_moved_conf/mean" in model["exact"]
    assert f"{prefix}/l2_moved_conf/mean" not in still["exact"]
    assert still["exact"][f"{prefix}/l2_static/mean"] < still["exact"][f"{prefix}/l2_moved/mean"]
    keep = f"{prefix}/_meta/confidence/keep_fraction"
    assert model["compat"][keep] < model["exact"][keep] < 1


def test_a_manifest_chooses_clips(
    droid: tuple[Path, WorldModel, dict[str, Any]],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    root, _, clips = droid
    keys = [clip.key for clip in clips.values()]
    manifest = {
        "schema_version": "wds_manifest.v1",
        "domain": "droid",
        "seed": 42,
        "test_percentage": 0.5,
        "test_clip_keys": keys[:1],
        "include_clip_keys": keys,
    }
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    command = ["evaluate", "--released", str(root / "h5"), "--checkpoint", str(root / "model")]
    assert main([*command, "--manifest", str(tmp_path / "manifest.json"), "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert rows["model"]["exact"]["full_eval/test/_meta/total_sequences"] == 1


@pytest.mark.parametrize(
    ("options", "described"),
    [
        ([], "--fit-spread"),
        (["--report"], "--zero-shot"),
        (["--released"], "--confidence"),
        (["--released", "folder"], "--confidence"),
    ],
)
def test_each_kind_of_evaluation_has_help(
    options: list[str], described: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        main(["evaluate", *options, "--help"])
    assert end.value.code == 0
    assert described in capsys.readouterr().out


@pytest.mark.rejects_input
def test_what_cannot_be_evaluated_is_said(
    clips: Path, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "copy"
    other.mkdir()
    (other / "0000").symlink_to(clips / "0000")
    for options, message in (
        (["evaluate", str(other), "--simulator"], "manifest.json does not exist"),
        (["evaluate"], "at least one folder of clips"),
        (["evaluate", "--released", str(tmp_path), "--limit", "-1"], "--limit is -1"),
        (["evaluate", str(clips), "--fit-spread"], "needs --validation"),
        (["evaluate", str(clips), "--gnn", str(tmp_path)], "no graph network"),
        (["evaluate", str(clips), "--spread", str(tmp_path / "no.json")], "no correction"),
        (["evaluate", "--released", str(tmp_path / "copy")], "no released data"),
        (["evaluate", "--released", str(tmp_path), "--manifest", "no.json"], "no such file"),
    ):
        assert main([*options, "--checkpoint", str(checkpoint)]) == 2
        assert message in capsys.readouterr().err
