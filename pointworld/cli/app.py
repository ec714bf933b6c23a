"""Entry point: `pointworld <command> ...` finds the command's module, runs it, and turns errors into one line."""

from __future__ import annotations

import difflib
import importlib
import os
import sys
from collections.abc import Sequence

from pointworld.errors import PointWorldError

COMMANDS: dict[str, tuple[str, str]] = {
    "demo": (
        "demo",
        "the whole pipeline on a bundled or your own capture, with pictures and a report",
    ),
    "predict": ("predict", "predict the 3D flow of a captured scene under a planned joint motion"),
    "view": ("view", "look at a prediction: window, screenshot or video"),
    "reconstruct": ("reconstruct", "fuse a capture into coloured points and a mesh"),
    "generate": ("generate", "make simulated training clips"),
    "shards pack": ("shards_pack", "turn a folder of clips into WebDataset shards"),
    "shards check": ("shards_check", "compare shards with their checksums"),
    "train": ("train", "train a world model"),
    "pretrain": ("pretrain", "teach an image encoder to see, from pictures alone (LeJEPA)"),
    "train gnn": ("train_gnn", "train the graph-network baseline"),
    "statistics": ("statistics", "measure the normalisation of training clips, per domain"),
    "evaluate": ("evaluate", "measure a world model against baselines"),
    "ablate": ("ablate", "what each part of the training recipe is worth"),
    "splat fit": ("splat_fit", "turn a capture into Gaussians and measure them on held-out frames"),
    "splat render": ("splat_render", "render a scene, still or moved by a predicted flow"),
    "splat query": ("splat_query", "find the object at a pixel, in a box, or like an example"),
    "splat edit": ("splat_edit", "remove, move, copy, recolour or extract an object of a scene"),
    "splat simulate": (
        "splat_simulate",
        "an object of a scene as jelly, clay or sand, pulled down and pushed",
    ),
    "splat mesh": ("splat_mesh", "a mesh of a scene, and collision geometry for simulators"),
    "capture record": ("capture_record", "record an arm and its cameras, moving nothing"),
    "capture convert": ("capture_convert", "read any supported capture and write it in our layout"),
    "capture label": ("capture_label", "turn recordings and joint logs into training clips"),
    "capture score": ("capture_score", "measure checkpoints on labelled recordings"),
    "capture simulate": ("capture_simulate", "make recordings without a robot, to try things"),
    "doctor capture": ("doctor_capture", "check a capture: calibration, depth, poses"),
    "doctor robot": (
        "doctor_robot",
        "check an arm, its connection and this machine; moves nothing",
    ),
    "mpc": ("mpc", "plan and act until the goal is reached, in simulation or on an arm"),
    "goal": ("goal", "write goal.json: which points of a capture should go where"),
    "calibrate": ("calibrate", "find where a camera is, from images of a board"),
    "checkpoint inspect": ("checkpoint_inspect", "say what is in a checkpoint"),
    "checkpoint convert": ("checkpoint_convert", "turn a released .pt into safetensors + JSON"),
}


def usage() -> str:
    """The command list shown by `pointworld --help`."""
    width = max(len(name) for name in COMMANDS)
    lines = [f"  {name:<{width}}  {purpose}" for name, (_, purpose) in COMMANDS.items()]
    return (
        "usage: pointworld <command> [options]\n\n"
        "A 3D world model for robots: RGB-D in, predicted 3D flow out.\n\ncommands:\n"
        + "\n".join(lines)
        + "\n\nEvery command explains itself: pointworld <command> --help\nFirst time? Try: pointworld demo\n"
    )


def find_command(argv: Sequence[str]) -> tuple[str, list[str]] | None:
    """Longest known command at the start of `argv`, and the arguments after it."""
    for words in (2, 1):
        name = " ".join(argv[:words])
        if len(argv) >= words and name in COMMANDS:
            return name, list(argv[words:])
    return None


def _unknown(argv: Sequence[str]) -> str:
    typed = " ".join(argv[:2])
    group = [name for name in COMMANDS if name.startswith(argv[0] + " ")]
    if group:
        return f"'{argv[0]}' needs one of: " + ", ".join(name.split()[1] for name in group)
    close = difflib.get_close_matches(typed, COMMANDS, n=1) or difflib.get_close_matches(
        argv[0], COMMANDS, n=1
    )
    hint = f" Did you mean '{close[0]}'?" if close else ""
    return f"unknown command '{argv[0]}'.{hint} See: pointworld --help"


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code: 0 done, 2 bad input, 130 interrupted, 141 nobody reads."""
    # A second process on the same cores makes OpenMP's spinning barriers collapse; waiting passively does not.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or arguments[0] in ("-h", "--help"):
        sys.stdout.write(usage())
        return 0
    if arguments[0] == "--version":
        from pointworld.cli.common import package_version

        sys.stdout.write(f"pointworld {package_version()}\n")
        return 0
    found = find_command(arguments)
    if found is None:
        sys.stderr.write(f"error: {_unknown(arguments)}\n")
        return 2
    name, rest = found
    module = importlib.import_module(f"pointworld.cli.{COMMANDS[name][0]}")
    try:
        try:
            return int(module.main(rest))
        finally:
            # Here, where it can be caught, and not at the very end: see below.
            sys.stdout.flush()
    except PointWorldError as error:
        sys.stderr.write("error: " + " ".join(str(error).split()) + "\n")
        return 2
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        return 130
    except BrokenPipeError:
        # Who reads our words has enough of them (`pointworld ... | head`); Python would complain once more at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141


if __name__ == "__main__":
    raise SystemExit(main())
