"""Clips turned once into the tensors that training reads: scene points, bodies, robot surface, image features.

Building samples (decoding, masking, voxelising, encoding images) costs more than a training step on them; a cached
sample is read in under a millisecond.
"""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import TypeVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from pointworld.data import Clip, list_clips, read_clip
from pointworld.data.clip_header import LABELLED
from pointworld.data.library import clip_file, clip_format
from pointworld.data.recordings import LabelledClip, read_labelled
from pointworld.data.sensor import SensorConfig
from pointworld.errors import InputError
from pointworld.files import atomic_path
from pointworld.geometry import point_clusters
from pointworld.robot import RobotModel
from pointworld.train.labelled_cache import cache_labelled
from pointworld.train.preparation import Preparation, held_bodies, prepared_sample
from pointworld.workers import unordered

Tensor = torch.Tensor
Item = TypeVar("Item")

FORMAT = "pointworld-cache-4"


@dataclass(frozen=True, kw_only=True, eq=False)
class CachedSample:
    """One clip as tensors, in the robot base frame; index 0 = now.

    points: (points, 3) float32 [m]. colors: (points, 3) uint8. normals: (points, 3) float16.
    features: (points, channels) float16, or None. body_ids: (points,) int64, row of motions.
    motions: (steps, bodies, 4, 4) carry a body's points from step 0; the triangles of soft bodies are bodies here.
    moving, held: (bodies,) bool; held are tools fixed to the hand, and what a camera's errors leave of the robot.
    robot_positions: (steps, surface, 3) float32. robot_normals: the same in float16. gripper_open: (steps, grippers).
    clusters: (points,) int64, which points hang together (see `pointworld.geometry.point_clusters`).
    reach: (points,) least distance to the robot's surface over the motion [m].
    step_dt: [s] between steps.
    surface: (points, 3) where the points really are at step 0 [m], under a sensor's errors; None: where they are seen.
    supervised: (steps, points) bool, True where the motion is known; None where it is everywhere.
    domain: row of the model's normalisation buffers.
    tracks: (steps, points, 3) [m] where every point is, of data that follow points one by one; they replace the bodies.
    """

    points: Tensor
    colors: Tensor
    normals: Tensor
    features: Tensor | None
    body_ids: Tensor
    motions: Tensor
    moving: Tensor
    held: Tensor
    robot_positions: Tensor
    robot_normals: Tensor
    gripper_open: Tensor
    clusters: Tensor
    reach: Tensor
    step_dt: float
    family: str
    key: str
    surface: Tensor | None = None
    supervised: Tensor | None = None
    domain: int = 0
    tracks: Tensor | None = None

    def held_points(self, index: Tensor) -> Tensor:
        """(chosen points,) bool: of the points at `index`, those on a held body."""
        if self.tracks is not None:
            return torch.zeros(len(index), dtype=torch.bool)
        return self.held[self.body_ids[index]]

    def positions(self, index: Tensor) -> Tensor:
        """Positions (steps, chosen points, 3) [m] of the points at `index`, seen where they are seen at step 0."""
        if self.tracks is not None:
            return self.tracks[:, index]
        motion = self.motions[:, self.body_ids[index]]
        seen = self.points[index]
        surface = seen if self.surface is None else self.surface[index]
        moved = (motion[..., :3, :3] @ surface[None, :, :, None])[..., 0] + motion[..., :3, 3]
        return moved if self.surface is None else seen + (moved - moved[:1])


def cache_clip(
    clip: Clip,
    robot: RobotModel,
    preparation: Preparation,
    *,
    sensor: SensorConfig | None = None,
    seed: int = 0,
) -> dict[str, Tensor]:
    """The tensors of one cached sample, without its names.

    Args:
        sensor, seed: a camera's errors, and what draws them.
    """
    sample = prepared_sample(clip, robot, preparation, sensor=sensor, seed=seed)
    motions = torch.from_numpy(clip.body_motions()).float()
    moving = torch.zeros(motions.shape[1], dtype=torch.bool)
    moving[list(sample.moving_bodies)] = True
    soft = torch.from_numpy(clip.soft_bodies).long()
    moving[motions.shape[1] - len(soft) :] = moving[soft]
    held = torch.zeros(motions.shape[1], dtype=torch.bool)
    held[list(held_bodies(clip))] = True
    reach = torch.stack(
        [torch.cdist(sample.scene.points, r).min(-1).values for r in sample.robot.positions]
    )
    tensors = {
        "points": sample.scene.points.float(),
        "colors": (sample.scene.colors * 255).round().to(torch.uint8),
        "normals": sample.scene.normals.half(),
        "body_ids": (sample.body_ids if sample.motion_ids is None else sample.motion_ids).long(),
        "motions": motions,
        "moving": moving,
        "held": held,
        "robot_positions": sample.robot.positions.float(),
        "robot_normals": sample.robot.normals.half(),
        "gripper_open": sample.robot.gripper_open.float(),
        "reach": reach.min(0).values,
    }
    if sample.surface is not None:
        tensors["surface"] = sample.surface.float()
    if sample.scene.features is not None:
        tensors["features"] = sample.scene.features.half()
    return {name: value.contiguous() for name, value in tensors.items()}


# One copy per worker process: loading one costs more than a clip.
_robot = cache(RobotModel.load)


def _cache_file(
    source: Path, *, folder: Path, preparation: Preparation, cameras: int | None, noisy: float
) -> Path:
    target = _cached_path(folder, source)
    if not target.exists() or target.stat().st_mtime < _made(source):
        tensors, names = _tensors_of(source, preparation, cameras, noisy)
        with atomic_path(target) as temporary:
            save_file(tensors, temporary, metadata={"format": FORMAT, **names})
    return target


def _cached_path(folder: Path, source: Path) -> Path:
    return folder / f"{source.stem}.safetensors"


def _made(source: Path) -> float:
    """When the clip was written; one in a shard, when the shard was."""
    return (source if source.is_file() else source.parent).stat().st_mtime


def _tensors_of(
    source: Path, preparation: Preparation, cameras: int | None, noisy: float
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and names of a simulated clip or a labelled recording; a recording has its camera's errors already."""
    if clip_format(source) == LABELLED:
        with clip_file(source) as file:
            labelled = read_labelled(file)
        labelled = replace(labelled, frames=labelled.frames[:cameras])
        robot = _robot(labelled.robot)
        tensors = cache_labelled(labelled, robot, preparation)
        return tensors, _names(labelled)
    clip = read_clip(source)
    clip = replace(clip, views=clip.views[:cameras])
    seed = zlib.crc32(source.stem.encode())
    sensor = SensorConfig(max_cameras=len(clip.views)) if seed < noisy * 2**32 else None
    tensors = cache_clip(clip, _robot(clip.robot), preparation, sensor=sensor, seed=seed)
    return tensors, _names(clip)


def _names(clip: Clip | LabelledClip) -> dict[str, str]:
    return {"family": clip.family, "key": clip.key, "step_dt": repr(float(clip.step_dt))}


def cache_folder(root: Path, data: Path, preparation: Preparation, noisy: float) -> Path:
    """Where the samples of a data set are kept below `root`: two sets of one name in different places share nothing."""
    place = hashlib.sha256(str(Path(data).resolve()).encode()).hexdigest()[:8]
    seen = f"-noisy{round(100 * noisy)}" if noisy else ""
    return root / f"{data.name}-{place}-{preparation.label}{seen}"


def build_cache(
    data: str | Path,
    folder: str | Path,
    *,
    preparation: Preparation | None = None,
    workers: int = 1,
    cameras: int | None = None,
    noisy: float = 0.0,
    on_progress: Callable[[int], None] | None = None,
) -> int:
    """Cache every clip below `data` into `folder`; those that are there already, and younger than the clip, are kept.

    Args:
        preparation: what the model demands of its samples; that of our own models, without image features, if None.
        workers: processes.
        cameras: views of a clip that are used, the first ones; None = all.
        noisy: share of the clips that are seen with a depth camera's errors (`pointworld.data.SensorConfig`).
        on_progress: called with 1 after every clip.

    Returns:
        Number of cached clips.

    Raises:
        InputError: no clips, no share, or the folder was made with other settings.
    """
    if not 0 <= noisy <= 1:
        raise InputError(f"noisy is {noisy}, expected a share of the clips from 0 to 1")
    clips = list_clips(data)
    target = Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    wanted = preparation or Preparation()
    settings = {"format": FORMAT, **wanted.settings(), "noisy": noisy}
    _check_settings(target, settings if cameras is None else settings | {"cameras": cameras})
    work = partial(_cache_file, folder=target, preparation=wanted, cameras=cameras, noisy=noisy)
    advance = on_progress or (lambda _: None)
    processes = workers if workers > 1 else 0
    for _ in unordered(work, clips, processes, initializer=torch.set_num_threads, initargs=(1,)):
        advance(1)
    return len(clips)


def _check_settings(folder: Path, settings: dict[str, object]) -> None:
    path = folder / "settings.json"
    if path.is_file():
        found = json.loads(path.read_text())
        if found != settings:
            other = sorted(k for k in {*found, *settings} if found.get(k) != settings.get(k))
            there = {name: found.get(name) for name in other}
            here = {name: settings.get(name) for name in other}
            raise InputError(
                f"{folder} was cached with {there}, this run wants {here}. Delete it, or choose another --cache folder."
            )
        return
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(settings) + "\n")


def read_cached(path: Path, *, domain: int = 0) -> CachedSample:
    """Read one cached sample, as one of `domain`.

    Raises:
        InputError: truncated or not a cached sample.
    """
    try:
        with safe_open(path, framework="pt") as archive:
            names = archive.metadata() or {}
            tensors = {key: archive.get_tensor(key) for key in archive.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path} is not a readable cached sample ({error}); delete it") from error
    if names.get("format") != FORMAT:
        raise InputError(f"{path}: format is {names.get('format')!r}, expected {FORMAT!r}")
    tensors.setdefault("features", None)
    clusters = point_clusters(tensors["points"], tensors["normals"])
    return CachedSample(
        **tensors,
        clusters=clusters,
        step_dt=float(names["step_dt"]),
        family=names["family"],
        key=names["key"],
        domain=domain,
    )


def read_cache(
    data: str | Path, folder: str | Path, *, limit: int | None = None, domain: int = 0
) -> Sequence[CachedSample]:
    """The samples of the clips of `data` that `build_cache` has put into `folder`, in memory, as those of `domain`.

    Clips that have come since, of a set that grows, are left out.

    Raises:
        InputError: none of the clips is cached, or a sample is damaged.
    """
    wanted = (_cached_path(Path(folder), clip) for clip in list_clips(data))
    files = [path for path in wanted if path.is_file()][:limit]
    if not files:
        raise InputError(f"{folder} holds no samples of the clips of {data}: cache them first")
    return [read_cached(path, domain=domain) for path in files]


def spread_out(items: Sequence[Item], count: int) -> Sequence[Item]:
    """At most `count` samples or clips, evenly spread over all of them, so that every folder has its share."""
    if len(items) <= count:
        return items
    return [items[i * len(items) // count] for i in range(count)]
