"""The interactive window: scene, flow, robot and cameras beside a panel with the timeline. Needs a display."""

from __future__ import annotations

import ctypes.util
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from pointworld.errors import InputError
from pointworld.robot import RobotModel
from pointworld.view.geometry import ColorBy, ColoredMesh, FlowStyle, frustum, trails
from pointworld.view.render import (
    BACKGROUND,
    default_viewpoint,
    import_open3d,
    robot_mesh,
    to_open3d,
)
from pointworld.view.result import FlowResult
from pointworld.view.timeline import FASTEST, SLOWEST, Timeline

PANEL_WIDTH = 15  # in text lines
SUN = (-0.5, 0.6, -0.7)  # direction of its rays
AMBIENT = 45000.0  # Open3D's unit; keeps a light grey robot from drowning in shade or light
COLOR_CHOICES: tuple[ColorBy, ...] = ("magnitude", "uncertainty")
PREDICTION, TRUTH = "prediction", "ground truth"


class FlowWindow:
    """What is shown at the timeline's step, and what the panel and the keys do."""

    def __init__(self, result: FlowResult, *, style: FlowStyle, robot: RobotModel | None) -> None:
        self.result, self.style, self.robot = result, style, robot
        self.timeline = Timeline(result.num_steps, result.step_dt)
        self.truth = False
        self._o3d = import_open3d("The viewer")
        self._gui = self._o3d.visualization.gui
        self._rendering = self._o3d.visualization.rendering

    def open(self, width: int, height: int) -> None:
        """Open the window and run until it is closed."""
        application = self._gui.Application.instance
        application.initialize()
        self._window = application.create_window("PointWorld", width, height)
        self._scene = self._gui.SceneWidget()
        self._scene.scene = self._rendering.Open3DScene(self._window.renderer)
        self._scene.scene.set_background([*BACKGROUND, 1.0])
        # Colours as they are: the default post-processing maps tones.
        self._scene.scene.view.set_post_processing(False)
        self._scene.scene.set_lighting(
            self._rendering.Open3DScene.LightingProfile.NO_SHADOWS, np.array(SUN, np.float32)
        )
        self._scene.scene.scene.set_indirect_light_intensity(AMBIENT)
        self._panel = self._build_panel()
        self._window.add_child(self._scene)
        self._window.add_child(self._panel)
        self._window.set_on_layout(self._layout)
        self._window.set_on_key(self._key)
        self._window.set_on_tick_event(self._tick)
        for index, camera in enumerate(self.result.cameras):
            self._put(f"camera {index}", frustum(camera))
        self.redraw()
        self._look()
        application.run()

    def _build_panel(self) -> Any:
        gui, em = self._gui, self._window.theme.font_size
        panel = gui.Vert(0.4 * em, gui.Margins(0.7 * em))
        self._clock = gui.Label(self.timeline.label)
        self._slider = gui.Slider(gui.Slider.INT)
        self._slider.set_limits(0, self.timeline.num_steps - 1)
        self._slider.set_on_value_changed(lambda v: self._act(lambda: self.timeline.go_to(int(v))))
        self._play = gui.Button("Pause")
        self._play.set_on_clicked(lambda: self._act(self._toggle_play))
        speed = gui.Slider(gui.Slider.DOUBLE)
        speed.set_limits(SLOWEST, FASTEST / 4)
        speed.double_value = self.timeline.speed
        speed.set_on_value_changed(self._set_speed)
        self._speed = speed
        density = gui.Slider(gui.Slider.DOUBLE)
        density.set_limits(0.02, 1.0)
        density.double_value = self.style.density
        density.set_on_value_changed(lambda v: self._restyle(density=float(v)))
        thickness = gui.Slider(gui.Slider.DOUBLE)
        thickness.set_limits(0.0005, 0.008)
        thickness.double_value = self.style.thickness
        thickness.set_on_value_changed(lambda v: self._restyle(thickness=float(v)))
        self._colors = gui.Combobox()
        for name in COLOR_CHOICES:
            self._colors.add_item(name)
        self._colors.selected_index = COLOR_CHOICES.index(self.style.color_by)
        self._colors.set_on_selection_changed(
            lambda _, i: self._restyle(color_by=COLOR_CHOICES[int(i)])
        )
        rows: list[tuple[str, Any]] = [
            ("", self._clock),
            ("", self._slider),
            ("", self._play),
            ("speed", speed),
            ("trail density", density),
            ("trail thickness [m]", thickness),
            ("colour by", self._colors),
        ]
        if self.result.truth is not None:
            self._source = gui.RadioButton(gui.RadioButton.VERT)
            self._source.set_items([PREDICTION, TRUTH])
            self._source.set_on_selection_changed(lambda i: self._act(lambda: self._show_truth(i)))
            rows.append(("motion", self._source))
        for label, widget in rows:
            if label:
                panel.add_child(gui.Label(label))
            panel.add_child(widget)
        panel.add_stretch()
        panel.add_child(gui.Label("space: play   left, right: step\nup, down: speed   drag: turn"))
        return panel

    def _layout(self, context: Any) -> None:
        area = self._window.content_rect
        width = PANEL_WIDTH * context.theme.font_size
        rect = self._gui.Rect
        self._scene.frame = rect(area.x, area.y, area.width - width, area.height)
        self._panel.frame = rect(area.x + area.width - width, area.y, width, area.height)

    def _key(self, event: Any) -> bool:
        gui = self._gui
        actions: dict[Any, Callable[[], None]] = {
            gui.KeyName.SPACE: self._toggle_play,
            gui.KeyName.RIGHT: lambda: self.timeline.scrub(1),
            gui.KeyName.LEFT: lambda: self.timeline.scrub(-1),
            gui.KeyName.UP: lambda: self.timeline.change_speed(2.0),
            gui.KeyName.DOWN: lambda: self.timeline.change_speed(0.5),
        }
        action = actions.get(event.key)
        if action is None:
            return False
        if event.type == gui.KeyEvent.DOWN:
            self._act(action)
        return True

    def _act(self, action: Callable[[], None]) -> None:
        action()
        self.redraw()

    def _toggle_play(self) -> None:
        self.timeline.playing = not self.timeline.playing

    def _show_truth(self, choice: int) -> None:
        self.truth = choice == 1

    def _set_speed(self, value: float) -> None:
        self.timeline.speed = float(value)

    def _restyle(self, **changes: Any) -> None:
        self.style = replace(self.style, **changes)
        self.redraw()

    def _tick(self) -> bool:
        if self.timeline.tick(time.monotonic()):
            self.redraw()
            return True
        return False

    def redraw(self) -> None:
        """Show the timeline's step."""
        result, step = self.result, self.timeline.step
        moved = result.displacements
        if self.truth and result.truth is not None:
            moved = result.truth
        self._clock.text = f"{TRUTH if self.truth else PREDICTION}\n{self.timeline.label}"
        self._slider.int_value = step
        self._play.text = "Pause" if self.timeline.playing else "Play"
        self._speed.double_value = self.timeline.speed
        self._put_points(result.points + moved[step], result.colors)
        self._put("flow", trails(result, moved, step, self.style))
        if self.robot is not None and result.joint_positions is not None:
            self._put("robot", robot_mesh(self.robot, result.joint_positions[step]))
        self._window.post_redraw()

    def _put_points(self, points: np.ndarray, colors: np.ndarray) -> None:
        o3d, scene = self._o3d, self._scene.scene
        cloud = o3d.geometry.PointCloud(o3d.utility.Vector3dVector(points.astype(np.float64)))
        cloud.colors = o3d.utility.Vector3dVector(colors.astype(np.float64))
        material = self._rendering.MaterialRecord()
        material.shader, material.point_size = "defaultUnlit", 4.0 * self._window.scaling
        scene.remove_geometry("points")
        scene.add_geometry("points", cloud, material)

    def _put(self, name: str, mesh: ColoredMesh | None) -> None:
        scene = self._scene.scene
        scene.remove_geometry(name)
        if mesh is None:
            return
        material = self._rendering.MaterialRecord()
        material.shader = "defaultLit" if mesh.shaded else "defaultUnlit"
        scene.add_geometry(name, to_open3d(self._o3d, mesh), material)

    def _look(self) -> None:
        view = default_viewpoint(self.result)
        bounds = self._scene.scene.bounding_box
        self._scene.setup_camera(view.height_fov, bounds, view.target.astype(np.float32))
        self._scene.look_at(view.target, view.eye, [0.0, 0.0, 1.0])


def show(
    result: FlowResult, *, style: FlowStyle, robot: RobotModel | None, width: int, height: int
) -> None:
    """Open the window on a result and return when it is closed.

    Raises:
        InputError: there is no Vulkan loader (Open3D would end the process).
    """
    if ctypes.util.find_library("vulkan") is None:
        raise InputError(
            "the window draws with Vulkan and libvulkan.so.1 is not there. On Debian: "
            "apt-get install libvulkan1 mesa-vulkan-drivers. Or use --screenshot out.png or --video out.mp4."
        )
    FlowWindow(result, style=style, robot=robot).open(width, height)
