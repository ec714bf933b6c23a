"""Lists that travel with the released data: splits, integrity results, and how clips are mixed and repeated."""

from __future__ import annotations

import json
import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from pointworld.data.released.layout import canonical_key, check_domain
from pointworld.errors import InputError
from pointworld.files import write_json

T = TypeVar("T")
SPLIT_SCHEMA = "wds_manifest.v1"
#: A released list of clips is a few megabytes.
_MAX_BYTES = 1 << 28


@dataclass(frozen=True, kw_only=True)
class SplitManifest:
    """A `wds_manifest.v1`: which clips are the test split, with canonical ids.

    include: the clips that were selected at all, or None for all.
    """

    domain: str
    seed: int
    test_percentage: float
    test_keys: frozenset[str]
    include: frozenset[str] | None

    def split_of(self, key: str) -> str | None:
        """ "train", "test", or None for a clip that was not selected; `_flows` in the id does not matter."""
        canonical = canonical_key(key)
        if self.include is not None and canonical not in self.include:
            return None
        return "test" if canonical in self.test_keys else "train"


def read_manifest(path: str | Path) -> SplitManifest:
    """Read a split manifest.

    Raises:
        InputError: another schema, or fields that are missing or of the wrong type.
    """
    content = _read_json(path)
    if content.get("schema_version") != SPLIT_SCHEMA:
        raise InputError(
            f"{path}: schema_version is {content.get('schema_version')!r}, expected {SPLIT_SCHEMA!r}"
        )
    try:
        test, include = content["test_clip_keys"], content.get("include_clip_keys")
        manifest = SplitManifest(
            domain=check_domain(content["domain"], str(path)),
            seed=int(content["seed"]),
            test_percentage=float(content["test_percentage"]),
            test_keys=_keys(test),
            include=None if include is None else _keys(include),
        )
        claimed = int(content.get("stats", {}).get("num_selected_test", len(test)))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path}: a field is missing or of the wrong type ({error})") from error
    if claimed != len(test):
        raise InputError(f"{path}: stats say {claimed} test clips, {len(test)} are listed")
    return manifest


def _keys(values: Any) -> frozenset[str]:
    if not isinstance(values, list) or not all(isinstance(v, str) for v in values):
        raise TypeError("clip keys are no list of strings")
    return frozenset(canonical_key(v) for v in values)


def write_manifest(path: str | Path, manifest: SplitManifest) -> None:
    """Write a manifest that `read_manifest`, and the release, read."""
    keys = sorted(manifest.test_keys)
    selected = len(keys) if manifest.include is None else len(manifest.include)
    content: dict[str, Any] = {
        "schema_version": SPLIT_SCHEMA,
        "domain": manifest.domain,
        "seed": manifest.seed,
        "test_percentage": manifest.test_percentage,
        "stats": {"num_selected_total": selected, "num_selected_test": len(keys)},
        "test_clip_keys": keys,
    }
    if manifest.include is not None:
        content["include_clip_keys"] = sorted(manifest.include)
    write_json(path, content)


def joined(manifests: Sequence[SplitManifest]) -> SplitManifest:
    """One manifest of the clips of several that were made by one rule for one domain."""
    first = manifests[0]
    included = [m.include for m in manifests if m.include is not None]
    return replace(
        first,
        test_keys=frozenset().union(*(m.test_keys for m in manifests)),
        include=frozenset().union(*included) if len(included) == len(manifests) else None,
    )


def local_manifest(
    domain: str, keys: Iterable[str], *, seed: int = 42, test_share: float = 0.1
) -> SplitManifest:
    """The manifest of `local_split`."""
    train, test = local_split(keys, seed=seed, test_share=test_share)
    return SplitManifest(
        domain=domain,
        seed=seed,
        test_percentage=test_share,
        test_keys=frozenset(test),
        include=frozenset((*train, *test)),
    )


def local_split(
    keys: Iterable[str], *, seed: int = 42, test_share: float = 0.1
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Train and test ids by the release's rule: sort, shuffle with Python's Random(seed), the last share is test.

    Overlapping windows of one episode fall on both sides; the release does the same.
    """
    order = sorted(canonical_key(key) for key in keys)
    random.Random(seed).shuffle(order)
    count = int(len(order) * test_share)
    return tuple(order[: len(order) - count]), tuple(order[len(order) - count :])


def read_integrity(path: str | Path) -> tuple[tuple[str, str], ...]:
    """(H5 file, clip) pairs that an `integrity_check.json` calls valid."""
    pairs = _read_json(path).get("valid_clips")
    if not isinstance(pairs, list) or not all(
        isinstance(p, list) and len(p) == 2 and all(isinstance(v, str) for v in p) for p in pairs
    ):
        raise InputError(f"{path}: valid_clips is no list of [file, clip] pairs")
    return tuple((p[0], p[1]) for p in pairs)


def _read_json(path: str | Path) -> Mapping[str, Any]:
    source = Path(path)
    if not source.is_file() or source.stat().st_size > _MAX_BYTES:
        raise InputError(f"{source}: no such file, or above {_MAX_BYTES} bytes")
    try:
        content = json.loads(source.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{source}: not readable JSON ({error})") from error
    if not isinstance(content, dict):
        raise InputError(f"{source}: expected one JSON object")
    return content


def resampled(items: Sequence[T], rng: np.random.Generator) -> Iterator[T]:
    """Endless draws with replacement: how training goes through shards."""
    if not items:
        raise InputError("nothing to draw from")
    while True:
        yield items[int(rng.integers(len(items)))]


def mixed(sources: Sequence[Iterator[T]], rng: np.random.Generator) -> Iterator[T]:
    """Domains with equal chances (training); ends with the first source that ends."""
    for source in resampled(sources, rng):
        try:
            yield next(source)
        except StopIteration:
            return


def round_robin(sources: Sequence[Iterator[T]]) -> Iterator[T]:
    """One of each domain in turn (evaluation); ends with the shortest."""
    for row in zip(*sources, strict=False):
        yield from row
