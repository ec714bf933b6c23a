"""Robots: descriptions, kinematics, surface points, and joint paths as flow."""

from pointworld.robot.assets import bundled_robots as bundled_robots
from pointworld.robot.full_meshes import full_meshes as full_meshes
from pointworld.robot.joint_path import joint_path_to_positions as joint_path_to_positions
from pointworld.robot.joint_path import read_joint_path as read_joint_path
from pointworld.robot.joint_path import resample_joint_path as resample_joint_path
from pointworld.robot.model import RobotModel as RobotModel
from pointworld.robot.reach import solve_ik as solve_ik
from pointworld.robot.reach import straight_path as straight_path
from pointworld.robot.surface import SurfacePoints as SurfacePoints
