"""A joint path becomes moving surface points."""

import numpy as np
import torch

from pointworld.robot import RobotModel, straight_path

robot = RobotModel.load("fr3")
start, stop = np.array([0.45, 0.0, 0.05]), np.array([0.65, 0.0, 0.05])
joints = straight_path(robot, start, stop, steps=11, gripper_width=0.0)
surface = robot.sample_surface(192, links="gripper", seed=0)
flow = robot.flow(surface, torch.from_numpy(joints).float(), step_dt=0.1)
travel = (flow.positions[-1] - flow.positions[0]).norm(dim=-1)
print(f"{flow.positions.shape[1]} points on {robot.gripper_links} move {travel.mean():.3f} m")
