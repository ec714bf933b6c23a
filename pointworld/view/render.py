"""Pictures without a display: Open3D's hidden window, drawn at twice the size and averaged down."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from pointworld.errors import MissingExtraError, PointWorldError
from pointworld.geometry import invert
from pointworld.robot import RobotModel
from pointworld.view.geometry import (
    ColoredMesh,
    FlowStyle,
    color_range,
    frustum,
    map_colors,
    trails,
)
from pointworld.view.result import FlowResult

BACKGROUND = (0.965, 0.968, 0.975)
SUPERSAMPLING = 2
ROBOT_GREY = (0.80, 0.82, 0.85)


def import_open3d(purpose: str) -> Any:
    """Open3D, or an error that names the extra that brings it."""
    # Its window library complains on stderr where no session manager has set this.
    os.environ.setdefault("XDG_RUNTIME_DIR", tempfile.gettempdir())
    try:
        import open3d
    except ImportError as error:
        raise MissingExtraError("open3d", "viewer", purpose) from error
    open3d.utility.set_verbosity_level(open3d.utility.VerbosityLevel.Error)
    return open3d


@dataclass(frozen=True, kw_only=True, eq=False)
class Viewpoint:
    """A virtual camera: eye and target [m] in the base frame, z up; field of view [degrees of height]."""

    eye: np.ndarray
    target: np.ndarray
    height_fov: float = 42.0

    def T_base_cam(self) -> np.ndarray:
        """Pose with OpenCV axes."""
        forward = self.target - self.eye
        forward = forward / np.linalg.norm(forward)
        right = np.cross(forward, [0.0, 0.0, 1.0])
        right /= np.linalg.norm(right)
        T = np.eye(4)
        T[:3, :3] = np.stack([right, np.cross(forward, right), forward], 1)
        T[:3, 3] = self.eye
        return T


def default_viewpoint(result: FlowResult) -> Viewpoint:
    """Look down on what moves (or the whole scene) from in front and to the side of the robot."""
    reach = np.linalg.norm(result.displacements, axis=-1).max(0)
    moving = result.points[reach > 0.01]
    focus = moving if len(moving) >= 5 else result.points
    target = np.median(focus, axis=0)
    if result.robot_positions is not None:
        target = 0.6 * target + 0.4 * result.robot_positions.mean((0, 1))
    return Viewpoint(eye=target + np.array([0.52, -0.62, 0.48]), target=target)


class Canvas:
    """A hidden window of Open3D that draws point clouds and meshes into an image.

    One canvas serves many frames; close it with `with`.
    """

    def __init__(self, width: int, height: int) -> None:
        self._o3d = import_open3d("Drawing pictures")
        self.width, self.height = width, height
        self._window = self._o3d.visualization.Visualizer()
        made = self._window.create_window(
            visible=False, width=width * SUPERSAMPLING, height=height * SUPERSAMPLING
        )
        if not made:
            raise PointWorldError(
                "Open3D cannot open an off-screen window: no OpenGL. On Debian install libegl1 and libgl1-mesa-dri."
            )
        options = self._window.get_render_option()
        options.background_color = np.array(BACKGROUND)
        options.light_on = True
        options.mesh_show_back_face = True

    def __enter__(self) -> Canvas:
        return self

    def __exit__(self, *_: object) -> None:
        self._window.destroy_window()

    def draw(
        self,
        viewpoint: Viewpoint,
        *,
        points: np.ndarray | None = None,
        colors: np.ndarray | None = None,
        meshes: Sequence[ColoredMesh] = (),
        point_size: float = 4.0,
    ) -> np.ndarray:
        """An image (height, width, 3) uint8."""
        window = self._window
        window.clear_geometries()
        window.get_render_option().point_size = point_size * SUPERSAMPLING
        if points is not None and len(points):
            window.add_geometry(self._cloud(points, colors))
        for mesh in meshes:
            window.add_geometry(to_open3d(self._o3d, mesh))
        self._look(viewpoint)
        window.poll_events()
        window.update_renderer()
        pixels = np.asarray(window.capture_screen_float_buffer(do_render=True))
        return self._average(pixels)

    def _cloud(self, points: np.ndarray, colors: np.ndarray | None) -> Any:
        o3d = self._o3d
        cloud = o3d.geometry.PointCloud(o3d.utility.Vector3dVector(points.astype(np.float64)))
        shown = np.full_like(points, 0.4) if colors is None else colors
        cloud.colors = o3d.utility.Vector3dVector(np.clip(shown, 0, 1).astype(np.float64))
        return cloud

    def _look(self, viewpoint: Viewpoint) -> None:
        width, height = self.width * SUPERSAMPLING, self.height * SUPERSAMPLING
        focal = height / 2 / np.tan(np.radians(viewpoint.height_fov) / 2)
        parameters = self._o3d.camera.PinholeCameraParameters()
        parameters.extrinsic = invert(viewpoint.T_base_cam())
        # Open3D's legacy camera puts pixel centres at integers and accepts only the exact image centre.
        parameters.intrinsic = self._o3d.camera.PinholeCameraIntrinsic(
            width, height, focal, focal, width / 2 - 0.5, height / 2 - 0.5
        )
        self._window.get_view_control().convert_from_pinhole_camera_parameters(
            parameters, allow_arbitrary=True
        )

    def _average(self, pixels: np.ndarray) -> np.ndarray:
        image = Image.fromarray((pixels * 255).round().astype(np.uint8))
        return np.asarray(image.resize((self.width, self.height), Image.Resampling.BOX))


def to_open3d(o3d: Any, mesh: ColoredMesh) -> Any:
    """An Open3D triangle mesh."""
    made = o3d.geometry.TriangleMesh(
        o3d.utility.Vector3dVector(mesh.vertices.astype(np.float64)),
        o3d.utility.Vector3iVector(mesh.triangles.astype(np.int32)),
    )
    made.vertex_colors = o3d.utility.Vector3dVector(mesh.colors.astype(np.float64))
    if mesh.shaded:
        made.compute_vertex_normals()
    return made


def robot_mesh(robot: RobotModel, joint_positions: np.ndarray) -> ColoredMesh:
    """The robot's visual mesh at one configuration."""
    posed = robot.posed_mesh(np.asarray(joint_positions, np.float64))
    triangles = np.asarray(posed.faces)
    # Separate vertices per face: flat shading shows the shape of convex parts.
    vertices = np.asarray(posed.vertices)[triangles].reshape(-1, 3)
    return ColoredMesh(
        vertices=vertices,
        triangles=np.arange(len(vertices)).reshape(-1, 3),
        colors=np.broadcast_to(ROBOT_GREY, vertices.shape),
    )


def frame_meshes(
    result: FlowResult,
    step: int,
    *,
    displacements: np.ndarray,
    style: FlowStyle,
    robot: RobotModel | None,
) -> list[ColoredMesh]:
    """Everything but the scene points of one frame."""
    meshes = []
    flow = trails(result, displacements, step, style)
    if flow is not None:
        meshes.append(flow)
    if robot is not None and result.joint_positions is not None:
        meshes.append(robot_mesh(robot, result.joint_positions[step]))
    return meshes + [frustum(camera) for camera in result.cameras]


def render_step(
    canvas: Canvas,
    result: FlowResult,
    step: int,
    *,
    style: FlowStyle,
    robot: RobotModel | None = None,
    viewpoint: Viewpoint | None = None,
    source: str = "prediction",
) -> np.ndarray:
    """One step of the predicted (or true) future as an image with caption and colour bar."""
    moved = result.displacements if source == "prediction" or result.truth is None else result.truth
    image = canvas.draw(
        viewpoint or default_viewpoint(result),
        points=result.points + moved[step],
        colors=result.colors,
        meshes=frame_meshes(result, step, displacements=moved, style=style, robot=robot),
    )
    low, high, label, colormap = color_range(result, style.color_by)
    image = with_color_bar(image, low, high, label, colormap=colormap)
    return with_caption(image, f"{source}   t = {step * result.step_dt:.2f} s")


def _font(size: int) -> ImageFont.ImageFont | ImageFont.FreeTypeFont:
    return ImageFont.load_default(size)


def with_caption(image: np.ndarray, text: str) -> np.ndarray:
    """The image with a line of text in its top left corner."""
    picture = Image.fromarray(image)
    draw = ImageDraw.Draw(picture)
    size = max(13, image.shape[0] // 30)
    box = draw.textbbox((12, 10), text, font=_font(size))
    draw.rectangle((box[0] - 6, box[1] - 5, box[2] + 6, box[3] + 5), fill=(255, 255, 255))
    draw.text((12, 10), text, fill=(30, 34, 40), font=_font(size))
    return np.asarray(picture)


def with_color_bar(
    image: np.ndarray, low: float, high: float, label: str, *, colormap: str
) -> np.ndarray:
    """The image with a colour bar in its lower right corner."""
    picture = Image.fromarray(image)
    draw = ImageDraw.Draw(picture)
    width, height = max(140, image.shape[1] // 4), 12
    x, y = image.shape[1] - width - 18, image.shape[0] - 40
    ramp = map_colors(np.linspace(low, high, width), low, high, name=colormap)
    bar = np.broadcast_to((ramp * 255).astype(np.uint8), (height, width, 3))
    draw.rectangle((x - 8, y - 24, x + width + 8, y + height + 22), fill=(255, 255, 255))
    picture.paste(Image.fromarray(np.ascontiguousarray(bar)), (x, y))
    font = _font(12)
    draw.text((x, y - 18), label, fill=(30, 34, 40), font=font)
    draw.text((x, y + height + 3), f"{low:.2f}", fill=(30, 34, 40), font=font)
    draw.text((x + width, y + height + 3), f"{high:.2f}", fill=(30, 34, 40), font=font, anchor="ra")
    return np.asarray(picture)
