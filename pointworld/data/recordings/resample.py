"""Labels and joints at the times of frames, moved to the times of a clip's steps."""

from __future__ import annotations

import numpy as np
from scipy.spatial.transform import Rotation, Slerp

from pointworld.data.recordings.label import Labels


def motions_at_steps(
    labels: Labels, points: np.ndarray, times: np.ndarray, steps: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Motions (steps, motions, 4, 4) at the times of the steps, as far as the frames reach; where points are known.

    Between the moments at which a motion is trusted its turn and the way of its points' centre are interpolated, so
    that a thing turns about itself. After the last of them nothing is known of what follows it. Step 0 is where the
    points are, whatever its frames' time.

    Args:
        points: (points, 3) of the first moment [m]. times: (moments,) of the frames [s].
        steps: (moments,), one for each of them [s].
    """
    if _same_grid(times, steps):
        return labels.motions, labels.known
    since, offsets = _offsets(times, steps)
    moved = np.tile(np.eye(4), (len(steps), labels.motions.shape[1], 1, 1))
    reached = np.zeros(moved.shape[:2], bool)
    for row in range(labels.motions.shape[1]):
        own = points[labels.motion == row]
        centre = own.mean(0) if len(own) else np.zeros(3)
        sure = labels.trusted[:, row].copy()
        sure[0] = True
        moments, motions = since[sure], labels.motions[sure, row]
        reached[:, row] = offsets <= moments[-1] + 1e-9
        if len(moments) == 1:
            continue
        turn = Slerp(moments, Rotation.from_matrix(motions[:, :3, :3]))
        R = turn(np.minimum(offsets, moments[-1])).as_matrix()
        way = motions[:, :3, :3] @ centre + motions[:, :3, 3]
        at = np.stack([np.interp(offsets, moments, column) for column in way.T], -1)
        moved[:, row, :3, :3] = R
        moved[:, row, :3, 3] = at - R @ centre
    return moved, labels.known & reached[:, labels.motion]


def joints_at_steps(
    joint_positions: np.ndarray, times: np.ndarray, steps: np.ndarray
) -> np.ndarray:
    """Joints (moments, joints) at the frames' times, at those of the steps: where the motions are told, too."""
    if _same_grid(times, steps):
        return joint_positions
    since, offsets = _offsets(times, steps)
    return np.stack([np.interp(offsets, since, column) for column in joint_positions.T], 1)


def _same_grid(times: np.ndarray, steps: np.ndarray) -> bool:
    return np.allclose(times - times[0], steps - steps[0], atol=1e-4)


def _offsets(times: np.ndarray, steps: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Seconds since the first frame, of the frames and of the steps as far as the frames reach."""
    since = times - times[0]
    return since, np.clip(steps - steps[0], 0.0, since[-1])
