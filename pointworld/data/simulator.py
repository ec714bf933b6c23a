"""MuJoCo model of a robot arm with gripper and a tabletop scene, built from plain descriptions.

The robot's geometry is that of its URDF, part by part, so that the simulated images show exactly the robot that
scene building masks out and robot flow samples.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pointworld.data.robot_tree import RobotTree
from pointworld.data.tabletop import CameraSpec, ObjectSpec, SceneSpec, Surface, TabletopConfig
from pointworld.errors import MissingExtraError
from pointworld.geometry import matrix_to_quat_wxyz

#: Collision groups: objects meet everything, the robot meets objects only.
_OBJECT, _ROBOT = 1, 2
#: Position servos: proportional gain [Nm/rad], damping [Nms/rad], torque limit [Nm] of the seven FR3 joints.
_ARM_KP = (4500.0, 4500.0, 3500.0, 3500.0, 2000.0, 2000.0, 2000.0)
_ARM_KV = (300.0, 300.0, 250.0, 250.0, 60.0, 60.0, 60.0)
_ARM_TORQUE = (87.0, 87.0, 87.0, 87.0, 12.0, 12.0, 12.0)
_FINGER_KP, _FINGER_KV, _FINGER_FORCE = 2000.0, 80.0, 35.0
#: Geom groups: drawn by default; never drawn.
VISUAL_GROUP, COLLISION_GROUP = 2, 3


def import_mujoco() -> Any:
    """The mujoco module, or an error that names the extra. MUJOCO_GL must be set before the first call."""
    try:
        import mujoco
    except ImportError as error:
        raise MissingExtraError("mujoco", "sim", "Simulating clips") from error
    return mujoco


def add_robot(spec: Any, tree: RobotTree, *, servos: bool = True) -> None:
    """Add the robot of `tree` to an MjSpec: bodies named as links, joints as in the URDF, position servos."""
    mujoco = import_mujoco()
    spec.compiler.degree = False
    bodies = {tree.root: spec.worldbody.add_body(name=tree.root)}
    _add_link(spec, bodies[tree.root], tree, tree.root)
    for joint in tree.joints:
        body = bodies[joint.parent].add_body(
            name=joint.child,
            pos=joint.origin[:3, 3],
            quat=matrix_to_quat_wxyz(joint.origin[:3, :3]),
        )
        body.gravcomp = 1.0
        bodies[joint.child] = body
        if joint.kind != "fixed":
            hinge = joint.kind in ("revolute", "continuous")
            kind = mujoco.mjtJoint.mjJNT_HINGE if hinge else mujoco.mjtJoint.mjJNT_SLIDE
            body.add_joint(
                name=joint.name,
                type=kind,
                axis=joint.axis,
                armature=0.1 if hinge else 0.5,
                limited=mujoco.mjtLimited.mjLIMITED_TRUE,
                range=[joint.lower, joint.upper],
            )
        _add_link(spec, body, tree, joint.child)
    _couple_mimics(spec, tree)
    if servos:
        _add_servos(spec, tree)


def _add_link(spec: Any, body: Any, tree: RobotTree, link: str) -> None:
    """Convex parts that collide and are not drawn (group 3), visual meshes that are drawn and weigh nothing."""
    mujoco = import_mujoco()
    parts = tree.collision.get(link, ()) if link in _near_tool(tree) else ()
    if not parts:
        # Gravity is compensated and the joints have armature, so a nominal inertia is enough here.
        body.mass, body.inertia, body.explicitinertial = 2.0, [0.02, 0.02, 0.02], True
    friction = [0.9 if "finger" in link else 0.3, 0.01, 0.0001]
    for kind, solids in (("part", parts), ("visual", tree.visual.get(link, ()))):
        seen = kind == "visual"
        for k, solid in enumerate(solids):
            name = f"{link}_{kind}{k}"
            mesh = spec.add_mesh(name=name)
            mesh.uservert = solid.vertices.astype(np.float32).ravel()
            mesh.userface = solid.faces.astype(np.int32).ravel()
            if seen:
                mesh.inertia = mujoco.mjtMeshInertia.mjMESH_INERTIA_SHELL
            body.add_geom(
                type=mujoco.mjtGeom.mjGEOM_MESH,
                meshname=name,
                rgba=(*solid.rgb, 1.0),
                group=VISUAL_GROUP if seen else COLLISION_GROUP,
                contype=0 if seen else _ROBOT,
                conaffinity=0,
                condim=4,
                friction=friction,
                density=0.0 if seen else 1000.0,
            )


def _near_tool(tree: RobotTree) -> set[str]:
    """Links that may touch objects: the gripper, and the arm from the forearm (three joints before the hand) on."""
    parent = {joint.child: joint for joint in tree.joints}
    links, moving, link = set(tree.gripper_links), 0, tree.gripper_links[0]
    while link in parent and moving < 3:
        moving += int(parent[link].kind != "fixed")
        links.add(parent[link].child)
        link = parent[link].parent
    return links


def _couple_mimics(spec: Any, tree: RobotTree) -> None:
    mujoco = import_mujoco()
    for joint in tree.joints:
        if joint.mimic is not None:
            leader, multiplier, offset = joint.mimic
            data = np.zeros(mujoco.mjNEQDATA)
            data[:2] = offset, multiplier
            spec.add_equality(
                name=f"{joint.name}_mimic",
                type=mujoco.mjtEq.mjEQ_JOINT,
                objtype=mujoco.mjtObj.mjOBJ_JOINT,
                name1=joint.name,
                name2=leader,
                data=data,
                solref=[0.004, 1.0],
            )


def _add_servos(spec: Any, tree: RobotTree) -> None:
    mujoco = import_mujoco()
    arm = 0
    for joint in tree.joints:
        if joint.kind == "fixed" or joint.mimic is not None:
            continue
        hinge = joint.kind != "prismatic"
        kp, kv, force = (
            (_ARM_KP[arm], _ARM_KV[arm], _ARM_TORQUE[arm])
            if hinge
            else (_FINGER_KP, _FINGER_KV, _FINGER_FORCE)
        )
        arm += int(hinge and arm < len(_ARM_KP) - 1)
        actuator = spec.add_actuator(
            name=joint.name, target=joint.name, trntype=mujoco.mjtTrn.mjTRN_JOINT
        )
        actuator.gaintype, actuator.biastype = (
            mujoco.mjtGain.mjGAIN_FIXED,
            mujoco.mjtBias.mjBIAS_AFFINE,
        )
        actuator.gainprm[0] = kp
        actuator.biasprm[1], actuator.biasprm[2] = -kp, -kv
        actuator.forcelimited, actuator.forcerange = (
            mujoco.mjtLimited.mjLIMITED_TRUE,
            [-force, force],
        )


def servo_lag(tree: RobotTree) -> np.ndarray:
    """kv / kp [s] per actuator: the position a servo trails behind a moving target, per unit of its speed."""
    arm = [kv / kp for kp, kv in zip(_ARM_KP, _ARM_KV, strict=True)]
    lags, count = [], 0
    for joint in tree.joints:
        if joint.kind == "fixed" or joint.mimic is not None:
            continue
        if joint.kind == "prismatic":
            lags.append(_FINGER_KV / _FINGER_KP)
        else:
            lags.append(arm[count])
            count += int(count < len(arm) - 1)
    return np.array(lags)


def _add_material(spec: Any, name: str, surface: Surface, seed: int) -> str:
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


def _add_object(spec: Any, index: int, item: ObjectSpec) -> None:
    mujoco = import_mujoco()
    kinds = {
        "box": mujoco.mjtGeom.mjGEOM_BOX,
        "cylinder": mujoco.mjtGeom.mjGEOM_CYLINDER,
        "capsule": mujoco.mjtGeom.mjGEOM_CAPSULE,
        "sphere": mujoco.mjtGeom.mjGEOM_SPHERE,
        "mesh": mujoco.mjtGeom.mjGEOM_MESH,
    }
    material = _add_material(spec, f"object{index}", item.surface, index)
    body = spec.worldbody.add_body(
        name=f"object{index}", pos=item.position, quat=matrix_to_quat_wxyz(item.rotation)
    )
    body.add_freejoint()
    for k, part in enumerate(item.shape.parts):
        options: dict[str, Any] = {
            "type": kinds[part.kind],
            "density": item.density,
            "material": material,
            "contype": _OBJECT,
            "conaffinity": _OBJECT | _ROBOT,
            "condim": 6 if item.shape.rolls else 4,
            "friction": [item.friction, 0.005, 0.0005],
        }
        if part.vertices is not None:
            mesh = spec.add_mesh(name=f"object{index}_part{k}")
            mesh.uservert = part.vertices.astype(np.float32).ravel()
            mesh.inertia = mujoco.mjtMeshInertia.mjMESH_INERTIA_CONVEX
            options["meshname"] = f"object{index}_part{k}"
        else:
            options["size"] = [*part.size, 0.0, 0.0][:3]
            options["pos"] = part.position
            if part.rotation is not None:
                options["quat"] = matrix_to_quat_wxyz(part.rotation)
        body.add_geom(**options)


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
    floor_material = _add_material(spec, "floor", scene.floor_surface, 99)
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
        contype=_OBJECT,
        conaffinity=_OBJECT,
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


def robot_model(tree: RobotTree) -> Any:
    """MjModel of the bare robot, for inverse kinematics."""
    mujoco = import_mujoco()
    spec = mujoco.MjSpec()
    add_robot(spec, tree)
    return spec.compile()


def scene_model(
    tree: RobotTree, scene: SceneSpec, cameras: Sequence[CameraSpec], config: TabletopConfig
) -> Any:
    """MjModel of robot, table, objects, lights and cameras, with fast render settings."""
    mujoco = import_mujoco()
    spec = mujoco.MjSpec()
    spec.option.timestep = config.timestep
    spec.option.integrator = mujoco.mjtIntegrator.mjINT_IMPLICITFAST
    spec.option.cone = mujoco.mjtCone.mjCONE_ELLIPTIC
    spec.option.impratio = 5.0
    spec.option.iterations = 30
    spec.visual.quality.offsamples = 0
    spec.visual.quality.shadowsize = 0
    spec.visual.quality.numslices = 48
    spec.stat.extent, spec.stat.center = 2.0, [0.5, 0.0, 0.0]
    spec.visual.map.znear, spec.visual.map.zfar = 0.02, 4.0
    add_robot(spec, tree)
    _add_surroundings(spec, scene)
    for index, item in enumerate(scene.objects):
        _add_object(spec, index, item)
    _add_lights(spec, scene)
    _add_cameras(spec, cameras, config)
    return spec.compile()


@dataclass(frozen=True, kw_only=True, eq=False)
class ModelIndex:
    """Where things are in a compiled model.

    arm: qpos addresses of the driven joints in actuator order. dofs: their velocity addresses.
    mimics: (address, leader address, multiplier, offset) of mimic joints. objects, robot: body ids.
    """

    arm: np.ndarray
    dofs: np.ndarray
    mimics: tuple[tuple[int, int, float, float], ...]
    objects: tuple[int, ...]
    robot: tuple[int, ...]


def index_model(model: Any, tree: RobotTree) -> ModelIndex:
    """Look up the addresses of the robot's joints and of all bodies by name."""
    driven = [j for j in tree.joints if j.kind != "fixed" and j.mimic is None]
    address = {
        j.name: int(model.joint(j.name).qposadr[0]) for j in tree.joints if j.kind != "fixed"
    }
    mimics = tuple(
        (address[j.name], address[j.mimic[0]], j.mimic[1], j.mimic[2])
        for j in tree.joints
        if j.mimic is not None
    )
    names = [model.body(i).name for i in range(model.nbody)]
    links = {tree.root, *(j.child for j in tree.joints)}
    return ModelIndex(
        arm=np.array([address[j.name] for j in driven]),
        dofs=np.array([int(model.joint(j.name).dofadr[0]) for j in driven]),
        mimics=mimics,
        objects=tuple(i for i, name in enumerate(names) if name.startswith("object")),
        robot=tuple(i for i, name in enumerate(names) if name in links),
    )


def set_joints(data: Any, index: ModelIndex, q: np.ndarray) -> None:
    """Write driven joint positions (joints,) and the mimic joints that follow from them into `data.qpos`."""
    data.qpos[index.arm] = q
    for own, leader, multiplier, offset in index.mimics:
        data.qpos[own] = multiplier * data.qpos[leader] + offset
