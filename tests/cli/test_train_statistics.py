"""`pointworld statistics`, `pointworld train --statistics`, and training in two processes, as commands."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from pointworld.cli.app import main
from pointworld.model import load
from pointworld.train import read_statistics, write_statistics

pytest.importorskip(
    "mujoco", reason="the simulator is an extra: pip install 'pointworld-open[sim]'"
)

TWO_STEPS = "--train.minutes 0 --train.steps 2 --train.batch-size 2 --threads 1 --workers 1"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two folders of training clips and one of validation clips; the cache is shared."""
    folder = tmp_path_factory.mktemp("data")
    for name, seed, clips in (("a", "5", "2"), ("b", "6", "1"), ("val", "7", "1")):
        command = ["generate", "--out", str(folder / name), "--clips", clips, "--seed", seed]
        assert main([*command, "--workers", "0", "--tabletop.families", "push"]) == 0
    return folder


def folders(data: Path, *names: str) -> list[str]:
    return [str(data / name) for name in names]


def test_statistics_count_every_folder(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    common = ["--cache", str(data / "cache"), "--workers", "1"]
    out = tmp_path / "together.json"
    taken = ["--data", *folders(data, "a", "b"), "--out", str(out)]
    assert main(["statistics", *taken, *common, "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    (together,) = read_statistics(out).values()
    assert together.clips == printed["sim"]["clips"] == 3
    assert len(together.displacement_var) == 11 and together.displacement_var[-1] > 0
    apart = tmp_path / "apart.json"
    named = ["--domains", "first", "second", "--out", str(apart)]
    assert main(["statistics", "--data", *folders(data, "a", "b"), *named, *common]) == 0
    domains = read_statistics(apart)
    assert [domains[name].clips for name in ("first", "second")] == [2, 1]
    assert domains["first"].scene_mean != domains["second"].scene_mean


def test_training_takes_the_statistics_it_is_given(data: Path, tmp_path: Path) -> None:
    common = ["--cache", str(data / "cache"), "--data", *folders(data, "a", "b")]
    measured = tmp_path / "measured.json"
    assert main(["statistics", *common, "--workers", "1", "--out", str(measured)]) == 0
    (entry,) = read_statistics(measured).values()
    doubled = tuple(4 * value + 1e-3 for value in entry.displacement_var)
    write_statistics(tmp_path / "given.json", {"sim": replace(entry, displacement_var=doubled)})
    run = ["--validation", *folders(data, "val"), "--out", str(tmp_path / "run")]
    given = ["--statistics", str(tmp_path / "given.json"), *TWO_STEPS.split()]
    assert main(["train", *common, *run, *given]) == 0
    model = load(tmp_path / "run")
    assert torch.allclose(model.norm_stats_per_step_var[0, :, 0], torch.tensor(doubled))


@pytest.mark.rejects_input
def test_statistics_of_another_domain_are_refused(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "other.json").write_text('{"format": "pointworld-statistics-1", "domains": {}}')
    common = ["--cache", str(data / "cache"), "--data", *folders(data, "a")]
    run = ["--validation", *folders(data, "val"), "--out", str(tmp_path / "run")]
    given = ["--statistics", str(tmp_path / "other.json"), *TWO_STEPS.split()]
    assert main(["train", *common, *run, *given]) == 2
    assert "but not 'sim'" in capsys.readouterr().err


@pytest.mark.slow
def test_torchrun_of_the_command_learns_what_one_process_learns(data: Path, tmp_path: Path) -> None:
    """As docs/training.md has it: the second process waits while the first makes the samples."""
    arguments = ["train", "--data", *folders(data, "a", "b"), "--validation", *folders(data, "val")]
    arguments += ["--train.validate-every", "2", "--device", "cpu", *TWO_STEPS.split()]
    one, two = tmp_path / "one", tmp_path / "two"
    assert main([*arguments, "--out", str(one), "--cache", str(data / "cache")]) == 0
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    command += ["--master-port", "29619", "-m", "pointworld.cli.app", *arguments]
    finished = subprocess.run(
        [*command, "--out", str(two), "--cache", str(tmp_path / "cache")],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert finished.returncode == 0, finished.stderr
    states = [load_file(folder / "state.safetensors") for folder in (one, two)]
    for name, value in states[0].items():
        if name.startswith("average."):
            assert (value - states[1][name]).abs().max() < 1e-4, name
    loss = [
        float((folder / "curve.csv").read_text().splitlines()[-1].split(",")[4])
        for folder in (one, two)
    ]
    assert loss[0] == pytest.approx(loss[1], rel=1e-3)
    # One of them wrote the checkpoint, whole.
    assert load(two).spec.arch == load(one).spec.arch
