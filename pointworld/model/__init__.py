"""The world model around the backbone: features, normalisation, heads, checkpoints, long horizons."""
