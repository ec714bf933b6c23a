"""Goals by clicks: the editor, its server, and the page in a real browser."""

from __future__ import annotations

import http.client
import json
import math
import re
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pointworld.capture import read_capture, write_capture
from pointworld.cli.goal import main as goal_main
from pointworld.errors import InputError
from pointworld.plan.goal import BoxSelection, ClickSelection, PoseGoal, StillGoal, read_goal
from pointworld.plan.goal import TranslationGoal as Move
from pointworld.types import Capture, RGBDFrame
from pointworld.view.goal_editor import GoalEditor, offered_frames
from pointworld.view.goal_page import MOST_BYTES, GoalPage
from tests.view.browser import Browser

K = np.array([[300.0, 0, 160], [0, 300.0, 120], [0, 0, 1]])
#: Where the box's top is: middle in the base frame, and half its side [m].
TOP, HALF = np.array([0.5, 0.1, 0.08]), 0.04
CAMERA_HEIGHT = 0.9


def scene_capture() -> Capture:
    """A box of 8 cm on a table, seen straight from above by two cameras: x ahead is up in the picture."""
    frames = []
    for name, shift in (("front", 0.0), ("side", 0.06)):
        T = np.eye(4)
        T[:3, :3] = np.array([[0, -1, 0], [-1, 0, 0], [0, 0, -1]])
        T[:3, 3] = (0.5 + shift, 0.0, CAMERA_HEIGHT)
        v, u = np.mgrid[0:240, 0:320] + 0.5
        depth = np.full((240, 320), CAMERA_HEIGHT)
        near = CAMERA_HEIGHT - TOP[2]
        x = T[0, 3] - near * (v - K[1, 2]) / K[1, 1]
        y = -near * (u - K[0, 2]) / K[0, 0]
        box = (np.abs(x - TOP[0]) < HALF) & (np.abs(y - TOP[1]) < HALF)
        depth[box] = near
        rgb = np.full((240, 320, 3), (196, 188, 176), np.uint8)
        rgb[(np.floor(x * 25) + np.floor(y * 25)) % 2 == 0] -= 10
        rgb[box] = (40, 110, 190)
        frames.append(
            RGBDFrame(
                rgb=rgb,
                depth=depth.astype(np.float32),
                valid=np.ones((240, 320), bool),
                K=K,
                T_world_cam=T,
                name=f"{name}-0",
                camera=name,
            )
        )
    return Capture(frames=tuple(frames), source="test", T_world_base=np.eye(4))


def pixel(point: np.ndarray, shift: float = 0.0) -> tuple[float, float]:
    """Where the first camera sees a point of the base frame [px]."""
    far = CAMERA_HEIGHT - point[2]
    return 160 - 300 * point[1] / far, 120 - 300 * (point[0] - 0.5 - shift) / far


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_capture(scene_capture(), tmp_path / "capture")
    return tmp_path


def make_editor(folder: Path) -> GoalEditor:
    capture = read_capture(folder / "capture")
    frames = offered_frames(capture, "", "")
    return GoalEditor(capture, frames, folder / "goal.json", T_world_base=np.eye(4))


def clicked(name: str = "box", **goal: Any) -> dict[str, Any]:
    select = {"kind": "click", "pixels": [list(pixel(TOP))], "radius": 0.03}
    target = goal or {"kind": "translation", "vector": [0.1, 0.0, 0.0]}
    return {"name": name, "camera": "front", "frame": "front-0", "select": select, "goal": target}


def test_a_goal_grows_by_choices(folder: Path) -> None:
    editor = make_editor(folder)
    assert [f["camera"] for f in editor.describe()["frames"]] == ["front", "side"]
    points = np.array(editor.choose(clicked())["points"])
    assert len(points) > 8
    assert np.linalg.norm(points - TOP, axis=1).max() < 0.035
    with pytest.raises(InputError, match="nothing has been chosen"):
        editor.write()
    editor.put(clicked("rest", kind="still"))
    with pytest.raises(InputError, match="stay still"):
        editor.write()
    editor.put(clicked())
    editor.put(clicked("third"))
    editor.remove("third")
    assert editor.write() == {"rest": len(points), "box": len(points)} == editor.written
    assert [item.name for item in read_goal(folder / "goal.json").sets] == ["rest", "box"]
    again = make_editor(folder)
    assert [len(entry["points"]) for entry in again.listed()] == [len(points)] * 2


@pytest.mark.rejects_input
@pytest.mark.parametrize(
    ("change", "hint"),
    [
        ({"camera": "none"}, "no camera"),
        ({"select": {"kind": "click", "pixels": [[900, 2]]}}, "outside"),
        ({"select": {"kind": "mask", "file": "../secret.png"}}, "beside goal.json"),
        ({"goal": {"kind": "translation", "vector": [1, 2]}}, "expected 3 numbers"),
        ({"name": ""}, "expected a text"),
    ],
)
def test_choices_that_mean_nothing_are_refused(
    folder: Path, change: dict[str, Any], hint: str
) -> None:
    editor = make_editor(folder)
    with pytest.raises(InputError, match=hint):
        editor.put(clicked() | change)
    assert editor.sets == ()


@pytest.fixture
def page(folder: Path) -> Iterator[GoalPage]:
    served = GoalPage(make_editor(folder))
    thread = threading.Thread(target=served.serve)
    thread.start()
    yield served
    served.answer("done", None)
    thread.join(10)
    assert not thread.is_alive()


def ask(address: str, body: bytes = b"null", **headers: str) -> tuple[int, dict[str, Any]]:
    try:
        with urllib.request.urlopen(urllib.request.Request(address, body, headers)) as reply:
            return reply.status, json.loads(reply.read())
    except urllib.error.HTTPError as error:
        words = error.read()
        return error.code, json.loads(words) if words.startswith(b"{") else {}


def test_the_server_answers_only_those_who_know_its_address(page: GoalPage) -> None:
    assert ask(page.address + "start")[0] == 200
    root = page.address.replace(page.token, "x" * len(page.token))
    assert ask(root + "start")[0] == 404
    assert ask(page.address + "start", Host="evil.example")[0] == 404
    assert ask(page.address + "put", b"{")[0] == 422
    assert ask(page.address + "write")[1]["problem"] == "nothing has been chosen yet"
    assert ask(page.address + "nonsense")[0] == 422
    with urllib.request.urlopen(page.address + "pictures/1.png") as reply:
        assert reply.read()[:4] == b"\x89PNG"
        assert "default-src 'none'" in reply.headers["Content-Security-Policy"]
    assert ask(page.address + "pictures/../goal.json")[0] == 422
    host = page.address.split("/")[2]
    line = http.client.HTTPConnection(host)
    line.request("POST", "/" + page.token + "/put", headers={"Content-Length": str(MOST_BYTES + 1)})
    assert line.getresponse().status == 413
    line.close()


def test_the_command_serves_the_page_until_it_is_closed(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    out = folder / "new" / "goal.json"
    words = ["--capture", str(folder / "capture"), "--camera", "front", "--page", "--json"]
    codes: list[int] = []
    thread = threading.Thread(
        target=lambda: codes.append(goal_main([*words, "--out", str(out)])), daemon=True
    )
    thread.start()
    said, end = "", time.monotonic() + 60
    while not (found := re.search(r"open (http://\S+/)\n", said)):
        assert time.monotonic() < end and thread.is_alive(), said
        time.sleep(0.05)
        said += capsys.readouterr().err
    address = found[1]
    assert [f["camera"] for f in ask(address + "start")[1]["frames"]] == ["front"]
    assert ask(address + "put", json.dumps(clicked()).encode())[0] == 200
    counts = ask(address + "write")[1]["counts"]
    assert ask(address + "done")[0] == 200
    thread.join(20)
    assert codes == [0] and counts["box"] > 8
    assert json.loads(capsys.readouterr().out) == {"goal": str(out), "points": counts}
    assert read_goal(out).sets[0].goal == Move(vector=(0.1, 0.0, 0.0))


@pytest.mark.rejects_input
def test_words_of_both_ways_are_refused(folder: Path) -> None:
    with pytest.raises(InputError, match="in the page only"):
        goal_main(["--capture", str(folder / "capture"), "--page", "--still"])
    with pytest.raises(InputError, match="--page"):
        goal_main(["--capture", str(folder / "capture"), "--box", "0,0,9,9", "--still"])
    with pytest.raises(InputError, match="no frame"):
        offered_frames(scene_capture(), "front", "later")


@pytest.fixture
def browser(page: GoalPage, tmp_path: Path) -> Iterator[Browser]:
    opened = Browser(tmp_path / "profile")
    opened.open(page.address)
    opened.until("document.body && document.body.dataset.ready === 'yes'")
    yield opened
    opened.close()


def on_screen(browser: Browser, uv: tuple[float, float]) -> tuple[float, float]:
    """Where a pixel of the picture is in the window."""
    left, top, width = browser.run(
        "(() => {const r = view.getBoundingClientRect(); return [r.left, r.top, r.width];})()"
    )
    return left + uv[0] * width / 320, top + uv[1] * width / 320


def test_a_person_clicks_drags_and_writes(browser: Browser, folder: Path, tmp_path: Path) -> None:
    """The box 12 cm ahead and turned; the table beside it stays."""
    middle = pixel(TOP)
    browser.type("#name", "box")
    browser.click(*on_screen(browser, middle))
    browser.until("state.points.length > 8")
    chosen = np.array(browser.run("state.points"))
    assert np.linalg.norm(chosen - TOP, axis=1).max() < 0.035
    centre = chosen.mean(0)
    aim = centre + np.array([0.12, -0.05, 0.0])
    browser.drag(on_screen(browser, pixel(centre)), on_screen(browser, pixel(aim)))
    browser.type("#turn", "30")
    browser.run("document.querySelector('#turn').dispatchEvent(new Event('input'))")
    browser.picture(tmp_path / "chosen.png")
    browser.press("#put")
    browser.until("state.sets.length === 1")
    browser.type("#name", "table")
    browser.press("#still")
    browser.drag(on_screen(browser, (200, 150)), on_screen(browser, (260, 200)))
    browser.until("state.points.length > 20")
    browser.press("#put")
    browser.until("state.sets.length === 2")
    browser.press("#write")
    browser.until("document.querySelector('#say').textContent.startsWith('written')")
    browser.picture(tmp_path / "written.png")
    box, table = read_goal(folder / "goal.json").sets
    assert (box.name, box.camera, box.frame) == ("box", "front", "front-0")
    assert isinstance(box.select, ClickSelection) and isinstance(box.goal, PoseGoal)
    assert np.allclose(box.select.pixels[0], middle, atol=1.0)
    assert np.allclose(box.goal.vector, (0.12, -0.05, 0.0), atol=0.006)
    words = browser.run("document.querySelector('#sets').textContent")
    assert "0.120" in words and "turned 30°" in words and "stays" in words
    assert box.goal.quat_wxyz[3] == pytest.approx(math.sin(math.radians(15)), abs=1e-6)
    assert isinstance(table.select, BoxSelection) and isinstance(table.goal, StillGoal)
    assert np.allclose(table.select.pixels, (200, 150, 260, 200), atol=1.0)


def test_the_page_says_what_went_wrong_and_other_cameras_choose_too(
    browser: Browser, folder: Path
) -> None:
    browser.press("#tabs button:nth-child(2)")
    browser.until("state.at === 1")
    browser.click(*on_screen(browser, pixel(TOP, shift=0.06)))
    browser.until("state.points.length > 8")
    browser.press("#still")
    browser.press("#put")
    browser.until("state.sets.length === 1")
    browser.press("#write")
    browser.until("document.querySelector('#say').className === 'bad'")
    assert "must go somewhere" in browser.run("document.querySelector('#say').textContent")
    assert not (folder / "goal.json").exists()
    browser.press("#move")
    browser.click(*on_screen(browser, pixel(TOP, shift=0.06)))
    browser.until("state.points.length > 8")
    browser.type("#y", "-0.15")
    browser.type("#weight", "2.5")
    browser.press("#put")
    browser.until("state.sets[0].set.goal.kind === 'translation'")
    browser.press("#write")
    browser.until("document.querySelector('#say').textContent.startsWith('written')")
    item = read_goal(folder / "goal.json").sets[0]
    assert item.camera == "side" and item.goal == Move(vector=(0.0, -0.15, 0.0))
    assert item.weight == 2.5
