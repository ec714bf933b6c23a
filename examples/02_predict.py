"""A capture and a joint path become a predicted flow."""

import torch

import pointworld
from pointworld.cli.demo import bundled_clip
from pointworld.data import clip_to_capture, tabletop_workspace
from pointworld.robot import RobotModel
from pointworld.scene import build_scene

clip = bundled_clip()
capture = clip_to_capture(clip)  # with your own files: pointworld.read_capture("my_capture")
robot = RobotModel.load("fr3")
scene = build_scene(
    capture.frames,
    T_world_base=capture.T_world_base,
    workspace=tabletop_workspace(),
    robot=robot,
    joint_positions=clip.joint_positions[0],
)
surface = robot.sample_surface(192, links="gripper", seed=0)
joints = torch.from_numpy(clip.joint_positions).float()
model = pointworld.load("tiny")
prediction = model.predict(scene, robot.flow(surface, joints, step_dt=model.spec.step_dt))
reach = prediction.displacements.norm(dim=-1).amax(0)
print(f"{len(scene)} points, {int((reach > 0.01).sum())} of them will move more than 1 cm")
