"""Colour, depth and segmentation of a simulated scene: through OpenGL, or by ray casting where there is no GL.

Both take the compiled model and its state, so both see the same geometry. Segmentation holds MuJoCo body ids + 1;
0 is empty space.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from pointworld.data.simulator import COLLISION_GROUP, flex_faces, import_mujoco
from pointworld.data.tabletop import CameraSpec
from pointworld.errors import InputError, MissingExtraError
from pointworld.geometry import pixel_grid

log = logging.getLogger(__name__)

_EMPTY_COLOR = (30, 34, 40)


@dataclass(frozen=True, kw_only=True, eq=False)
class RenderedView:
    """rgb (h, w, 3) uint8; depth (h, w) float32 [m], 0 = empty; segmentation (h, w) uint16, 0 = empty.

    Segmentation is body id + 1; flexes follow the bodies.
    """

    rgb: np.ndarray
    depth: np.ndarray
    segmentation: np.ndarray


class SceneRenderer(Protocol):
    """Renders the cameras `cam0`, `cam1`, ... of a model made by `simulator.scene_model`."""

    name: str

    def render(
        self, model: Any, data: Any, cameras: Sequence[CameraSpec]
    ) -> list[RenderedView]: ...


class GLRenderer:
    """Off-screen OpenGL through MuJoCo (EGL unless MUJOCO_GL says otherwise), for one thread.

    Raises:
        InputError: no GL context can be made here.
    """

    name = "gl"

    def __init__(self, height: int, width: int) -> None:
        os.environ.setdefault("MUJOCO_GL", "egl")
        os.environ.setdefault("LP_NUM_THREADS", "1")
        mujoco = import_mujoco()
        self.height, self.width = height, width
        self._context: Any = None
        try:
            self._make_current()
        except Exception as error:  # the GL back-ends raise many unrelated types
            raise InputError(
                f"no off-screen OpenGL here (MUJOCO_GL={os.environ.get('MUJOCO_GL')}): {error}. "
                "Use the ray-casting renderer (--renderer rays)."
            ) from error
        self._rect = mujoco.MjrRect(0, 0, width, height)

    def render(self, model: Any, data: Any, cameras: Sequence[CameraSpec]) -> list[RenderedView]:
        mujoco = import_mujoco()
        self._make_current()
        model.vis.global_.offwidth, model.vis.global_.offheight = self.width, self.height
        context = mujoco.MjrContext(model, mujoco.mjtFontScale.mjFONTSCALE_100.value)
        mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN.value, context)
        context.readDepthMap = mujoco.mjtDepthMap.mjDEPTH_ZEROFAR.value
        scene, options = mujoco.MjvScene(model, maxgeom=600), mujoco.MjvOption()
        for flag in (
            mujoco.mjtRndFlag.mjRND_SHADOW,
            mujoco.mjtRndFlag.mjRND_REFLECTION,
            mujoco.mjtRndFlag.mjRND_SKYBOX,
        ):
            scene.flags[flag] = 0
        view = mujoco.MjvCamera()
        view.type = mujoco.mjtCamera.mjCAMERA_FIXED
        views = []
        for index in range(len(cameras)):
            view.fixedcamid = index
            mujoco.mjv_updateScene(
                model, data, options, None, view, mujoco.mjtCatBit.mjCAT_ALL.value, scene
            )
            views.append(self._read_view(model, scene, context))
        context.free()
        return views

    def _make_current(self) -> None:
        """Take the thread, which another renderer may have taken since; start again where the display has ended.

        Open3D's off-screen window ends the display that it shares with MuJoCo when it closes.
        """
        try:
            self._context = self._context or _gl_context(self.width, self.height)
            self._context.make_current()
        except Exception:  # the GL back-ends raise many unrelated types
            _forget(self._context)
            self._context = _gl_context(self.width, self.height)
            self._context.make_current()

    def _read_view(self, model: Any, scene: Any, context: Any) -> RenderedView:
        mujoco = import_mujoco()
        rgb = np.empty((self.height, self.width, 3), np.uint8)
        z = np.empty((self.height, self.width), np.float32)
        mujoco.mjr_render(self._rect, scene, context)
        mujoco.mjr_readPixels(rgb, z, self._rect, context)
        codes = np.empty_like(rgb)
        for flag in (mujoco.mjtRndFlag.mjRND_SEGMENT, mujoco.mjtRndFlag.mjRND_IDCOLOR):
            scene.flags[flag] = 1
        mujoco.mjr_render(self._rect, scene, context)
        mujoco.mjr_readPixels(codes, None, self._rect, context)
        for flag in (mujoco.mjtRndFlag.mjRND_SEGMENT, mujoco.mjtRndFlag.mjRND_IDCOLOR):
            scene.flags[flag] = 0
        body_of_code = np.zeros(scene.ngeom + 1, np.uint16)
        for geom in scene.geoms[: scene.ngeom]:
            if geom.segid >= 0 and geom.objtype == mujoco.mjtObj.mjOBJ_GEOM:
                body_of_code[geom.segid + 1] = model.geom_bodyid[geom.objid] + 1
            elif geom.segid >= 0 and geom.objtype == mujoco.mjtObj.mjOBJ_FLEX:
                body_of_code[geom.segid + 1] = model.nbody + geom.objid + 1
        code = codes.astype(np.int64) @ np.array([1, 256, 65536])
        segmentation = body_of_code[np.where(code <= scene.ngeom, code, 0)]
        near, far = (
            float(v) * float(model.stat.extent) for v in (model.vis.map.znear, model.vis.map.zfar)
        )
        # Reversed depth: z = near * (far - d) / (d * (far - near)), solved for the distance d.
        depth = near * far / (near + z.astype(np.float64) * (far - near))
        depth[segmentation == 0] = 0.0
        rgb[segmentation == 0] = _EMPTY_COLOR
        return RenderedView(
            rgb=np.ascontiguousarray(rgb[::-1]),
            depth=np.ascontiguousarray(depth[::-1]).astype(np.float32),
            segmentation=np.ascontiguousarray(segmentation[::-1]),
        )


def _gl_context(width: int, height: int) -> Any:
    """An off-screen context of the back-end named by MUJOCO_GL, also where mujoco was imported before it was set."""
    backend = os.environ["MUJOCO_GL"].lower()
    if backend == "egl":
        from mujoco.egl import GLContext as EGLContext

        return EGLContext(width, height)
    if backend == "osmesa":
        from mujoco.osmesa import GLContext as OSMesaContext

        return OSMesaContext(width, height)
    raise InputError(f"MUJOCO_GL is '{backend}', expected egl or osmesa")


def _forget(context: Any) -> None:
    """Let go of a context whose display has ended, and of the display: freeing it would end its successor."""
    if context is not None:
        context._context = None
    if os.environ["MUJOCO_GL"].lower() == "egl":
        import mujoco.egl

        mujoco.egl.EGL_DISPLAY = None


class RayRenderer:
    """Ray casting on the model's meshes with embree: flat shading, texture colours reduced to their mean.

    Needs no GL and no display. Slower in Python set-up than GL, exact in depth (no depth buffer).
    """

    name = "rays"

    def __init__(self, height: int, width: int) -> None:
        self.height, self.width = height, width

    def render(self, model: Any, data: Any, cameras: Sequence[CameraSpec]) -> list[RenderedView]:
        triangles, bodies, colors = world_triangles(model, data)
        normals = np.cross(triangles[:, 1] - triangles[:, 0], triangles[:, 2] - triangles[:, 0])
        normals /= np.maximum(np.linalg.norm(normals, axis=-1, keepdims=True), 1e-12)
        scene = embree_scene(triangles)
        views = []
        for camera in cameras:
            origins, directions, scale = camera_rays(camera, self.height, self.width)
            hit = cast_rays(scene, origins, directions)
            face, distance = hit
            found = face >= 0
            depth = np.where(found, distance * scale, 0.0)
            safe = np.where(found, face, 0)
            facing = np.abs((normals[safe] * directions).sum(-1))
            rgb = colors[safe] * (0.35 + 0.65 * facing[:, None])
            rgb[~found] = np.array(_EMPTY_COLOR) / 255
            shape = (self.height, self.width)
            views.append(
                RenderedView(
                    rgb=(255 * np.clip(rgb, 0, 1)).astype(np.uint8).reshape(*shape, 3),
                    depth=depth.astype(np.float32).reshape(shape),
                    segmentation=np.where(found, bodies[safe] + 1, 0)
                    .astype(np.uint16)
                    .reshape(shape),
                )
            )
        return views


def camera_rays(
    camera: CameraSpec, height: int, width: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """World ray origins and unit directions (pixels, 3), and depth per unit of distance (pixels,)."""
    uv = pixel_grid(height, width).reshape(-1, 2)
    K, T = camera.K, camera.T_world_cam
    local = np.stack(
        [(uv[:, 0] - K[0, 2]) / K[0, 0], (uv[:, 1] - K[1, 2]) / K[1, 1], np.ones(len(uv))], -1
    )
    length = np.linalg.norm(local, axis=-1)
    directions = (local / length[:, None]) @ T[:3, :3].T
    return np.broadcast_to(T[:3, 3], directions.shape).copy(), directions, 1.0 / length


def embree_scene(triangles: np.ndarray) -> Any:
    """Embree scene of world triangles (faces, 3, 3) [m]."""
    try:
        from embreex.mesh_construction import TriangleMesh
        from embreex.rtcore_scene import EmbreeScene
    except ImportError as error:
        raise MissingExtraError("embreex", "sim", "Ray casting") from error
    scene = EmbreeScene()
    TriangleMesh(scene, np.ascontiguousarray(triangles, dtype=np.float32))
    return scene


def cast_rays(
    scene: Any, origins: np.ndarray, directions: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """First hits of rays: face index (rays,), -1 = none, and distance (rays,) [m]."""
    result = scene.run(origins.astype(np.float32), directions.astype(np.float32), output=True)
    return result["primID"], result["tfar"]


def world_triangles(model: Any, data: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """All geometry of a posed model: triangles (faces, 3, 3) [m], body id (faces,), colour (faces, 3) in 0-1."""
    pieces, bodies, colors = [], [], []
    for geom in map(int, np.flatnonzero(model.geom_group != COLLISION_GROUP)):
        vertices, faces = geom_mesh(model, geom)
        posed = vertices @ data.geom_xmat[geom].reshape(3, 3).T + data.geom_xpos[geom]
        pieces.append(posed[faces])
        bodies.append(np.full(len(faces), model.geom_bodyid[geom]))
        colors.append(np.broadcast_to(geom_color(model, geom), (len(faces), 3)))
    for flex in range(model.nflex):
        skin = _flex_skin(model, data, flex)
        pieces.append(skin)
        bodies.append(np.full(len(skin), model.nbody + flex))
        colors.append(np.broadcast_to(model.flex_rgba[flex, :3], (len(skin), 3)))
    return np.concatenate(pieces), np.concatenate(bodies), np.concatenate(colors)


def _flex_skin(model: Any, data: Any, flex: int) -> np.ndarray:
    """Triangles (faces, 3, 3) of a flex as thick as its radius [m], as GL draws it: both sides of a cloth, no rim."""
    rows, vertices = flex_faces(model, flex), data.flexvert_xpos
    corners = vertices[rows]
    normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    normals /= np.maximum(np.linalg.norm(normals, axis=-1, keepdims=True), 1e-12)
    outward = np.zeros_like(vertices)
    for k in range(3):
        np.add.at(outward, rows[:, k], normals)
    outward /= np.maximum(np.linalg.norm(outward, axis=-1, keepdims=True), 1e-12)
    offset = float(model.flex_radius[flex]) * outward[rows]
    if int(model.flex_dim[flex]) == 2:
        return np.concatenate([corners + offset, corners - offset])
    return np.asarray(corners + offset)


def geom_color(model: Any, geom: int) -> np.ndarray:
    """Mean colour (3,) of a geom: its material's texture or colour, else its own."""
    mujoco = import_mujoco()
    material = int(model.geom_matid[geom])
    if material < 0:
        return np.asarray(model.geom_rgba[geom, :3], dtype=np.float64)
    texture = int(model.mat_texid[material, mujoco.mjtTextureRole.mjTEXROLE_RGB])
    base = np.asarray(model.mat_rgba[material, :3], dtype=np.float64)
    if texture < 0:
        return base
    start, channels = int(model.tex_adr[texture]), int(model.tex_nchannel[texture])
    count = int(model.tex_height[texture]) * int(model.tex_width[texture])
    pixels = model.tex_data[start : start + count * channels].reshape(count, channels)
    return base * pixels[:, :3].mean(0) / 255


def geom_mesh(model: Any, geom: int) -> tuple[np.ndarray, np.ndarray]:
    """Vertices (v, 3) in the geom frame and faces (f, 3) of a geom; round ones finely tessellated."""
    import trimesh

    mujoco = import_mujoco()
    kind, size = int(model.geom_type[geom]), model.geom_size[geom]
    kinds = mujoco.mjtGeom
    if kind == kinds.mjGEOM_MESH:
        mesh = int(model.geom_dataid[geom])
        v0, nv = int(model.mesh_vertadr[mesh]), int(model.mesh_vertnum[mesh])
        f0, nf = int(model.mesh_faceadr[mesh]), int(model.mesh_facenum[mesh])
        return model.mesh_vert[v0 : v0 + nv].astype(np.float64), model.mesh_face[f0 : f0 + nf]
    if kind == kinds.mjGEOM_BOX:
        solid = trimesh.creation.box(2 * size)
    elif kind == kinds.mjGEOM_CYLINDER:
        solid = trimesh.creation.cylinder(radius=size[0], height=2 * size[1], sections=64)
    elif kind == kinds.mjGEOM_CAPSULE:
        solid = trimesh.creation.capsule(radius=size[0], height=2 * size[1], count=[48, 48])
    elif kind == kinds.mjGEOM_SPHERE:
        solid = trimesh.creation.icosphere(subdivisions=4, radius=size[0])
    else:
        raise InputError(
            f"geom {geom} has type {kind}, which the ray-casting renderer does not know"
        )
    return np.asarray(solid.vertices), np.asarray(solid.faces)


def make_renderer(name: str, height: int, width: int) -> SceneRenderer:
    """`gl`, `rays`, or `auto`: GL where a context can be made, else rays."""
    if name == "rays":
        return RayRenderer(height, width)
    if name == "gl":
        return GLRenderer(height, width)
    if name != "auto":
        raise InputError(f"renderer is '{name}', expected gl, rays or auto")
    try:
        return GLRenderer(height, width)
    except InputError as error:
        log.info("%s", error)
        return RayRenderer(height, width)


def working_renderer(height: int, width: int) -> str:
    """What `auto` means on this machine: `gl` where a context can be made, else `rays`."""
    return make_renderer("auto", height, width).name
