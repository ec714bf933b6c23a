"""Seeing it: reconstructions, viewer, pictures, videos and reports."""

from pointworld.view.reconstruct import Reconstruction as Reconstruction
from pointworld.view.reconstruct import reconstruct as reconstruct
from pointworld.view.reconstruct import write_reconstruction as write_reconstruction
