"""What `pointworld train` and `pointworld statistics` share about released DROID and BEHAVIOR data."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

from pointworld.cli.common import progress
from pointworld.data.released import SplitManifest, read_manifest
from pointworld.data.released.decode import STEP_DT
from pointworld.data.released.index import ClipPlace, find_clips, require_unique
from pointworld.data.released.manifest import joined, write_manifest
from pointworld.data.released.robot import ROBOT_POINTS
from pointworld.data.released.wds import MIN_SHARD_BYTES
from pointworld.encoders import ImageEncoder
from pointworld.errors import InputError
from pointworld.model import ModelSpec
from pointworld.model.released_contract import ROBOT_LINKS
from pointworld.robot import RobotModel
from pointworld.train import Ranks
from pointworld.train.released_data import ReleasedFeed, StreamedClip


@dataclass(frozen=True, kw_only=True)
class ReleasedDataArgs:
    """Released data as training data."""

    released: tuple[Path, ...] = ()
    """Released DROID or BEHAVIOR data: folders of H5 files, or roots of shards <folder>/<split>/*.tar. Clips are read
    when they are drawn. The files say their domain."""
    split: str = "train"
    """Split of --released to train on."""
    manifest: tuple[Path, ...] = ()
    """The paper's lists of clips (wds_manifest.v1), one per domain, which split H5 files and narrow shards. H5 files
    without one are split by the release's rule for local data: one clip in ten is "test"."""
    droid_robot: str = "panda_robotiq"
    """Robot of DROID: name or URDF."""
    behavior_robot: str | None = None
    """URDF of BEHAVIOR's R1 Pro."""
    min_shard_bytes: int = MIN_SHARD_BYTES
    """Shards below this size are left out, as the release does."""


@dataclass(frozen=True, kw_only=True)
class FoundClips:
    """Released clips by split; the splits that H5 files got here, for want of a list of clips."""

    by_split: Mapping[str, tuple[ClipPlace, ...]]
    made: tuple[SplitManifest, ...] = ()

    @property
    def domains(self) -> tuple[str, ...]:
        """Their domains, sorted."""
        return tuple(sorted({p.domain for places in self.by_split.values() for p in places}))


def find_released(
    args: ReleasedDataArgs, splits: Sequence[str], folder: Path, workers: int, ranks: Ranks
) -> FoundClips:
    """The clips of `--released` in each split. The leading process looks first, and leaves what it found in `folder`.

    Raises:
        InputError: no data, no such split, a clip in two folders or in two splits, or no manifest.
    """
    if not args.released:
        if args.manifest:
            raise InputError("--manifest lists clips of --released, which is not given")
        return FoundClips(by_split=dict.fromkeys(splits, ()))
    lists = _manifests(args.manifest)
    if not ranks.leads:
        ranks.wait()
    found = FoundClips(by_split={split: () for split in splits})
    for root in args.released:
        with progress(None, f"clips of {root}") if ranks.leads else nullcontext() as advance:
            places = find_clips(
                root,
                tuple(dict.fromkeys(splits)),
                manifests=lists,
                min_shard_bytes=args.min_shard_bytes,
                index=folder / f"{_label(root)}.index.json",
                workers=workers,
                on_progress=advance,
            )
        found = FoundClips(
            by_split={s: (*found.by_split[s], *places.by_split[s]) for s in found.by_split},
            made=found.made if places.manifest is None else (*found.made, places.manifest),
        )
    if ranks.leads:
        for domain in sorted({manifest.domain for manifest in found.made}):
            parts = [manifest for manifest in found.made if manifest.domain == domain]
            write_manifest(folder / f"split-{domain}.json", joined(parts))
        ranks.wait()
    require_unique([place for places in found.by_split.values() for place in places])
    if unused := sorted(set(lists) - set(found.domains)):
        raise InputError(
            f"--manifest lists {', '.join(unused)} clips, --released holds {', '.join(found.domains)} clips"
        )
    return found


def _manifests(paths: Sequence[Path]) -> dict[str, SplitManifest]:
    lists: dict[str, SplitManifest] = {}
    for path in paths:
        manifest = read_manifest(path)
        if manifest.domain in lists:
            raise InputError(
                f"{path}: a second list of {manifest.domain} clips; give one per domain"
            )
        lists[manifest.domain] = manifest
    return lists


def _label(root: Path) -> str:
    """A file name for this root, other than that of any other."""
    code = hashlib.sha256(str(root.resolve()).encode()).hexdigest()
    return f"{root.resolve().name}-{code[:8]}"


def check_domains(found: FoundClips, checkpoint: str | None, spec: ModelSpec | None) -> None:
    """Refuse clips of domains that a released checkpoint does not know.

    Raises:
        InputError: it does not know one of them.
    """
    if spec is None or spec.mode != "released":
        return
    if strange := sorted(set(found.domains) - set(spec.domains)):
        raise InputError(
            f"--released holds {', '.join(strange)} clips, the checkpoint '{checkpoint}' knows "
            f"{', '.join(spec.domains)}: start from one of that domain"
        )


def released_robot(args: ReleasedDataArgs, domain: str) -> str:
    """Name or URDF of a domain's robot.

    Raises:
        InputError: BEHAVIOR's has to be given.
    """
    name = args.droid_robot if domain == "droid" else args.behavior_robot
    if name is None:
        raise InputError("BEHAVIOR clips need the URDF of the R1 Pro: --behavior-robot r1pro.urdf")
    return name


def robots_of(args: ReleasedDataArgs, domains: Sequence[str]) -> dict[str, RobotModel]:
    """The robot of every domain.

    Raises:
        InputError: as `released_robot`, or its files are broken.
    """
    return {domain: RobotModel.load(released_robot(args, domain)) for domain in domains}


def streamed(
    places: Sequence[ClipPlace],
    robots: Mapping[str, RobotModel],
    rows: Mapping[str, int],
    encoder: ImageEncoder | None,
) -> list[StreamedClip]:
    """Clips that are read when they are drawn.

    Args:
        robots, rows: of every domain, its robot and its row of the normalisation.
    """
    feeds = {
        domain: ReleasedFeed(robot=robot, domain=rows[domain], encoder=encoder)
        for domain, robot in robots.items()
    }
    return [StreamedClip(place, feeds[place.domain]) for place in places]


def for_released(spec: ModelSpec, released: Sequence[str]) -> ModelSpec:
    """The description of a new model whose domains `released` have released clips: their steps and grippers."""
    steps = tuple(STEP_DT[d] if d in released else spec.step_dt for d in spec.domains)
    links = tuple(ROBOT_LINKS[d] if d in released else spec.robot_links for d in spec.domains)
    return replace(
        spec,
        step_dt=steps[0],
        domain_step_dt=steps,
        robot_links=links[0],
        domain_robot_links=links,
        grippers=2 if "behavior" in released else 1,
    )


def as_in_release(spec: ModelSpec, encoder: ImageEncoder | None) -> ModelSpec:
    """The same for a new model with all conventions of the release."""
    return replace(
        spec,
        mode="released",
        features="released",
        sliding=False,
        sampling="released",
        encoder_layers=() if encoder is None else encoder.layers,
        simulated_domains=tuple(d for d in spec.domains if d == "behavior"),
        robot_tokens=0,
        context_points=0,
        max_robot_points=ROBOT_POINTS,
        head_init_scale=1.0 if "droid" in spec.domains else 0.0,
    )
