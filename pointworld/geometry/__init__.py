"""Pure maths: rigid transforms, pinhole cameras, voxels, normals, rigid fits, planes."""

from pointworld.geometry.camera import crop_intrinsics as crop_intrinsics
from pointworld.geometry.camera import opengl_to_opencv as opengl_to_opencv
from pointworld.geometry.camera import pixel_grid as pixel_grid
from pointworld.geometry.camera import project as project
from pointworld.geometry.camera import scale_intrinsics as scale_intrinsics
from pointworld.geometry.camera import unproject as unproject
from pointworld.geometry.camera import unproject_pixels as unproject_pixels
from pointworld.geometry.clusters import SUPPORT as SUPPORT
from pointworld.geometry.clusters import point_clusters as point_clusters
from pointworld.geometry.kabsch import fit_rigid as fit_rigid
from pointworld.geometry.normals import depth_normals as depth_normals
from pointworld.geometry.plane import fit_plane_ransac as fit_plane_ransac
from pointworld.geometry.se3 import invert as invert
from pointworld.geometry.se3 import make_transform as make_transform
from pointworld.geometry.se3 import matrix_to_quat_wxyz as matrix_to_quat_wxyz
from pointworld.geometry.se3 import quat_wxyz_to_matrix as quat_wxyz_to_matrix
from pointworld.geometry.se3 import rotate_vectors as rotate_vectors
from pointworld.geometry.se3 import transform_points as transform_points
from pointworld.geometry.voxel import lexicographic_order as lexicographic_order
from pointworld.geometry.voxel import voxel_indices as voxel_indices
from pointworld.geometry.voxel import voxel_representatives as voxel_representatives
