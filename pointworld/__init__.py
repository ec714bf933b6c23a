"""PointWorld Open: a 3D world model for robots."""
