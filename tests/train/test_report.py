"""Tables made from an evaluation: the numbers of the JSON, and misses said as misses."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest

from pointworld.train.evaluator import tabulate
from pointworld.train.report import aims, main_table, plot_families, report


def _row(moved: float, rest: float, share: float) -> dict[str, float]:
    return {
        "l2": moved / 10,
        "l2_moved": moved,
        "l2_static": rest,
        "l2_moved_last": 2 * moved,
        "l2_never_moving": rest,
        "false_motion_share": share,
    }


def _clip(model: float) -> dict[str, dict[str, float]]:
    spread = {
        "spearman_moved": 0.5,
        "coverage_68": 0.7,
        "coverage_95": 0.9,
        "coverage_68_moved": 0.6,
        "coverage_95_moved": 0.8,
    }
    return {
        "model": _row(model, 0.001, 0.01) | spread,
        "no_motion": _row(0.05, 0.0, 0.0),
        "rigid_carry": _row(0.03, 0.002, 0.02),
        "object_carry": _row(0.02, 0.0, 0.0),
    }


def _result(model: float) -> dict:
    rows = [_clip(model), _clip(model * 1.2)]
    return {
        "clips": 2,
        "rigid_carry_radius_m": 0.02,
        "overall": tabulate(rows),
        "families": {"push": tabulate(rows[:1]), "empty": tabulate(rows[1:])},
    }


def test_every_aim_met_by_a_good_model() -> None:
    assert [a.met for a in aims(_result(0.015))] == [True] * 5


@pytest.mark.parametrize(
    ("model", "met"),
    [(0.0205, [False, True, False, True, True]), (0.03, [False, False, False, True, True])],
)
def test_misses_are_said(model: float, met: list[bool]) -> None:
    found = aims(_result(model))
    assert [a.met for a in found] == met
    assert report({"tiny": _result(model)}).count("**missed**") == met.count(False)


def test_undefined_measurement_is_a_miss() -> None:
    result = copy.deepcopy(_result(0.015))
    result["overall"]["ratios_to_no_motion"]["model"] = None
    result["overall"]["metrics"]["model"]["l2_never_moving"]["mean"] = None
    assert [a.met for a in aims(result)] == [False, False, False, False, True]


def test_tables_carry_the_numbers() -> None:
    lines = main_table({"tiny": _result(0.015), "tiny, images": _result(0.01)}).splitlines()
    assert len({line.count("|") for line in lines}) == 1
    model = next(line for line in lines if line.startswith("| **tiny** "))
    assert "16.5 ± 1.5" in model and "0.330" in model
    other = next(line for line in lines if line.startswith("| **tiny, images** "))
    assert "11.0 ± 1.0" in other and "0.220" in other
    assert any(line.startswith("| no motion ") and "50.0 ± 0.0" in line for line in lines)


def test_picture_is_written(tmp_path: Path) -> None:
    path = tmp_path / "families.png"
    plot_families({"tiny": _result(0.015)}, path)
    assert path.read_bytes()[:4] == b"\x89PNG"
