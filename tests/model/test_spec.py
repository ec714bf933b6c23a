"""Model descriptions."""

from __future__ import annotations

import json
from typing import Any

import pytest

from pointworld.errors import CheckpointError, InputError
from pointworld.model import ModelSpec
from pointworld.ptv3 import PTv3Arch


def test_json_round_trip_is_exact() -> None:
    spec = ModelSpec(
        arch=PTv3Arch.small(64),
        mode="released",
        features="released",
        image_channels=4096,
        encoder="dinov3:released",
        encoder_layers=(4, 11, 17, 23),
        domains=("droid", "behavior"),
        domain_step_dt=(2 / 15, 0.2),
        simulated_domains=("behavior",),
        robot_links=("a", "b"),
        domain_robot_links=(("a", "b"), "gripper"),
        grippers=2,
        spread=((0.001, 0.5), (0.02, 1.25)),
    )
    assert ModelSpec.from_json(json.loads(json.dumps(spec.to_json()))) == spec


@pytest.mark.rejects_input
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mode": "fast"}, "mode is 'fast'"),
        ({"sliding": True, "features": "released"}, "sliding"),
        ({"horizon": 12}, "horizon is 12, expected 10"),
        ({"domains": ()}, "domains"),
        ({"domains": ("a", "a")}, "domains"),
        ({"simulated_domains": ("b",)}, "simulated_domains"),
        ({"domain_step_dt": (0.1, 0.2)}, "2 entries for 1 domains"),
        ({"grippers": 3}, "grippers"),
        ({"step_dt": 0.0}, "step_dt"),
        ({"image_channels": -1}, "image_channels"),
        ({"spread": ((0.02, 1.0), (0.001, 1.0))}, "spread map"),
    ],
)
def test_impossible_descriptions_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        ModelSpec(arch=PTv3Arch.tiny(), **change)


def test_a_checkpoint_from_before_sliding_has_none() -> None:
    values = ModelSpec(arch=PTv3Arch.tiny()).to_json()
    del values["sliding"]
    assert not ModelSpec.from_json(values).sliding


@pytest.mark.rejects_input
def test_unknown_and_missing_keys_are_named() -> None:
    values = ModelSpec(arch=PTv3Arch.tiny()).to_json()
    values["colour"] = 1
    del values["mode"]
    with pytest.raises(
        CheckpointError, match=r"unknown keys \['colour'\], missing keys \['mode'\]"
    ):
        ModelSpec.from_json(values)
    values = ModelSpec(arch=PTv3Arch.tiny()).to_json()
    values["arch"]["depth"] = 3
    with pytest.raises(CheckpointError, match="depth"):
        ModelSpec.from_json(values)
    values = ModelSpec(arch=PTv3Arch.tiny()).to_json()
    values["arch"] = 3
    with pytest.raises(CheckpointError, match="arch"):
        ModelSpec.from_json(values)
