"""From a plan to a moving arm: robots, cameras, the safety filter, the loop, and the record of a run."""
