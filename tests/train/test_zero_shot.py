"""Tables of a second model on what it has never seen, and of the simulator that does not know the physics."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from pointworld.cli.app import main
from pointworld.errors import InputError
from pointworld.train.report import physics_table
from pointworld.train.zero_shot import ZeroShot, zero_shot_rows, zero_shot_table
from tests.train.test_report import result

ROLES = ("families", "families_trained", "arm", "arm_trained", "arm_tuned")


def zero_shot(**changed: dict[str, Any]) -> ZeroShot:
    """The other model is 1.4 times as far off as the shipped one, which fine-tuning brings down to 1.2 times."""
    errors = dict(zip(ROLES, (0.021, 0.015, 0.021, 0.015, 0.018), strict=True))
    return ZeroShot(**{role: result(error) for role, error in errors.items()} | changed)


def test_targets_of_what_was_never_seen() -> None:
    rows = zero_shot_rows(zero_shot())
    assert [(t.name, t.met, clips, trained) for t, clips, trained in rows] == [
        ("drawer, never seen", True, 1, "0.360"),
        ("second arm, never seen", True, 2, "0.330"),
        ("second arm, after fine-tuning", False, 2, "0.330"),
    ]
    assert [t.measured for t, _, _ in rows] == ["0.504", "0.462", "0.396"]
    met = {t.name: t.met for t, _, _ in zero_shot_rows(zero_shot(families=result(0.032)))}
    assert not met["drawer, never seen"]  # 0.768
    met = {t.name: t.met for t, _, _ in zero_shot_rows(zero_shot(arm=result(0.023)))}
    assert not met["second arm, never seen"]  # 1.53 times
    met = {t.name: t.met for t, _, _ in zero_shot_rows(zero_shot(arm_tuned=result(0.015)))}
    assert met["second arm, after fine-tuning"]


def test_a_family_that_is_left_out_takes_no_other_of_its_group_along() -> None:
    evaluation = result(0.021)
    evaluation["families"] = dict(
        zip(("clutter", "tray"), evaluation["families"].values(), strict=True)
    )
    given = zero_shot(families=evaluation)
    assert ZeroShot(**vars(given) | {"left_out": ("clutter",)}).unseen() == ["clutter"]
    assert ZeroShot(**vars(given) | {"left_out": ("all",)}).unseen() == ["clutter", "tray"]


def test_clips_that_are_others_are_counted() -> None:
    other = result(0.015)
    movers = other["families"]["drawer"]["metrics"]["no_motion"]["l2_moved"]
    movers |= {"mean": 1.1 * movers["mean"], "count": 44}
    table = zero_shot_table(zero_shot(families_trained=other), "tiny")
    assert "| drawer, never seen | 1 | 0.360 (on 44 clips) | 0.504 | at most 0.75 | met |" in table
    other["families"].pop("drawer")
    table = zero_shot_table(zero_shot(families_trained=other), "tiny")
    assert "| drawer, never seen | 1 | – | 0.504 |" in table


def physics(model: float = 0.015) -> dict[str, Any]:
    """Friction is worth a tenth, mass a twentieth of what pushes move; nothing is said of drawers."""
    made = result(model) | {"data": "clips"}
    for group in (made["overall"], made["rigid"], made["families"]["push"]):
        for name, ratio in (("wrong_friction", 0.1), ("wrong_mass", 0.05), ("wrong_physics", 0.0)):
            group["metrics"][name] = {
                "l2_moved": {"mean": 0.05 * ratio, "standard_error": 0.001, "count": 1}
            }
            group["ratios_to_no_motion"][name] = ratio
    return made


def test_what_physics_is_worth_by_family() -> None:
    lines = physics_table(physics()).splitlines()
    assert lines[2:] == [
        "| push | 1 | 0.100 ± 0.020 | 0.050 ± 0.020 | 0.000 |",
        "| **all** | 1 | 0.100 ± 0.020 | 0.050 ± 0.020 | 0.000 |",
    ]


def test_a_page_is_filled(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    blocks = ("summary", "zero-shot", "second-arm", "physics")
    page.write_text("".join(f"<!-- generated: {b} -->\nold\n<!-- end: {b} -->\n" for b in blocks))
    given = zero_shot()
    for role in ROLES:
        (tmp_path / f"{role}.json").write_text(json.dumps(getattr(given, role)))
    (tmp_path / "physics.json").write_text(json.dumps(physics()))
    report = ["evaluate", "--report", f"tiny={tmp_path / 'families_trained.json'}"]
    assert main([*report, "--page", str(page)]) == 0
    assert page.read_text().count("old") == 3  # parts that nothing was given for stay
    extra = ["--physics", str(tmp_path / "physics.json")]
    extra += ["--zero-shot", *(f"{role}={tmp_path / role}.json" for role in ROLES)]
    assert main([*report, *extra, "--page", str(page)]) == 0
    text = page.read_text()
    assert "old" not in text and "| push | 1 | 0.100 ± 0.020 |" in text
    assert "| test clips | clips with movers | tiny | the other model | wanted |  |" in text
    assert (
        "| 0.330 | 0.396 | at most 0.330 (equal to the trained) | **missed** by 0.066 (20 %) |"
        in text
    )
    assert "| **all** | 2 | 50.0 ± 0.0 | 0.330 | 0.462 | 0.396 |" in text
    assert "| push | 1 | 50.0 ± 0.0 | 0.300 | 0.420 | 0.360 |" in text


@pytest.mark.rejects_input
def test_evaluations_that_do_not_fit_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(InputError, match="no simulator with wrong friction"):
        physics_table(result(0.01) | {"data": "clips"})
    for left_out, message in (("tool", "no clip with movers of tool"), ("arms", "called arms")):
        with pytest.raises(InputError, match=message):
            zero_shot_rows(ZeroShot(**vars(zero_shot()) | {"left_out": (left_out,)}))
    still = copy.deepcopy(result(0.01))
    still["overall"]["ratios_to_no_motion"]["model"] = None
    with pytest.raises(InputError, match="no clip with movers"):
        zero_shot_rows(zero_shot(arm_trained=still))
    other = result(0.01)
    other["overall"]["metrics"]["no_motion"]["l2_moved"]["mean"] *= 1.01
    good, bad = tmp_path / "good.json", tmp_path / "bad.json"
    good.write_text(json.dumps(result(0.01)))
    bad.write_text(json.dumps(other))
    named = {role: f"{role}={good}" for role in ROLES}
    for roles, message in (
        (list(named.values())[1:], "needs ROLE=FOLDER once for each"),
        ([*named.values(), named["arm"]], "needs ROLE=FOLDER once for each"),
        (list((named | {"arm": "arm"}).values()), "needs ROLE=FOLDER once for each"),
        (list((named | {"arm_tuned": f"arm_tuned={bad}"}).values()), "on other clips than 'arm'"),
        (list((named | {"arm": f"arm={tmp_path}"}).values()), "holds no evaluation"),
    ):
        assert main(["evaluate", "--report", str(good), "--zero-shot", *roles]) == 2
        assert message in " ".join(capsys.readouterr().err.split())
