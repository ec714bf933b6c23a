"""The interactive window: Open3D's viewer with a timeline on the keyboard. Needs a display."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import numpy as np

from pointworld.errors import PointWorldError
from pointworld.robot import RobotModel
from pointworld.view.geometry import ColorBy, FlowStyle
from pointworld.view.render import (
    BACKGROUND,
    default_viewpoint,
    frame_meshes,
    import_open3d,
    to_open3d,
)
from pointworld.view.result import FlowResult

RIGHT, LEFT, DOWN, UP = 262, 263, 264, 265
SLOWEST, FASTEST = 0.125, 8.0


class Timeline:
    """Which step is shown, and how it moves on."""

    def __init__(self, num_steps: int, step_dt: float) -> None:
        self.num_steps, self.step_dt = num_steps, step_dt
        self.step, self.playing, self.speed = 0, True, 1.0
        self._next = 0.0

    def scrub(self, by: int) -> None:
        """Stop and go `by` steps on, round the ends."""
        self.playing = False
        self.step = (self.step + by) % self.num_steps

    def change_speed(self, factor: float) -> None:
        """Play faster or slower, within 1/8 and 8 times real time."""
        self.speed = float(np.clip(self.speed * factor, SLOWEST, FASTEST))

    def tick(self, now: float) -> bool:
        """Go on at time `now` [s]; True when another step is to be shown."""
        if not self.playing or now < self._next:
            return False
        self._next = now + self.step_dt / self.speed
        self.step = (self.step + 1) % self.num_steps
        return True


class FlowWindow:
    """What is shown at the timeline's step, and what keys do."""

    def __init__(self, result: FlowResult, *, style: FlowStyle, robot: RobotModel | None) -> None:
        self.result, self.style, self.robot = result, style, robot
        self.timeline = Timeline(result.num_steps, result.step_dt)
        self.truth = False
        self._o3d = import_open3d("The viewer")
        self._window = self._o3d.visualization.VisualizerWithKeyCallback()

    def open(self, width: int, height: int) -> None:
        """Open the window and run until it is closed."""
        title = (
            "PointWorld  [space] play  [left/right] scrub  [up/down] speed  [C] colour  [T] truth"
        )
        if not self._window.create_window(window_name=title, width=width, height=height):
            raise PointWorldError("Open3D cannot open a window on this display")
        options = self._window.get_render_option()
        options.background_color, options.point_size = np.array(BACKGROUND), 4.0
        options.mesh_show_back_face = True
        self._bind()
        self.redraw(first=True)
        self._window.register_animation_callback(self._animate)
        self._window.run()
        self._window.destroy_window()

    def _bind(self) -> None:
        keys = {
            32: self._toggle_play,
            RIGHT: lambda: self.timeline.scrub(1),
            LEFT: lambda: self.timeline.scrub(-1),
            UP: lambda: self.timeline.change_speed(2.0),
            DOWN: lambda: self.timeline.change_speed(0.5),
            ord("C"): self._toggle_color,
            ord("T"): self._toggle_truth,
        }
        for key, action in keys.items():
            self._window.register_key_callback(key, lambda _, act=action: self._act(act))

    def _act(self, action: Any) -> bool:
        action()
        self.redraw()
        return True

    def _toggle_play(self) -> None:
        self.timeline.playing = not self.timeline.playing

    def _toggle_color(self) -> None:
        other: ColorBy = "magnitude" if self.style.color_by == "uncertainty" else "uncertainty"
        self.style = replace(self.style, color_by=other)

    def _toggle_truth(self) -> None:
        self.truth = self.result.truth is not None and not self.truth

    def _animate(self, _: Any) -> bool:
        if self.timeline.tick(time.monotonic()):
            self.redraw()
            return True
        return False

    def redraw(self, *, first: bool = False) -> None:
        """Show the timeline's step; the first time also place the camera."""
        o3d, result, step = self._o3d, self.result, self.timeline.step
        moved = result.displacements
        if self.truth and result.truth is not None:
            moved = result.truth
        cloud = o3d.geometry.PointCloud(
            o3d.utility.Vector3dVector((result.points + moved[step]).astype(np.float64))
        )
        cloud.colors = o3d.utility.Vector3dVector(result.colors.astype(np.float64))
        self._window.clear_geometries()
        self._window.add_geometry(cloud, reset_bounding_box=first)
        meshes = frame_meshes(result, step, displacements=moved, style=self.style, robot=self.robot)
        for mesh in meshes:
            self._window.add_geometry(to_open3d(o3d, mesh), reset_bounding_box=False)
        if first:
            view, control = default_viewpoint(result), self._window.get_view_control()
            control.set_lookat(view.target)
            control.set_front(view.eye - view.target)
            control.set_up([0.0, 0.0, 1.0])
            control.set_zoom(0.35)


def show(
    result: FlowResult, *, style: FlowStyle, robot: RobotModel | None, width: int, height: int
) -> None:
    """Open the window on a result and return when it is closed."""
    FlowWindow(result, style=style, robot=robot).open(width, height)
