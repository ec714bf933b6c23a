"""The learning curve as a picture."""

from __future__ import annotations

import csv
from pathlib import Path

from pointworld.errors import InputError
from pointworld.files import atomic_path


def read_curve(path: str | Path) -> list[dict[str, float]]:
    """Rows of a learning curve written by the trainer.

    Raises:
        InputError: no such file, or no rows.
    """
    source = Path(path)
    if not source.is_file():
        raise InputError(f"{source}: no such file")
    with source.open(newline="") as file:
        rows = [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]
    if not rows:
        raise InputError(f"{source} has no rows yet")
    return rows


def plot_curve(source: str | Path, target: str | Path) -> list[dict[str, float]]:
    """Draw mover error over no motion, and the error of points at rest, over minutes; returns the rows."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows = read_curve(source)
    minutes = [row["minutes"] for row in rows]
    figure = Figure(figsize=(9, 4), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    movers, rest = figure.subplots(1, 2)
    movers.plot(minutes, [row["moved_ratio"] for row in rows], color="#c0392b", marker=".")
    movers.set(xlabel="minutes of training", ylabel="mover error / no motion", ylim=(0, 1))
    rest.plot(minutes, [row["rest_mm"] for row in rows], color="#2c3e50", marker=".")
    rest.set(xlabel="minutes of training", ylabel="error of points at rest [mm]", yscale="log")
    for axes in (movers, rest):
        axes.grid(alpha=0.3)
    figure.suptitle(
        f"validation clips, averaged weights ({int(rows[-1]['samples']):,} samples seen)"
    )
    with atomic_path(target) as temporary:
        figure.savefig(temporary)
    return rows
