"""From released files to the table of released metrics, with real models."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from pointworld.data.released import (
    ChainSettings,
    LowConfidence,
    ReleasedSample,
    decode_clip,
    evaluation_sample,
    low_confidence,
    read_confidence,
    synthetic,
    training_sample,
    write_confidence,
)
from pointworld.encoders import load_encoder
from pointworld.errors import InputError
from pointworld.model import WorldModel, collate
from pointworld.robot import RobotModel
from pointworld.train.released_evaluation import evaluate_released, predict_sample, score_sample
from pointworld.train.released_metrics import point_weights
from tests.model.test_rollout import make_model


@pytest.fixture(scope="module")
def samples() -> list[ReleasedSample]:
    robot, encoder = RobotModel.load("panda_robotiq"), load_encoder("rgb")
    found = []
    for i in range(3):
        raw = synthetic.droid_clip(np.random.default_rng(i), key=f"SYNTH{i}-0:11", points=700)
        settings = ChainSettings(max_scene_points=400, max_robot_points=60)
        sample = evaluation_sample(decode_clip(raw), robot, settings)
        found.append(sample.with_features(encoder))
    return found


def droid_model(mode: str, channels: int = 3) -> WorldModel:
    model = make_model(mode, image_channels=channels)
    domains = replace(model.spec, domains=("droid",), step_dt=2 / 15)
    other = WorldModel(domains)
    other.load_state_dict(model.state_dict())
    return other.eval()


def test_released_mode_sees_every_token_once(samples: list[ReleasedSample]) -> None:
    """The forward gets exactly the sample's points; a prediction of a padded batch mate's row is the same clip's."""
    sample = samples[0]
    displacements, log_var = predict_sample(droid_model("released"), sample)
    points = len(sample.flow.scene)
    assert displacements.shape == (11, points, 3) and log_var.shape == (11, points)
    assert (displacements[0] == 0).all() and displacements[1:].abs().max() > 0
    inputs = collate([(s.flow.scene, s.flow.robot) for s in samples])
    assert inputs.scene_exists.sum(1).tolist() == [len(s.flow.scene) for s in samples]


def test_stable_mode_gets_the_base_frame(samples: list[ReleasedSample]) -> None:
    flow = samples[1].in_base_frame()
    torch.testing.assert_close(
        flow.scene.points.double(), samples[1].base_points(), atol=1e-6, rtol=0
    )
    displacements, log_var = predict_sample(droid_model("stable"), samples[1])
    want = droid_model("stable").predict(flow.scene, flow.robot, domain="droid")
    torch.testing.assert_close(displacements, want.displacements)
    assert torch.isfinite(log_var).all()


def test_no_motion_has_the_error_of_the_motion(samples: list[ReleasedSample]) -> None:
    """A model whose displacements are all zero is scored with the true motion's length."""
    model = droid_model("released")
    model.norm_stats_per_step_var.zero_()  # floored: a micrometre per unit
    sample = samples[0]
    score = score_sample(model, sample)
    reach = (sample.flow.positions - sample.flow.positions[:1]).norm(dim=-1)
    assert score.metrics["l2/mean"] == pytest.approx(float(reach[sample.valid].mean()), abs=2e-3)
    assert score.metrics["l2_moved/mean"] > 0.02 > score.metrics["l2_static/mean"]


def test_table_with_filter(samples: list[ReleasedSample], tmp_path: Path) -> None:
    """The expert's file is found by clip id; what it lists lowers the keep fraction, by more in compat mode."""
    pytest.importorskip("h5py", reason="pip install 'pointworld-open[datasets]'")
    generator = torch.Generator().manual_seed(0)
    masks: dict[str, LowConfidence] = {}
    for sample in samples:
        values = torch.rand(11, len(sample.flow.scene), generator=generator)
        masks[sample.flow.key] = low_confidence(values, sample.base_points().float())
    path = tmp_path / "expert_confidence-seed=42.h5"
    write_confidence(path, masks)
    low = partial(read_confidence, path)
    model = droid_model("released")
    tables = {m: evaluate_released(model, samples, low=low, mode=m) for m in ("compat", "exact")}  # type: ignore[arg-type]
    keep = {m: t["full_eval/test/_meta/confidence/keep_fraction"] for m, t in tables.items()}
    assert 0.4 < keep["compat"] < keep["exact"] < 0.85
    table = tables["exact"]
    assert table["full_eval/test/_meta/total_sequences"] == 3
    rows = [score_sample(model, s, low=masks[s.flow.key], mode="exact").metrics for s in samples]
    want = sum(r["filtered_l2_moved/mean"] for r in rows) / 3
    assert table["full_eval/test/filtered_l2_moved/mean"] == pytest.approx(want)
    assert table["full_eval/test/droid/l2/mean"] == table["full_eval/test/l2/mean"]
    with pytest.raises(InputError, match="official test split"):
        evaluate_released(model, [samples[0]], low=partial(read_confidence, _empty(tmp_path)))


def _empty(folder: Path) -> Path:
    write_confidence(folder / "empty.h5", {})
    return folder / "empty.h5"


def test_training_step_on_released_data() -> None:
    """Augmented samples with the released weights: ten steps lower the loss on them."""
    torch.manual_seed(0)
    robot, rng = RobotModel.load("panda_robotiq"), np.random.default_rng(0)
    settings = ChainSettings(max_scene_points=300, max_robot_points=60)
    clip = decode_clip(synthetic.droid_clip(rng, points=600))
    drawn = [training_sample(clip, robot, rng, settings) for _ in range(2)]
    model = droid_model("released", channels=0).train()
    inputs = collate([(s.flow.scene, s.flow.robot) for s in drawn])
    count = inputs.scene_points.shape[1]

    def padded(values: torch.Tensor) -> torch.Tensor:
        missing = count - values.shape[1]
        return torch.cat([values, values.new_zeros(11, missing, *values.shape[2:])], 1)

    true = torch.stack([padded(s.flow.positions) for s in drawn])
    weights = point_weights(true, torch.stack([padded(s.valid) for s in drawn]))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    losses = []
    for _ in range(10):
        error = model(inputs).displacements - (true - true[:, :1])
        loss = (weights * error.abs().mean(-1)).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert weights.sum() == pytest.approx(1.0, abs=1e-5)
    assert losses[-1] < 0.9 * losses[0]


@pytest.mark.rejects_input
def test_unknown_domain_and_no_clip(samples: list[ReleasedSample]) -> None:
    with pytest.raises(InputError, match="domain 'droid', the model knows sim"):
        predict_sample(make_model("released", image_channels=3), samples[0])
    with pytest.raises(InputError, match="no clip"):
        evaluate_released(droid_model("released"), [])
