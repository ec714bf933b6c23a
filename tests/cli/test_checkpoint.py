"""`pointworld checkpoint inspect` and `convert` as commands."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from pointworld.cli.app import main
from pointworld.model import save_checkpoint
from tests.model import released_file as rf
from tests.model.test_rollout import make_model


@pytest.fixture(scope="module")
def released(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The complete layout of the released small file, in a file of a few hundred kilobytes."""
    path = tmp_path_factory.mktemp("released") / "model-best.pt"
    weights = rf.light_weights(rf.model_shapes("small", 128))
    torch.save(rf.file_content(weights, "small", 128), path)
    return path


def test_inspect_released_as_json(released: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["checkpoint", "inspect", str(released), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["kind"] == "released"
    assert report["keys"] == 858
    assert report["trainable_parameters"] + report["encoder_parameters"] == 354_256_936
    assert report["contract"]["eval_max_num_cameras"] == 2
    assert report["spec"]["robot"] == "panda_robotiq"


def test_inspect_for_people_goes_to_stderr(
    released: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["checkpoint", "inspect", str(released)]) == 0
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "51,102,760 trainable parameters" in captured.err
    assert "robotiq_85_base_link" in captured.err


def test_inspect_our_own_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = save_checkpoint(make_model(), tmp_path / "ours")
    assert main(["checkpoint", "inspect", str(folder), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["kind"] == "pointworld"
    assert report["spec"]["mode"] == "stable"


@pytest.mark.rejects_input
def test_convert_refuses_and_writes_nothing(
    released: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "broken.pt").write_bytes(released.read_bytes()[:-5000])
    for file, message in (
        (tmp_path / "absent.pt", "no such file"),
        (tmp_path / "broken.pt", "Is the download complete?"),
    ):
        assert main(["checkpoint", "convert", str(file), "--out", str(tmp_path / "out")]) == 2
        last = capsys.readouterr().err.strip().splitlines()[-1]
        assert last.startswith("error: ")
        assert message in last
    assert not (tmp_path / "out").exists()


@pytest.mark.rejects_input
def test_pickled_code_is_refused_by_the_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = rf.file_content(rf.light_weights(rf.model_shapes("small", 128)), "small", 128)
    content["wandb_id"] = torch.optim.SGD
    torch.save(content, tmp_path / "code.pt")
    assert main(["checkpoint", "inspect", str(tmp_path / "code.pt")]) == 2
    assert "could run code" in capsys.readouterr().err
    assert main(["checkpoint", "inspect", str(tmp_path / "nowhere")]) == 2
    assert "there is no checkpoint" in capsys.readouterr().err


@pytest.mark.slow
def test_full_size_small_is_converted(
    released: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Writes 1.4 GB."""
    out = tmp_path / "small"
    assert main(["checkpoint", "convert", str(released), "--out", str(out), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["keys"] == 858
    assert 1.40e9 < report["bytes"] < 1.43e9
