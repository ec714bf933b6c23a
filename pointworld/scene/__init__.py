"""Frames to scene points: mask the robot, crop, voxelise, sample image features."""

from pointworld.scene.base_pose import resolve_base_pose as resolve_base_pose
from pointworld.scene.base_pose import save_base_pose as save_base_pose
from pointworld.scene.build import build_scene as build_scene
from pointworld.scene.features import Sampling as Sampling
from pointworld.scene.features import encode_views as encode_views
from pointworld.scene.features import lookup as lookup
from pointworld.scene.features import point_features as point_features
from pointworld.scene.features import released_cells as released_cells
from pointworld.scene.features import sample_features as sample_features
from pointworld.scene.robot_mask import ROBOT_MARGIN as ROBOT_MARGIN
from pointworld.scene.robot_mask import MeshCaster as MeshCaster
from pointworld.scene.robot_mask import MeshedRobot as MeshedRobot
from pointworld.scene.robot_mask import mask_of_mesh as mask_of_mesh
from pointworld.scene.robot_mask import pose_robot as pose_robot
from pointworld.scene.robot_mask import robot_mask as robot_mask
from pointworld.scene.views import View as View
from pointworld.scene.views import fit_frame as fit_frame
from pointworld.scene.views import view_of as view_of
from pointworld.scene.workspace import Workspace as Workspace
