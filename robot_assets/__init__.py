"""Robot descriptions shipped with PointWorld Open."""
