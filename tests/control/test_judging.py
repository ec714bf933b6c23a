"""What counts as success: a goal that held all the time, judged by the truth, which has no say in when to stop."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pointworld.control import rig_mpc, tasks
from pointworld.control.rig_runs import task_tolerance
from pointworld.control.rig_truth import HeldTruth
from pointworld.control.task_world import TaskWorld
from pointworld.control.types import ControlError, Reason
from pointworld.plan.mpc import MpcSettings
from pointworld.plan.tasks import Verdict, worst
from pointworld.plan.tasks.task import HOLD, STILL
from tests.control.test_goal_view import Stage

TOLERANCE = 0.02


def verdict(error: float, moved: float = 0.0) -> Verdict:
    return Verdict(error=error, distance=2 * error, moved=moved, tolerance=TOLERANCE)


@given(
    st.lists(
        st.tuples(st.floats(0, 2 * TOLERANCE), st.floats(0, 2 * STILL)), min_size=1, max_size=8
    )
)
def test_of_several_moments_the_worst_is_good_only_if_all_are(
    moments: list[tuple[float, float]],
) -> None:
    all_of_them = [verdict(*moment) for moment in moments]
    found = worst(all_of_them)
    assert found.good == all(now.good for now in all_of_them)
    assert found.error == max(error for error, _ in moments) and found.distance == 2 * found.error


@pytest.mark.parametrize(
    ("moments", "good"),
    [
        ([(0.01, 0.0)] * 6, True),
        ([(0.01, 0.0)] * 5 + [(0.03, 0.0)], False),
        ([(0.03, 0.0)] * 5 + [(0.01, 0.0)], False),
        # Something else was pushed while the error fell.
        (
            [(0.015, 0.0), (0.014, 0.03), (0.013, 0.0), (0.012, 0.0), (0.011, 0.0), (0.01, 0.0)],
            False,
        ),
    ],
)
def test_a_goal_must_hold_for_a_second(moments: list[tuple[float, float]], good: bool) -> None:
    pytest.importorskip("mujoco", reason="mujoco is not installed")
    stage = Stage()
    world = TaskWorld(stage.task, stage.robot, SimpleNamespace(see=None))
    waiting, begun = iter(moments), []

    def judge() -> Verdict:
        begun.append(world.clock.now())
        return verdict(*next(waiting))

    world.verdict = judge  # type: ignore[method-assign]
    assert world.hold().good == good
    assert begun[-1] - begun[0] == pytest.approx(HOLD, abs=0.03) and len(begun) == len(moments)


def _outcome(*, seen: list[float], truth: list[Verdict], taken: list[int]) -> tuple[str, int, int]:
    """Outcome and steps of an episode whose looks and verdicts at every stop are given, and how often it stopped."""
    stops = 0

    def hold() -> Verdict:
        nonlocal stops
        stops += 1
        return truth[stops - 1]

    world: Any = SimpleNamespace(
        dry_run=False,
        hold=hold,
        observe=lambda: None,
        look=lambda: SimpleNamespace(error=seen[stops - 1]),
    )
    tries = tasks._Tries(
        world,
        *[None] * 3,  # type: ignore[arg-type]
        settings=MpcSettings(max_steps=100),
        seed=0,
        note=lambda step: None,
        near=TOLERANCE,
        uncertainty=0.0,
    )
    tries._once = lambda steps: taken[stops]  # type: ignore[method-assign]
    return tries.run(), tries.steps, stops


def test_the_truth_has_no_say_in_when_an_episode_ends() -> None:
    good, bad = verdict(0.01), verdict(0.03)
    # It looks reached and is not: that is a miss, however many steps are left.
    assert _outcome(seen=[0.015], truth=[bad], taken=[20]) == ("missed", 20, 1)
    # It is reached and does not look so: on it goes.
    assert _outcome(seen=[0.03, 0.01], truth=[good, good], taken=[20, 10]) == ("success", 30, 2)
    assert _outcome(seen=[0.03, 0.01], truth=[good, bad], taken=[20, 10]) == ("missed", 30, 2)
    # Nothing better is known a second time, or time is up.
    assert _outcome(seen=[0.03, 0.03], truth=[bad, good], taken=[20, 0]) == ("success", 20, 2)
    assert _outcome(seen=[0.03], truth=[good], taken=[100]) == ("success", 100, 1)
    assert _outcome(seen=[0.01], truth=[verdict(0.01, 0.05)], taken=[9]) == ("disturbed", 9, 1)


def test_the_steps_of_an_interrupted_plan_count() -> None:
    """After those of the plans before an earlier stop."""
    settings = MpcSettings(max_steps=100, execute=4)
    world: Any = SimpleNamespace(
        dry_run=False, hold=lambda: verdict(0.03), observe=lambda: None, look=lambda: verdict(0.03)
    )
    runs = iter([20, 0])

    def plan(steps: int) -> int:
        taken = next(runs)
        tries._note(SimpleNamespace(step=taken and taken - 4))  # type: ignore[arg-type]
        if not taken:
            raise ControlError(Reason.TRACKING, "held back")
        return taken

    tries = tasks._Tries(
        world,
        *[None] * 3,  # type: ignore[arg-type]
        settings=settings,
        seed=0,
        note=lambda step: None,
        near=TOLERANCE,
        uncertainty=0.0,
    )
    tries._once = plan  # type: ignore[method-assign]
    with pytest.raises(ControlError):
        tries.run()
    assert tries.steps == 24


def test_on_a_rig_the_worst_moment_of_standing_counts() -> None:
    moments = iter([(0.5, 0.4), (0.01, 0.0), (0.03, 0.0), (0.01, 0.001)])

    def truth() -> dict[str, float]:
        error, moved = next(moments)
        return {"error": error, "moved": moved, "tolerance": TOLERANCE}

    held = HeldTruth(truth)
    held.note()
    held.begin()
    for _ in range(3):
        held.note()
    assert held() == {"error": 0.03, "moved": 0.001, "tolerance": TOLERANCE}
    held.begin()
    with pytest.raises(StopIteration):
        held()  # the truth of now, where nothing was noted


def test_a_run_that_ends_in_a_fault_is_judged_as_it_is_then(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Not by an earlier stop, after which it went on."""
    error = 0.01
    held = HeldTruth(lambda: {"error": error, "moved": 0.0, "tolerance": TOLERANCE})

    def move(*words: Any, **more: Any) -> Any:
        nonlocal error
        if error > 0.01:
            raise ControlError(Reason.ROBOT_ERROR, "it hit something")
        error = 0.05
        return SimpleNamespace(steps=4)

    world: Any = SimpleNamespace(
        dry_run=False,
        dynamics=None,
        hold=lambda seconds, watch: watch(),
        look=lambda: SimpleNamespace(error=1.0),
        error=None,
        look_seconds=[],
        frame_ages=[],
        **dict.fromkeys(("overlapped", "stale", "late", "slowed", "held", "gave_way"), 0),
    )
    monkeypatch.setattr(rig_mpc, "run_mpc", move)
    result = rig_mpc.run_on_rig(
        world,
        *[None] * 2,  # type: ignore[arg-type]
        allowed=None,  # type: ignore[arg-type]
        table=0.0,
        settings=MpcSettings(max_steps=100),
        seed=0,
        judge=held,
    )
    assert result.outcome == "fault" and result.reason == "robot_error: it hit something"
    error = 0.07
    assert held()["error"] == 0.07


def test_a_rig_stops_before_the_end_of_the_tolerance_which_is_the_tasks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What cameras see is off by a little, and a hinge's tolerance is an angle."""
    assert task_tolerance(
        lambda: {"error": 1.2, "distance": 0.15, "tolerance": 0.14, "moved": 0.0}
    ) == pytest.approx(0.0175)
    wanted: list[float] = []

    def move(*words: Any, settings: MpcSettings, **more: Any) -> Any:
        wanted.append(settings.tolerance)
        return SimpleNamespace(steps=4)

    monkeypatch.setattr(rig_mpc, "run_mpc", move)
    world: Any = SimpleNamespace(
        dry_run=False,
        dynamics=None,
        hold=lambda seconds: None,
        look=lambda: SimpleNamespace(error=0.0174),
        error=0.0174,
        look_seconds=[],
        frame_ages=[],
        **dict.fromkeys(("overlapped", "stale", "late", "slowed", "held", "gave_way"), 0),
    )
    result = rig_mpc.run_on_rig(
        world,
        *[None] * 2,  # type: ignore[arg-type]
        allowed=None,  # type: ignore[arg-type]
        table=0.0,
        settings=MpcSettings(max_steps=100, tolerance=0.0175),
        seed=0,
    )
    assert result.outcome == "success" and wanted == [pytest.approx(0.75 * 0.0175)]


def test_a_scene_that_lost_the_arm_is_not_planned_from() -> None:
    pytest.importorskip("mujoco", reason="mujoco is not installed")
    from pointworld.control.twin import Twin

    stage = Stage()
    twin = Twin(stage.task, stage.joints)
    twin.require()

    def gone() -> tuple[np.ndarray, np.ndarray]:
        raise ControlError(Reason.ROBOT_LINK, "no answer")

    twin.follow(gone)
    assert twin._thread is not None
    twin._thread.join(timeout=5.0)
    with pytest.raises(ControlError, match="no longer follows the arm: no answer") as caught:
        twin.require()
    assert caught.value.reason is Reason.ROBOT_LINK
    twin.close()
