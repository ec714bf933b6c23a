"""Take that cup away: fit the kitchen table, click the white cup in one frame, remove it, look at four others."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pointworld.cli.app import main

MASKS = Path(__file__).parent / "cup_masks"
BENCHMARK = Path(__file__).resolve().parents[2] / "benchmarks" / "splat_cup.py"


def test_masks_are_of_one_cup() -> None:
    for path in sorted(MASKS.glob("*.png")):
        mask = np.asarray(Image.open(path)).astype(bool)
        assert mask.shape == (240, 320) and 400 < mask.sum() < 800, path.name
    assert len(list(MASKS.glob("*.png"))) == 4


@pytest.mark.slow
@pytest.mark.needs_shared
def test_the_cup_goes_and_the_rest_stays(shared_dir: Path, tmp_path: Path) -> None:
    fit = ["splat", "fit", str(shared_dir / "captures" / "kitchen_table"), "--out", str(tmp_path)]
    options = (
        "--fit.iterations 1400 --fit.depth-weight 0.8 --fit.exposure --fit.coarse 0.6 --threads 1"
    )
    assert main([*fit, *options.split()]) == 0
    printed = subprocess.run(
        [sys.executable, str(BENCHMARK), "--scene", str(tmp_path)],
        check=True,
        capture_output=True,
        text=True,
    )
    found = json.loads(printed.stdout)
    assert found["cup_pixels_changed"] >= 0.9, found
    assert found["contribution_left"] <= 0.05 and found["gaussians_left"] <= 0.2, found
    assert found["other_pixels_changed"] < 0.03, found
