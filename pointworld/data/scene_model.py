"""MuJoCo model of a whole scene: robot, table, objects, props, lights and cameras."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from pointworld.data.robot_tree import RobotTree
from pointworld.data.shapes import Part
from pointworld.data.simulator import OBJECT, ROBOT, add_robot, import_mujoco
from pointworld.data.tabletop import CameraSpec, ObjectSpec, SceneSpec, Surface, TabletopConfig
from pointworld.geometry import matrix_to_quat_wxyz


def add_material(spec: Any, name: str, surface: Surface) -> str:
    """Add a material of the given look; returns its name."""
    mujoco = import_mujoco()
    material = spec.add_material(name=name, shininess=surface.shininess, specular=surface.shininess)
    if surface.pattern == "flat":
        material.rgba = (*surface.rgb, 1.0)
        return name
    builtin = {
        "checker": mujoco.mjtBuiltin.mjBUILTIN_CHECKER,
        "gradient": mujoco.mjtBuiltin.mjBUILTIN_GRADIENT,
        "speckle": mujoco.mjtBuiltin.mjBUILTIN_FLAT,
    }[surface.pattern]
    texture = spec.add_texture(
        name=name,
        type=mujoco.mjtTexture.mjTEXTURE_CUBE,
        builtin=builtin,
        rgb1=surface.rgb,
        rgb2=surface.rgb2,
        width=32,
        height=32,
    )
    if surface.pattern == "speckle":
        texture.mark, texture.markrgb, texture.random = (
            mujoco.mjtMark.mjMARK_RANDOM,
            surface.rgb2,
            0.1,
        )
    material.textures[mujoco.mjtTextureRole.mjTEXROLE_RGB] = name
    return name


def add_part(spec: Any, body: Any, part: Part, name: str, **options: Any) -> Any:
    """Add one convex part to a body as a geom; `name` is that of the mesh of a mesh part."""
    mujoco = import_mujoco()
    kinds = {
        "box": mujoco.mjtGeom.mjGEOM_BOX,
        "cylinder": mujoco.mjtGeom.mjGEOM_CYLINDER,
        "capsule": mujoco.mjtGeom.mjGEOM_CAPSULE,
        "sphere": mujoco.mjtGeom.mjGEOM_SPHERE,
        "mesh": mujoco.mjtGeom.mjGEOM_MESH,
    }
    options["type"] = kinds[part.kind]
    if part.vertices is not None:
        mesh = spec.add_mesh(name=name)
        mesh.uservert = part.vertices.astype(np.float32).ravel()
        mesh.inertia = mujoco.mjtMeshInertia.mjMESH_INERTIA_CONVEX
        options["meshname"] = name
    else:
        options["size"] = [*part.size, 0.0, 0.0][:3]
        options["pos"] = part.position
        if part.rotation is not None:
            options["quat"] = matrix_to_quat_wxyz(part.rotation)
    return body.add_geom(**options)


def _add_object(spec: Any, index: int, item: ObjectSpec) -> None:
    material = add_material(spec, f"object{index}", item.surface)
    body = spec.worldbody.add_body(
        name=f"object{index}", pos=item.position, quat=matrix_to_quat_wxyz(item.rotation)
    )
    body.add_freejoint()
    for k, part in enumerate(item.shape.parts):
        add_part(
            spec,
            body,
            part,
            f"object{index}_part{k}",
            density=item.density,
            material=material,
            contype=OBJECT,
            conaffinity=OBJECT | ROBOT,
            condim=6 if item.shape.rolls else 4,
            friction=[item.friction, 0.005, 0.0005],
        )


def _add_surroundings(spec: Any, scene: SceneSpec) -> None:
    mujoco = import_mujoco()
    texture = spec.add_texture(
        name="table",
        type=mujoco.mjtTexture.mjTEXTURE_2D,
        width=scene.table_texture.shape[1],
        height=scene.table_texture.shape[0],
        nchannel=3,
    )
    texture.data = scene.table_texture.tobytes()
    table_material = spec.add_material(
        name="table", shininess=scene.table_surface.shininess, specular=0.2
    )
    table_material.textures[mujoco.mjtTextureRole.mjTEXROLE_RGB] = "table"
    floor_material = add_material(spec, "floor", scene.floor_surface)
    still: dict[str, Any] = {"contype": 0, "conaffinity": 0}
    floor = spec.worldbody.add_body(name="floor")
    floor.add_geom(
        type=mujoco.mjtGeom.mjGEOM_BOX,
        size=[2.5, 2.5, 0.01],
        pos=[0.5, 0, -0.75],
        material=floor_material,
        **still,
    )
    table = spec.worldbody.add_body(name="table")
    half_x, half_y = scene.table_size
    table.add_geom(
        type=mujoco.mjtGeom.mjGEOM_BOX,
        size=[half_x, half_y, 0.02],
        pos=[0.95 - half_x + 0.1, 0, scene.table_height - 0.02],
        material="table",
        contype=OBJECT,
        conaffinity=OBJECT,
        condim=4,
        friction=[0.15, 0.005, 0.0001],
    )
    pedestal = spec.worldbody.add_body(name="pedestal")
    height = max(-scene.table_height, 0.004) / 2
    pedestal.add_geom(
        type=mujoco.mjtGeom.mjGEOM_BOX,
        size=[0.11, 0.11, height],
        pos=[-0.03, 0, -height],
        rgba=[0.4, 0.4, 0.42, 1],
        **still,
    )


def _add_lights(spec: Any, scene: SceneSpec) -> None:
    mujoco = import_mujoco()
    for position in scene.lights:
        toward = np.array([0.55, 0.0, 0.0]) - np.array(position)
        spec.worldbody.add_light(
            pos=position,
            dir=toward / np.linalg.norm(toward),
            castshadow=False,
            type=mujoco.mjtLightType.mjLIGHT_DIRECTIONAL,
            diffuse=[scene.light_strength / len(scene.lights) + 0.2] * 3,
            specular=[0.2] * 3,
        )
    spec.visual.headlight.ambient = [scene.ambient] * 3
    spec.visual.headlight.diffuse = [0.25] * 3
    spec.visual.headlight.specular = [0.05] * 3


def _camera_pose(camera: CameraSpec, height: int) -> tuple[np.ndarray, np.ndarray, float]:
    """MuJoCo's position, quat_wxyz (OpenGL axes) and vertical field of view [degrees]."""
    R = camera.T_world_cam[:3, :3] @ np.diag([1.0, -1.0, -1.0])
    fovy = float(np.degrees(2 * np.arctan(height / 2 / camera.K[1, 1])))
    return camera.T_world_cam[:3, 3], matrix_to_quat_wxyz(R), fovy


def _add_cameras(spec: Any, cameras: Sequence[CameraSpec], config: TabletopConfig) -> None:
    for index, camera in enumerate(cameras):
        pos, quat, fovy = _camera_pose(camera, config.height)
        spec.worldbody.add_camera(name=f"cam{index}", pos=pos, quat=quat, fovy=fovy)


def move_cameras(model: Any, cameras: Sequence[CameraSpec], config: TabletopConfig) -> None:
    """Give the cameras of a compiled model new poses and focal lengths."""
    for index, camera in enumerate(cameras):
        model.cam_pos[index], model.cam_quat[index], model.cam_fovy[index] = _camera_pose(
            camera, config.height
        )


@lru_cache(maxsize=2)
def _robot_spec(tree: RobotTree) -> Any:
    """The bare robot, the same in every scene: copying it is cheaper than handing over its meshes again."""
    spec = import_mujoco().MjSpec()
    add_robot(spec, tree)
    return spec


def scene_model(
    tree: RobotTree, scene: SceneSpec, cameras: Sequence[CameraSpec], config: TabletopConfig
) -> Any:
    """MjModel of robot, table, objects, lights and cameras, with fast render settings."""
    mujoco = import_mujoco()
    spec = _robot_spec(tree).copy()
    spec.option.timestep = config.timestep
    spec.option.integrator = mujoco.mjtIntegrator.mjINT_IMPLICITFAST
    if any(prop.deformable for prop in scene.props):
        spec.option.integrator = mujoco.mjtIntegrator.mjINT_DISCRETE
    spec.option.cone = mujoco.mjtCone.mjCONE_ELLIPTIC
    spec.option.impratio = 5.0
    spec.option.iterations = 30
    spec.visual.quality.offsamples = 0
    spec.visual.quality.shadowsize = 0
    spec.visual.quality.numslices = 48
    spec.stat.extent, spec.stat.center = 2.0, [0.5, 0.0, 0.0]
    spec.visual.map.znear, spec.visual.map.zfar = 0.02, 4.0
    _add_surroundings(spec, scene)
    for index, item in enumerate(scene.objects):
        _add_object(spec, index, item)
    for prop in scene.props:
        prop.add(spec, tree)
    _add_lights(spec, scene)
    _add_cameras(spec, cameras, config)
    model = spec.compile()
    for prop in scene.props:
        prop.finish(model)
    return model
