"""MuJoCo model of a robot arm with gripper, built from plain descriptions.

The robot's geometry is that of its URDF, part by part, so that the simulated images show exactly the robot that
scene building masks out and robot flow samples.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from pointworld.data.robot_tree import RobotTree
from pointworld.errors import MissingExtraError
from pointworld.geometry import matrix_to_quat_wxyz

#: Collision groups: objects meet everything, the robot meets objects only.
OBJECT, ROBOT = 1, 2
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
                armature=tree.armature(joint),
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
                contype=0 if seen else ROBOT,
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
    for servo in tree.servos:
        actuator = spec.add_actuator(
            name=servo.joint, target=servo.joint, trntype=mujoco.mjtTrn.mjTRN_JOINT
        )
        actuator.gaintype, actuator.biastype = (
            mujoco.mjtGain.mjGAIN_FIXED,
            mujoco.mjtBias.mjBIAS_AFFINE,
        )
        actuator.gainprm[0] = servo.kp
        actuator.biasprm[1], actuator.biasprm[2] = -servo.kp, -servo.kv
        actuator.forcelimited, actuator.forcerange = (
            mujoco.mjtLimited.mjLIMITED_TRUE,
            [-servo.force, servo.force],
        )


def servo_lag(tree: RobotTree) -> np.ndarray:
    """kv / kp [s] per actuator: the position a servo trails behind a moving target, per unit of its speed."""
    return np.array([servo.kv / servo.kp for servo in tree.servos])


def robot_model(tree: RobotTree) -> Any:
    """MjModel of the bare robot, for inverse kinematics."""
    mujoco = import_mujoco()
    spec = mujoco.MjSpec()
    add_robot(spec, tree)
    return spec.compile()


@dataclass(frozen=True, kw_only=True, eq=False)
class ModelIndex:
    """Where things are in a compiled model.

    arm: qpos addresses of the driven joints in actuator order. dofs: their velocity addresses.
    mimics: (address, leader address, multiplier, offset) of mimic joints. objects, robot, held: body ids; held are
    the objects fixed to the hand. flexes: for every flex its first vertex and its number of vertices.
    vertex_bodies: ids of the bodies that only carry flex vertices; they are no bodies of a clip.
    """

    arm: np.ndarray
    dofs: np.ndarray
    mimics: tuple[tuple[int, int, float, float], ...]
    objects: tuple[int, ...]
    robot: tuple[int, ...]
    held: tuple[int, ...]
    flexes: tuple[tuple[int, int], ...]
    vertex_bodies: frozenset[int]

    def carried_bodies(self, count: int) -> list[int]:
        """Ids of the bodies that a clip lists, of `count` in the model: all but the world and vertex bodies."""
        return [body for body in range(1, count) if body not in self.vertex_bodies]


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
    robot = tuple(i for i, name in enumerate(names) if name in links)
    nodes = {*map(int, model.flex_vertbodyid), *map(int, model.flex_nodebodyid)} - {0}
    objects = tuple(
        i for i, name in enumerate(names) if name.startswith("object") and i not in nodes
    )
    return ModelIndex(
        arm=np.array([address[j.name] for j in driven]),
        dofs=np.array([int(model.joint(j.name).dofadr[0]) for j in driven]),
        mimics=mimics,
        objects=objects,
        robot=robot,
        held=tuple(i for i in objects if int(model.body_parentid[i]) in robot),
        flexes=tuple(
            (int(start), int(count))
            for start, count in zip(model.flex_vertadr, model.flex_vertnum, strict=True)
        ),
        vertex_bodies=frozenset(nodes),
    )


def flex_names(model: Any) -> tuple[str, ...]:
    """Names of all flexes of a compiled model."""
    mujoco = import_mujoco()
    kind = mujoco.mjtObj.mjOBJ_FLEX
    return tuple(str(mujoco.mj_id2name(model, kind, k)) for k in range(model.nflex))


def flex_faces(model: Any, flex: int) -> np.ndarray:
    """Surface triangles (faces, 3) of a flex as rows of `flexvert_xpos`: a cloth's elements, a body's shell."""
    if int(model.flex_dim[flex]) == 2:
        start, count = int(model.flex_elemdataadr[flex]), int(model.flex_elemnum[flex])
        rows = model.flex_elem[start : start + 3 * count]
    else:
        start, count = int(model.flex_shelldataadr[flex]), int(model.flex_shellnum[flex])
        rows = model.flex_shell[start : start + 3 * count]
    return np.asarray(rows).reshape(-1, 3) + int(model.flex_vertadr[flex])


def set_joints(data: Any, index: ModelIndex, q: np.ndarray) -> None:
    """Write driven joint positions (joints,) and the mimic joints that follow from them into `data.qpos`."""
    data.qpos[index.arm] = q
    for own, leader, multiplier, offset in index.mimics:
        data.qpos[own] = multiplier * data.qpos[leader] + offset
