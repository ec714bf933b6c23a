"""Recordings of simulated clips: what cameras beside a real robot would have stored, with the truth at hand."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from pointworld.capture import write_capture
from pointworld.data.clip import Clip, ClipView, write_clip
from pointworld.data.generate import ClipGenerator
from pointworld.data.sensor import SensorConfig, observe
from pointworld.files import atomic_path
from pointworld.types import Capture, JointPath, RGBDFrame


@dataclass(frozen=True, kw_only=True, eq=False)
class SimulatedRecording:
    """One simulated motion as a capture over time, and the truth.

    capture: frames of all cameras at all steps, ordered by time; the world is the robot base.
    joints: the log. clip: the same motion with body poses.
    """

    capture: Capture
    joints: JointPath
    clip: Clip


def simulate_recording(
    generator: ClipGenerator, seed: int, index: int, *, sensor: SensorConfig | None = None
) -> SimulatedRecording:
    """Clip `index` of the data set `seed`, filmed at every step.

    Args:
        sensor: errors of the cameras: new noise in every frame, the same wrong calibration in all of them.
    """
    clip = generator.make(seed, index)
    poses = {k: view.T_world_cam for k, view in enumerate(clip.views)}
    if sensor is not None:
        still = replace(sensor, depth_noise=0.0, edge_holes=0.0, speckle_holes=0.0)
        fixed = observe(clip, replace(still, partial_view=0.0), seed)
        poses = {k: view.T_world_cam for k, view in zip(fixed.views, fixed.clip.views, strict=True)}
    frames = []
    for step in range(clip.num_steps):
        views = clip.views if step == 0 else generator.views_at(seed, index, step)
        if sensor is not None:
            views = _noisy(replace(clip, views=views), sensor, seed * 1000 + step)
        frames += [_frame(views[k], k, T, step, clip) for k, T in poses.items()]
    return SimulatedRecording(
        capture=Capture(
            frames=tuple(frames),
            source=f"recording {clip.key}",
            T_world_base=np.eye(4),
            joint_names=clip.joint_names,
            robot=clip.robot,
        ),
        joints=JointPath(
            joint_positions=clip.joint_positions,
            joint_names=clip.joint_names,
            step_dt=clip.step_dt,
            source=f"recording {clip.key}",
        ),
        clip=clip,
    )


def _noisy(clip: Clip, sensor: SensorConfig, seed: int) -> tuple[ClipView, ...]:
    """Noise and holes of one moment, in all views."""
    count = len(clip.views)
    moment = replace(
        sensor,
        position_error=0.0,
        angle_error=0.0,
        partial_view=0.0,
        min_cameras=count,
        max_cameras=count,
    )
    return observe(clip, moment, seed).clip.views


def _frame(
    view: ClipView, camera: int, T_world_cam: np.ndarray, step: int, clip: Clip
) -> RGBDFrame:
    return RGBDFrame(
        rgb=view.rgb,
        depth=view.depth,
        valid=view.depth > 0,
        K=view.K,
        T_world_cam=T_world_cam,
        timestamp=step * clip.step_dt,
        name=f"cam{camera}-{step:04d}",
        camera=f"cam{camera}",
        joint_positions=clip.joint_positions[step],
    )


def write_recording(recording: SimulatedRecording, folder: str | Path) -> None:
    """Write a recording as a user would have it: a capture, the log `joints.npz`; and the clip as `truth.npz`."""
    root = Path(folder)
    write_clip(recording.clip, root / "truth.npz")
    with atomic_path(root / "joints.npz") as temporary:
        np.savez(
            temporary,
            joint_positions=recording.joints.joint_positions,
            joint_names=np.array(recording.joints.joint_names),
            step_dt=recording.joints.step_dt,
        )
    write_capture(recording.capture, root)
