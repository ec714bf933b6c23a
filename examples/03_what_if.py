"""Several candidate motions on one scene in one call: which of them moves the most?"""

import numpy as np
import torch

import pointworld
from pointworld.cli.demo import bundled_clip
from pointworld.data import clip_to_capture, tabletop_workspace
from pointworld.robot import RobotModel, straight_path
from pointworld.scene import build_scene

clip = bundled_clip()
robot = RobotModel.load("fr3")
scene = build_scene(
    clip_to_capture(clip).frames,
    T_world_base=np.eye(4),
    workspace=tabletop_workspace(),
    robot=robot,
    joint_positions=clip.joint_positions[0],
)
height = float(scene.points[:, 2].median()) + 0.04
candidates = [
    straight_path(
        robot, np.array([0.40, y, height]), np.array([0.65, y, height]), steps=11, gripper_width=0.0
    )
    for y in (-0.2, 0.0, 0.2)
]
surface = robot.sample_surface(192, links="gripper", seed=0)
model = pointworld.load("tiny")
paths = torch.from_numpy(np.stack(candidates)).float()
prediction = model.predict(scene, robot.flow(surface, paths, step_dt=model.spec.step_dt))
for y, moved in zip((-0.2, 0.0, 0.2), prediction.displacements[:, -1].norm(dim=-1), strict=True):
    print(f"push at y = {y:+.1f} m: {int((moved > 0.01).sum())} points move more than 1 cm")
