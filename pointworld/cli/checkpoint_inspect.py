"""`pointworld checkpoint inspect`: what a checkpoint is, without running it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from pointworld.cli.common import console, parse, stdout_json
from pointworld.model import find_checkpoint, read_released
from pointworld.model.checkpoint_io import inspect_checkpoint
from pointworld.model.released_checkpoint import summary


@dataclass(frozen=True, kw_only=True)
class InspectArgs:
    """Say what a checkpoint holds and whether it is whole: architecture, domains, time step, robot, sizes.

    Example:
        pointworld checkpoint inspect model-best.pt
    """

    checkpoint: Annotated[Path, tyro.conf.Positional]
    """Bundled name, checkpoint folder or released .pt."""
    json: bool = False
    """Print one JSON object on stdout."""


def main(argv: list[str]) -> int:
    """Run the command."""
    args = parse(InspectArgs, argv, prog="pointworld checkpoint inspect")
    report = inspect(args.checkpoint)
    if args.json:
        stdout_json(report)
    else:
        for line in readable(report):
            console.print(line, markup=False)
    return 0


def inspect(name_or_path: Path) -> dict[str, Any]:
    """The report as plain values; raises CheckpointError where the checkpoint is damaged or unknown."""
    path = find_checkpoint(name_or_path)
    return inspect_checkpoint(path) if path.is_dir() else summary(read_released(path))


def readable(report: dict[str, Any]) -> list[str]:
    """Lines for people."""
    spec = report["spec"]
    lines = [
        f"{report['kind']} checkpoint {report['file']} ({report['bytes'] / 1e6:.1f} MB, {report['keys']} tensors)",
        f"architecture  {spec['arch']['name']}, width {spec['arch']['in_channels']}, "
        f"{report['trainable_parameters']:,} trainable parameters, mode {spec['mode']}",
        f"image encoder {spec['encoder'] or 'none'}, {report['encoder_parameters']:,} parameters in the file",
        f"time          {spec['horizon']} steps of {spec['step_dt']:.4g} s",
        f"domains       {', '.join(spec['domains'])}",
        f"robot         {spec['robot']}, links {_links(spec['robot_links'])}",
        f"points        at most {spec['max_scene_points']} scene, {spec['max_robot_points']} robot; "
        f"voxels of {spec['grid_size'] * 100:g} cm",
    ]
    if report.get("optimizer_bytes"):
        lines.append(
            f"optimizer     {report['optimizer_bytes'] / 1e9:.2f} GB, not needed to predict: "
            "`pointworld checkpoint convert` leaves it out"
        )
    return lines


def _links(links: str | list[str]) -> str:
    return links if isinstance(links, str) else ", ".join(links)
