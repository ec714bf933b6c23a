"""Encoders by name."""

from __future__ import annotations

import difflib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from pointworld.encoders.lejepa import LeJEPAEncoder, load_lejepa, shipped_folder
from pointworld.encoders.protocol import ImageEncoder
from pointworld.encoders.rgb import RGBEncoder
from pointworld.encoders.vit import FAMILIES, Family, ViTEncoder
from pointworld.encoders.xfeat import XFeatEncoder
from pointworld.errors import InputError

PLAIN = ("rgb", "xfeat")
JEPA = "jepa"
USAGE = "rgb, xfeat, jepa[:FOLDER], dinov3:ID_OR_FOLDER, dinov2:ID_OR_FOLDER or vjepa2:ID_OR_FOLDER"


def load_encoder(
    spec: str,
    *,
    layers: Sequence[int] | None = None,
    device: torch.device | str = "cpu",
    local_files_only: bool = False,
) -> ImageEncoder:
    """Load a frozen image encoder.

    Args:
        spec: "rgb", "xfeat", "jepa" (the LeJEPA network that comes with the package), "jepa:FOLDER" (of
            `pointworld pretrain`), or "FAMILY:WHERE" with FAMILY one of dinov3, dinov2, vjepa2 and WHERE a local folder
            (config.json and model.safetensors, as `save_pretrained` writes them) or the id of a model on the
            Hugging Face hub, e.g. "dinov3:facebook/dinov3-vits16-pretrain-lvd1689m".
        layers: blocks of a transformer to use (0-based); None for the default of its depth.
        local_files_only: never contact the hub; a hub id must be in the local cache.

    Raises:
        InputError: the name is unknown, the folder is incomplete or of another family, or the model is neither in
            the cache nor reachable.
        CheckpointError: LeJEPA's weights are damaged.
        MissingExtraError: the package that brings XFeat's weights is not installed.
    """
    family_name, _, where = spec.partition(":")
    if family_name in PLAIN:
        if where or layers is not None:
            raise InputError(f"encoder '{spec}': '{family_name}' takes neither a path nor layers")
        return RGBEncoder() if family_name == "rgb" else XFeatEncoder(device=device)
    if family_name == JEPA:
        folder = Path(where).expanduser() if where else shipped_folder()
        return LeJEPAEncoder(load_lejepa(folder), name=spec, layers=layers, device=device)
    family = FAMILIES.get(family_name)
    if family is None:
        close = difflib.get_close_matches(family_name, [*PLAIN, JEPA, *FAMILIES], n=1)
        hint = f" Did you mean '{close[0]}'?" if close else ""
        raise InputError(f"unknown image encoder '{spec}'.{hint} Expected {USAGE}.")
    if not where:
        raise InputError(
            f"encoder '{spec}' names no model. Expected {family_name}:FOLDER or {family_name}:HUB_ID."
        )
    model = _load_model(family, where, spec, local_files_only=local_files_only)
    return ViTEncoder(model, name=spec, layers=layers, device=device)


def _load_model(
    family: Family, where: str, spec: str, *, local_files_only: bool
) -> torch.nn.Module:
    folder = Path(where).expanduser()
    if folder.exists() or where.startswith(("/", ".", "~")):
        _check_folder(folder, family, spec)
        config = json.loads((folder / "config.json").read_text())
        return _from_pretrained(
            _model_class(family, config["model_type"]), str(folder), spec, local=True
        )
    try:  # The cache first: it is fast, works offline, and a frozen encoder should not change under its user.
        return _from_hub(family, where, spec, local=True)
    except _NotLoadedError:
        if local_files_only:
            raise
    return _from_hub(family, where, spec, local=False)


class _NotLoadedError(InputError):
    """The files are absent, unreachable or broken, as opposed to being of the wrong kind."""


def _from_hub(family: Family, model_id: str, spec: str, *, local: bool) -> torch.nn.Module:
    model_type = _hub_model_type(model_id, family, spec, local_files_only=local)
    return _from_pretrained(_model_class(family, model_type), model_id, spec, local=local)


def _check_folder(folder: Path, family: Family, spec: str) -> None:
    if not folder.is_dir():
        raise InputError(f"encoder '{spec}': there is no folder {folder}")
    config_path = folder / "config.json"
    if not config_path.is_file():
        raise InputError(
            f"encoder '{spec}': {folder} has no config.json. Expected a folder written by save_pretrained "
            "(config.json and model.safetensors)."
        )
    try:
        model_type = json.loads(config_path.read_text()).get("model_type")
    except (json.JSONDecodeError, UnicodeDecodeError, AttributeError) as error:
        raise InputError(
            f"encoder '{spec}': {config_path} is not a JSON object ({error})"
        ) from error
    _check_family(model_type, family, spec)
    if not any(folder.glob("*.safetensors")):
        raise InputError(
            f"encoder '{spec}': {folder} has no .safetensors file. Pickled weights are not read; convert them with "
            "save_pretrained(folder, safe_serialization=True)."
        )


def _check_family(model_type: Any, family: Family, spec: str) -> None:
    if model_type in family.model_types:
        return
    other = next((name for name, f in FAMILIES.items() if model_type in f.model_types), None)
    hint = f" Use {other}:{spec.partition(':')[2]}." if other else ""
    raise InputError(
        f"encoder '{spec}': the model is of type '{model_type}', expected {family.label} "
        f"({', '.join(family.model_types)}).{hint}"
    )


def _hub_model_type(model_id: str, family: Family, spec: str, *, local_files_only: bool) -> str:
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(model_id, local_files_only=local_files_only)
    except (OSError, ValueError) as error:
        raise _unreachable(spec, model_id, error) from error
    _check_family(config.model_type, family, spec)
    return str(config.model_type)


def _model_class(family: Family, model_type: str) -> Any:
    import transformers

    return getattr(transformers, family.model_types[model_type])


def _from_pretrained(model_class: Any, where: str, spec: str, *, local: bool) -> torch.nn.Module:
    try:
        model, report = model_class.from_pretrained(
            where,
            local_files_only=local,
            use_safetensors=True,
            dtype=torch.float32,
            output_loading_info=True,
        )
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise _unreachable(spec, where, error) from error
    missing = sorted(report["missing_keys"])
    if missing:
        raise InputError(
            f"encoder '{spec}': {len(missing)} weights are missing from the file, e.g. {missing[:3]}. They would be "
            "random; the file belongs to another architecture than its config.json."
        )
    loaded: torch.nn.Module = model
    return loaded


def _unreachable(spec: str, where: str, error: Exception) -> _NotLoadedError:
    first_line = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return _NotLoadedError(
        f"encoder '{spec}': '{where}' cannot be loaded ({first_line}). A hub id must be in the local cache or "
        "reachable (gated models need a token); offline, download the model elsewhere and give its folder: "
        f"{spec.partition(':')[0]}:/path/to/folder."
    )
