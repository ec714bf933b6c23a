"""Two processes train as one does, and a killed one takes the run down without harm."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from pointworld.errors import InputError
from pointworld.model.spec import Mode
from pointworld.train import Ranks, train
from tests.train.rank_worker import main as one_process
from tests.train.synthetic import push
from tests.train.test_trainer import CONFIG, SPEC, run


def torchrun(
    folder: Path, argument: int | str, *more: str, module: str = "rank_worker"
) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    command += ["--standalone", "-m", f"tests.train.{module}"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [*command, str(folder), str(argument), *more],
        env=environment,
        stderr=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
    )


def averages(folder: Path) -> dict[str, torch.Tensor]:
    state = load_file(folder / "state.safetensors")
    return {name: value for name, value in state.items() if name.startswith("average.")}


@pytest.mark.parametrize("mode", ["stable", "released"])
def test_two_processes_learn_what_one_learns(tmp_path: Path, mode: Mode) -> None:
    one_process(tmp_path / "one", 3, mode)
    pair = torchrun(tmp_path / "two", 3, mode)
    _, errors = pair.communicate(timeout=180)
    assert pair.returncode == 0, errors
    straight, shared = averages(tmp_path / "one"), averages(tmp_path / "two")
    for name, value in straight.items():
        assert (value - shared[name]).abs().max() < 2e-5, name
    losses = [
        float((tmp_path / name / "curve.csv").read_text().splitlines()[-1].split(",")[4])
        for name in ("one", "two")
    ]
    assert abs(losses[0] - losses[1]) <= 2e-5


def test_a_killed_process_ends_the_run_and_it_resumes_exactly(tmp_path: Path) -> None:
    pair = torchrun(tmp_path, 100_000)
    deadline = time.monotonic() + 120
    while not (tmp_path / "state.safetensors").is_file() and time.monotonic() < deadline:
        time.sleep(0.2)
    os.kill(int((tmp_path / "pid1").read_text()), signal.SIGKILL)
    _, errors = pair.communicate(timeout=90)
    assert pair.returncode != 0 and "Signal 9" in errors
    steps = load_step(tmp_path) + 2
    for folder in (tmp_path, tmp_path / "straight"):
        again = torchrun(folder, steps)
        _, errors = again.communicate(timeout=180)
        assert again.returncode == 0, errors
    resumed, straight = averages(tmp_path), averages(tmp_path / "straight")
    assert all(torch.equal(value, resumed[name]) for name, value in straight.items())


@pytest.mark.slow
@pytest.mark.parametrize(("how", "met"), [("wait", True), ("agree", False)])
def test_others_wait_longer_for_samples_than_for_a_step(
    tmp_path: Path, how: str, met: bool
) -> None:
    pair = torchrun(tmp_path, how, module="wait_worker")
    _, errors = pair.communicate(timeout=300)
    assert (pair.returncode == 0) is met, errors
    assert (tmp_path / "met1").exists() is met


def load_step(folder: Path) -> int:
    with safe_open(folder / "state.safetensors", framework="pt") as archive:
        return int(json.loads(archive.metadata()["record"])["step"])


@pytest.mark.rejects_input
def test_a_batch_that_cannot_be_shared_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="make it a multiple"):
        train(SPEC, [], [], tmp_path, replace(CONFIG, batch_size=3), ranks=Ranks(world=2))


@pytest.mark.parametrize("option", ["recompute", "bfloat16"])
def test_memory_and_precision_options_change_little(tmp_path: Path, option: str) -> None:
    changed = (
        replace(CONFIG, recompute=True)
        if option == "recompute"
        else replace(CONFIG, precision="bfloat16")
    )
    plain, other = (
        run(tmp_path / "plain").state_dict(),
        run(tmp_path / "other", changed).state_dict(),
    )
    if option == "recompute":
        assert all(torch.equal(value, other[name]) for name, value in plain.items())
        return
    gaps = [float((value - other[name]).abs().max()) for name, value in plain.items()]
    assert 0 < max(gaps) < 2e-2


def test_a_run_can_start_from_a_model(tmp_path: Path) -> None:
    first = run(tmp_path / "first")
    samples = [push(i) for i in range(6)]
    tuned = train(
        SPEC,
        samples,
        samples[:2],
        tmp_path / "second",
        replace(CONFIG, learning_rate=0.0),
        init=first,
    )
    for name, value in first.state_dict().items():
        assert torch.allclose(tuned.state_dict()[name], value, atol=1e-7), name
    with pytest.raises(InputError, match="another task"):
        train(
            replace(SPEC, robot_tokens=5),
            samples,
            samples[:2],
            tmp_path / "third",
            CONFIG,
            init=first,
        )
