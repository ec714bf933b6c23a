"""Gaussian splatting layer (reconstruction, rendering and motion of Gaussians)."""
