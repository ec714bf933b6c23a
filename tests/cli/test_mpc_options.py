"""Options of `pointworld mpc` that do not go together are refused, not passed over."""

from __future__ import annotations

from pathlib import Path

import pytest

from pointworld.cli.mpc import main
from pointworld.errors import InputError


@pytest.mark.rejects_input
@pytest.mark.parametrize(
    "more",
    [
        [],
        ["--robot", "fake"],
        ["--dynamics", "oracle"],
        ["--planner", "straight", "--camera", "replay:look"],
    ],
)
def test_a_goal_of_ones_own_is_not_followed_by_the_simulators_truth(
    tmp_path: Path, more: list[str]
) -> None:
    """Before the goal is read, or anything started."""
    words = ["--goal", str(tmp_path / "goal.json"), "--perception", "true", *more]
    with pytest.raises(InputError, match="leave --goal out"):
        main(words)
    if "oracle" not in more:
        with pytest.raises(InputError, match=r"goal\.json"):
            main(["--goal", str(tmp_path / "goal.json"), *more])
