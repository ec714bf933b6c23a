"""Choose a reader by looking at the folder."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from pointworld.capture import apc, native, nerfstudio, redwood, scannet, seven_scenes, tum
from pointworld.capture.listing import Listing, load_frame
from pointworld.errors import InputError
from pointworld.types import Capture


@dataclass(frozen=True, kw_only=True)
class Format:
    """A folder layout: how to know it, and how to list it."""

    looks_for: str
    matches: Callable[[Path], bool]
    list_frames: Callable[[Path], Listing]


FORMATS: tuple[Format, ...] = tuple(
    Format(looks_for=m.LOOKS_FOR, matches=m.matches, list_frames=m.list_frames)
    for m in (native, apc, seven_scenes, tum, nerfstudio, scannet, redwood)
)


def list_capture(path: str | Path) -> Listing:
    """Find out which format a folder has and list its frames, without reading pixels.

    Raises:
        InputError: the folder is missing, empty, of no known layout, or breaks its layout's rules.
    """
    folder = Path(path)
    if not folder.exists():
        raise InputError(f"{folder}: the capture folder does not exist")
    if not folder.is_dir():
        raise InputError(f"{folder}: a capture is a folder of frames, this is a file")
    for known in FORMATS:
        if known.matches(folder):
            listing = known.list_frames(folder)
            if not listing.entries:
                raise InputError(f"{folder}: a {listing.format} capture without frames")
            return listing
    wanted = "; ".join(known.looks_for for known in FORMATS)
    state = "the folder is empty" if not any(folder.iterdir()) else "no known capture layout"
    raise InputError(f"{folder}: {state}. Looked for: {wanted}. See docs/captures.md.")


def read_capture(
    path: str | Path,
    *,
    frames: Sequence[int] | None = None,
    check_unit: bool = True,
    advance: Callable[[int], None] | None = None,
) -> Capture:
    """Read a calibrated RGB-D capture in any known layout; depth comes registered to colour, in metres.

    Args:
        path: folder.
        frames: positions of the frames wanted, in that order; None = all. The others are not read.
        check_unit: refuse a median depth that no tabletop or room has (wrong depth unit).
        advance: called with 1 after every frame, for a progress bar.

    Raises:
        InputError: says which file is wrong, what was expected, and the remedy.
    """
    listing = list_capture(path)
    entries = listing.entries
    if frames is not None:
        for index in frames:
            if not -len(entries) <= index < len(entries):
                raise InputError(
                    f"frame index {index} is outside the capture's {len(entries)} frames "
                    f"(0..{len(entries) - 1})"
                )
        entries = tuple(entries[index] for index in frames)
    loaded = []
    for entry in entries:
        loaded.append(load_frame(entry, check_unit=check_unit))
        if advance is not None:
            advance(1)
    return Capture(
        frames=tuple(loaded),
        source=str(path),
        format=listing.format,
        T_world_base=listing.T_world_base,
        joint_names=listing.joint_names,
        robot=listing.robot,
    )
