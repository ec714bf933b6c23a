"""Who connects to the controller's port must name the token soon, or makes way for the planner."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from pointworld.control.backends import FakeRobot
from pointworld.control.clock import SystemClock
from pointworld.control.controller import PlannerLink
from pointworld.control.limits import JointLimits
from pointworld.control.loop import ControlLoop
from pointworld.control.remote import RemoteController
from pointworld.control.safety import SafetyConfig, SafetyFilter
from pointworld.control.types import ControlError, Reason
from tests.control.conftest import HOME
from tests.control.test_server import NAMES

TOKEN = "a token of sixteen and more"
#: As in the controller, and what a busy machine may add [s].
HELLO, SLACK = 1.0, 5.0


class Slow(ControlLoop):
    """A loop that takes its time to come to rest."""

    def disarm(self) -> None:
        time.sleep(1.0)
        super().disarm()


@pytest.fixture
def port(fr3_limits: JointLimits) -> Iterator[int]:
    """Of a link to a loop that does not tick."""
    clock = SystemClock()
    arm = FakeRobot(NAMES, HOME, clock, max_width=0.08)
    arm.connect()
    safety = SafetyFilter(fr3_limits, SafetyConfig(), body=None, max_width=0.08)
    link, over = PlannerLink(Slow(arm, safety, clock), TOKEN), threading.Event()
    thread = threading.Thread(target=link.serve, args=(over,), daemon=True)
    thread.start()
    yield link.port
    over.set()
    thread.join(5)


def _trickle(sock: socket.socket, over: threading.Event) -> None:
    """The beginning of a message, byte by byte, for ever."""
    data = b"PWC1\x00\x00\x20\x00" + b"\x00" * 8 + b" " * 4096
    for byte in data:
        if over.wait(0.02):
            return
        try:
            sock.send(bytes([byte]))
        except OSError:
            return


def _nothing(sock: socket.socket, over: threading.Event) -> None:
    """Not a word."""


@pytest.mark.parametrize("says", [_nothing, _trickle])
def test_who_does_not_name_the_token_keeps_no_planner_waiting(
    port: int, says: Callable[[socket.socket, threading.Event], None]
) -> None:
    over = threading.Event()
    with socket.create_connection(("127.0.0.1", port)) as stranger:
        talk = threading.Thread(target=says, args=(stranger, over), daemon=True)
        talk.start()
        begun = time.monotonic()
        try:
            planner = RemoteController(port, TOKEN, timeout=30.0)
            waited = time.monotonic() - begun
            assert planner.status().fields["mode"] == "disarmed"
            planner.close()
        finally:
            over.set()
            talk.join(5)
    assert waited < HELLO + SLACK


def test_a_planner_that_named_the_token_may_be_silent(port: int) -> None:
    planner = RemoteController(port, TOKEN)
    time.sleep(HELLO + 0.4)
    assert planner.status().fields["mode"] == "disarmed"
    planner.close()


def test_an_answer_that_comes_too_late_is_not_taken_for_the_next_one(port: int) -> None:
    planner = RemoteController(port, TOKEN, timeout=0.3)
    with pytest.raises(ControlError, match="timed out"):
        planner.disarm()
    time.sleep(1.2)  # by now the answer is there
    with pytest.raises(ControlError) as caught:
        planner.status()
    assert caught.value.reason is Reason.PLANNER_LINK
    again = RemoteController(port, TOKEN)
    assert again.status().fields["mode"] == "disarmed"
    again.close()
