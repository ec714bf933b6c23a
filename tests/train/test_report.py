"""Tables, targets and pictures made from an evaluation: the numbers of the JSON, and misses said as misses."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from pointworld.cli.app import main
from pointworld.errors import InputError
from pointworld.train.ablation import STUDIES
from pointworld.train.evaluator import ClipScores, tabulate
from pointworld.train.metrics import REST_BINS
from pointworld.train.page import fill_page, page_blocks
from pointworld.train.plots import plot_families, plot_steps
from pointworld.train.report import TABLES, main_table, report, step_table
from pointworld.train.targets import targets


def _row(moved: float, rest: float, share: float) -> dict[str, float]:
    return {
        "l2": moved / 10,
        "l2_moved": moved,
        "l2_static": rest,
        "l2_moved_last": 2 * moved,
        "l2_never_moving": rest,
        "false_motion_share": share,
        "l2_came_to_rest": moved,
        "l2_held": float("nan"),
        **{f"l2_moved@{t}": moved * t / 10 for t in range(1, 11)},
    }


def _scores(family: str, model: float) -> ClipScores:
    spread = {"spearman_moved": 0.55}
    for who, (inner, outer) in {"": (0.9, 0.99), "_near": (0.7, 0.9), "_moved": (0.6, 0.8)}.items():
        spread |= {f"coverage_68{who}": inner, f"coverage_95{who}": outer}
    columns = ("l2", "l2_moved", "l2_static", "l2_conf", "l2_moved_conf", "l2_static_conf")
    released = {f"released/{m}/{c}": model for m in ("compat", "exact") for c in columns}
    metrics = {
        "model": _row(model, 0.0008, 0.01) | spread | released,
        "no_motion": _row(0.05, 0.0, 0.0),
        "rigid_carry": _row(0.03, 0.002, 0.02),
        "object_carry": _row(0.02, 0.0, 0.0),
    }
    counts = torch.zeros(REST_BINS, dtype=torch.float64)
    counts[:100] = 1.0  # up to 10 mm
    return ClipScores(
        family=family, metrics=metrics, at_rest={name: counts.clone() for name in metrics}
    )


def result(model: float) -> dict[str, Any]:
    scores = [_scores("push", model), _scores("drawer", model * 1.2)]
    return {
        "checkpoint": "runs/tiny",
        "clips": 2,
        "rigid_carry_radius_m": 0.02,
        "overall": tabulate(scores),
        "rigid": tabulate(scores[:1]),
        "families": {"drawer": tabulate(scores[1:]), "push": tabulate(scores[:1])},
    }


def test_ratios_divide_means_over_the_clips_that_a_predictor_knows() -> None:
    scores = [_scores("push", 0.01), _scores("push", 0.02)]
    scores[1].metrics["no_motion"]["l2_moved"] = 0.01
    assert tabulate(scores)["ratios_to_no_motion"]["model"] == pytest.approx(0.5)  # type: ignore[index]
    del scores[1].metrics["rigid_carry"]
    table = tabulate(scores)
    assert table["ratios_to_no_motion"]["rigid_carry"] == pytest.approx(0.6)  # type: ignore[index]
    assert table["metrics"]["rigid_carry"]["l2"]["count"] == 1  # type: ignore[index]


def test_targets_are_met_or_missed_one_by_one() -> None:
    met = {t.name: t.met for t in targets(result(0.0138))}
    missed = {name for name, good in met.items() if not good}
    assert missed == {"bodies that never move, 99th percentile", "95 % coverage, movers"}
    met = {t.name: t.met for t in targets(result(0.0175))}
    assert not met["mover error / no motion, families of rigid objects"]
    assert not met["mover error / no motion, all families"]
    assert met["mover error / no motion, push"]  # below object carry, 0.4
    assert not met["mover error / no motion, drawer"]  # 0.42


def test_undefined_measurement_is_a_miss() -> None:
    broken = copy.deepcopy(result(0.01))
    broken["overall"]["ratios_to_no_motion"]["model"] = None
    broken["overall"]["metrics"]["model"]["l2_never_moving"]["mean"] = None
    met = {t.name: t.met for t in targets(broken)}
    assert not met["mover error / no motion, all families"]
    assert not met["bodies that never move, mean"]
    assert report({"tiny": broken}).count("**missed**") == list(met.values()).count(False)


def test_tables_carry_the_numbers() -> None:
    results = {"tiny": result(0.015), "tiny, images": result(0.01)}
    lines = main_table(results).splitlines()
    assert len({line.count("|") for line in lines}) == 1
    model = next(line for line in lines if line.startswith("| **tiny** "))
    assert "16.5 ± 1.5" in model and "0.330" in model and "| 9.9 |" in model
    assert any(line.startswith("| no motion ") and "50.0 ± 0.0" in line for line in lines)
    steps = step_table(results).splitlines()
    assert len(steps) == 12 and steps[-1].startswith("| 10 | 50.0 ± 0.0 | 0.600 | 0.400 | 0.330 |")
    assert "| tiny | compat | 16.50 ± 1.50 |" in report(results)


def test_a_miss_says_by_how_much() -> None:
    table = TABLES["targets"]({"tiny": result(0.0175)})
    rigid = next(line for line in table.splitlines() if "families of rigid objects" in line)
    assert rigid.endswith("| at most 0.28 | 0.350 | **missed** by 0.070 (25 %) |")
    far = next(line for line in table.splitlines() if "99th percentile" in line)
    assert far.endswith("| at most 5 mm | 9.90 mm | **missed** by 4.90 mm (98 %) |")
    wide = next(line for line in table.splitlines() if "95 % coverage, movers" in line)
    assert wide.endswith("| 80.0 % | **missed** by 5.0 points |")
    assert all(t.met != bool(t.off) for t in targets(result(0.0175)))


def test_pictures_are_written(tmp_path: Path) -> None:
    for name, plot in (("families.png", plot_families), ("steps.png", plot_steps)):
        plot({"tiny": result(0.015), "other": result(0.02)}, tmp_path / name)
        assert (tmp_path / name).read_bytes()[:4] == b"\x89PNG"


PAGE = "# Q\n\nby hand\n<!-- generated: summary -->\nold\n<!-- end: summary -->\nafter\n"


def test_a_page_is_filled_by_the_command_twice_alike(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(PAGE)
    named = []
    for label, value in (("tiny", 0.015), ("other", 0.01)):
        folder = tmp_path / label
        folder.mkdir()
        (folder / "evaluation.json").write_text(json.dumps(result(value)))
        named.append(f"{label} (a=b)={folder}")
    command = ["evaluate", "--report", *named, "--page", str(page), "--pictures", str(tmp_path)]
    assert main(command) == 0
    first = page.read_text()
    assert main(command) == 0 and page.read_text() == first
    assert first.startswith("# Q\n\nby hand\n<!-- generated: summary -->\n| predictor")
    assert first.endswith("<!-- end: summary -->\nafter\n") and "old" not in first
    assert "**tiny (a=b)**" in first and "**other (a=b)**" in first
    assert (tmp_path / "world_quality_steps.png").is_file()


@pytest.mark.rejects_input
def test_pages_and_evaluations_that_do_not_fit_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for text in (
        "no marks",
        PAGE.replace("end: summary", "end: other"),
        PAGE.replace("<!-- end", ""),
    ):
        with pytest.raises(InputError, match="page"):
            fill_page(text, {"summary": "new"})
    (tmp_path / "evaluation.json").write_text("{}")
    assert main(["evaluate", "--report", str(tmp_path)]) == 2
    assert "no evaluation of this version" in capsys.readouterr().err
    (tmp_path / "evaluation.json").write_text(json.dumps(result(0.01)))
    assert main(["evaluate", "--report", f"a={tmp_path}", f"a={tmp_path}"]) == 2
    assert "two evaluations are called 'a'" in capsys.readouterr().err
    other = result(0.01)
    other["overall"]["metrics"]["no_motion"]["l2_moved"]["mean"] *= 1.01
    (tmp_path / "other.json").write_text(json.dumps(other))
    assert main(["evaluate", "--report", str(tmp_path), f"b={tmp_path / 'other.json'}"]) == 2
    assert "'b' was measured on other clips" in capsys.readouterr().err


QUALITY = (Path(__file__).parents[2] / "docs" / "world_quality.md").read_text(encoding="utf-8")


def test_the_page_of_the_documentation_asks_for_tables_that_exist() -> None:
    asked = page_blocks(QUALITY)
    known = {*TABLES, *(f"ablation-{study}" for study in STUDIES)}
    known |= {"physics", "zero-shot", "second-arm"}
    assert set(asked) <= known and len(asked) == len(set(asked)) >= 6


def _first_cells(lines: list[str]) -> list[str]:
    return [line.split("|")[1].strip() for line in lines]


def test_what_the_page_explains_as_missed_is_what_its_tables_say_is_missed() -> None:
    lines = QUALITY.splitlines()
    section = QUALITY.partition("\n## What is missed\n")[2].partition("\n## ")[0]
    explained = [line for line in section.splitlines() if line.startswith("| ")][1:]
    missed = [line for line in lines if line.startswith("| ") and "**missed**" in line]
    assert _first_cells(explained) == _first_cells(missed), "update the table of what is missed"
