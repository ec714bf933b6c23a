"""What a model does with what it has never seen: families and an arm left out of its training, from JSON alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pointworld.data.families import GROUPS, REGISTRY, is_named
from pointworld.errors import InputError
from pointworld.train.report import family_rows, markdown_table, number
from pointworld.train.targets import Result, Target, at_most

#: Mover error over no motion in a family that training left out.
UNSEEN_FAMILY = 0.75
#: Mover error on an arm that training left out, over that of a model trained on it.
UNSEEN_ARM = 1.5


@dataclass(frozen=True, kw_only=True)
class ZeroShot:
    """Evaluations (the JSON of `pointworld evaluate`) of a model that was trained without some families and an arm.

    families: on clips of those families, among others. families_trained: the shipped model, on clips of them.
    arm: on clips of that arm. arm_trained: the shipped model on the same clips. arm_tuned: the other one, fine-tuned.
    left_out: families or groups that it was trained without.
    """

    families: Result
    families_trained: Result
    arm: Result
    arm_trained: Result
    arm_tuned: Result
    left_out: tuple[str, ...] = ("articulated",)

    def unseen(self) -> list[str]:
        """Families with movers that training left out.

        Raises:
            InputError: there are none, or no family or group has such a name.
        """
        if unknown := sorted(set(self.left_out) - {*GROUPS, *REGISTRY}):
            raise InputError(f"no family or group is called {', '.join(unknown)}")
        found = [
            name
            for name, group in self.families["families"].items()
            if is_named(name, self.left_out) and _movers(group)
        ]
        if not found:
            raise InputError(
                f"the evaluation of families that were left out has no clip with movers of {' '.join(self.left_out)}; "
                f"its families are {', '.join(self.families['families'])}"
            )
        return found


def _movers(group: Result) -> int:
    return int(group["metrics"]["no_motion"]["l2_moved"]["count"])


def _ratio(group: Result) -> float | None:
    return group["ratios_to_no_motion"].get("model")


def _trained_family(zero_shot: ZeroShot, family: str) -> str:
    """Ratio of the shipped model in a family; its clips are counted where they are others."""
    own = zero_shot.families["families"][family]
    other = zero_shot.families_trained["families"].get(family)
    if other is None:
        return "–"
    still = [g["metrics"]["no_motion"]["l2_moved"]["mean"] for g in (own, other)]
    count = "" if still[0] == still[1] else f" (on {_movers(other)} clips)"
    return f"{number(_ratio(other))}{count}"


def zero_shot_rows(zero_shot: ZeroShot) -> list[tuple[Target, int, str]]:
    """Every target with the number of clips and the shipped model's ratio."""
    rows = []
    for family in zero_shot.unseen():
        group = zero_shot.families["families"][family]
        target = at_most(f"{family}, never seen", _ratio(group), UNSEEN_FAMILY)
        rows.append((target, _movers(group), _trained_family(zero_shot, family)))
    trained = _ratio(zero_shot.arm_trained["overall"])
    if trained is None:
        raise InputError("the evaluations of the arm that was left out have no clip with movers")
    for name, result, factor, words in (
        ("second arm, never seen", zero_shot.arm, UNSEEN_ARM, f"{UNSEEN_ARM:g} times the trained"),
        ("second arm, after fine-tuning", zero_shot.arm_tuned, 1.0, "equal to the trained"),
    ):
        limit = factor * trained
        target = at_most(
            name, _ratio(result["overall"]), limit, wanted=f"at most {limit:.3f} ({words})"
        )
        rows.append((target, _movers(result["overall"]), number(trained)))
    return rows


def zero_shot_table(zero_shot: ZeroShot, label: str) -> str:
    """Markdown: mover error over no motion of both models, against the targets.

    Args:
        label: of the shipped model.
    """
    header = ("test clips", "clips with movers", label, "the other model", "wanted", "")
    rows = [
        (target.name, str(clips), trained, target.measured, target.wanted, target.verdict)
        for target, clips, trained in zero_shot_rows(zero_shot)
    ]
    return markdown_table(header, rows)


def second_arm_table(zero_shot: ZeroShot, label: str) -> str:
    """Markdown: mover error over no motion on the arm that was left out, by family."""
    columns: Sequence[tuple[str, Result, str]] = (
        (label, zero_shot.arm_trained, "model"),
        ("the other model, arm never seen", zero_shot.arm, "model"),
        ("the same after fine-tuning", zero_shot.arm_tuned, "model"),
    )
    header = ("family", "clips with movers", "no motion [mm]", *(name for name, _, _ in columns))
    return markdown_table(header, family_rows(zero_shot.arm_trained, columns))


def zero_shot_blocks(zero_shot: ZeroShot, label: str) -> Mapping[str, str]:
    """The parts of a page that these evaluations fill."""
    return {
        "zero-shot": zero_shot_table(zero_shot, label),
        "second-arm": second_arm_table(zero_shot, label),
    }
