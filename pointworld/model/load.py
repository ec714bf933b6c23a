"""`pointworld.load`: a model from a name, a checkpoint folder or a released file."""

from __future__ import annotations

import difflib
from pathlib import Path

import torch

from pointworld.errors import CheckpointError
from pointworld.model.checkpoint_io import DESCRIPTION, load_checkpoint
from pointworld.model.released_checkpoint import load_released
from pointworld.model.world_model import WorldModel

#: Checkpoints that come with the package, one folder each.
BUNDLED = Path(__file__).resolve().parents[1] / "checkpoints"


def bundled_checkpoints() -> tuple[str, ...]:
    """Names that `load` takes without a path."""
    return tuple(sorted(path.parent.name for path in BUNDLED.glob(f"*/{DESCRIPTION}")))


def find_checkpoint(name_or_path: str | Path) -> Path:
    """Folder or file of a checkpoint given by name or path; a path wins over a name.

    Raises:
        CheckpointError: neither exists.
    """
    path = Path(name_or_path).expanduser()
    if path.exists():
        return path
    names = bundled_checkpoints()
    if str(name_or_path) in names:
        return BUNDLED / str(name_or_path)
    close = difflib.get_close_matches(str(name_or_path), names, n=1)
    hint = f" Did you mean '{close[0]}'?" if close else ""
    raise CheckpointError(
        f"there is no checkpoint '{name_or_path}'.{hint} Expected a bundled name ({', '.join(names) or 'none here'}), "
        "a folder written by `pointworld train` or `pointworld checkpoint convert`, or a released .pt file"
    )


def load(name_or_path: str | Path, *, device: torch.device | str = "cpu") -> WorldModel:
    """Load a world model in evaluation mode.

    Args:
        name_or_path: a bundled name, a checkpoint folder, or a released `.pt`.
        device: where its parameters go.

    Raises:
        CheckpointError: it does not exist, is damaged, or does not match the architecture it claims.
    """
    path = find_checkpoint(name_or_path)
    if path.is_dir():
        return load_checkpoint(path, device=device)
    return load_released(path, device=device)
