"""A clip of any family stays small."""

from __future__ import annotations

from pathlib import Path

import pytest

from pointworld.cli.app import main
from pointworld.data import list_clips, read_clip
from pointworld.data.families import REGISTRY

pytest.importorskip(
    "mujoco", reason="the simulator is an extra: pip install 'pointworld-open[sim]'"
)

#: As docs/data.md promises [bytes].
LIMIT = 200_000


@pytest.mark.slow
@pytest.mark.parametrize("family", sorted(REGISTRY))
def test_a_clip_of_the_default_size_is_at_most_200_kb(family: str, tmp_path: Path) -> None:
    command = ["generate", "--out", str(tmp_path), "--clips", "1", "--workers", "0", "--seed", "3"]
    assert main([*command, "--tabletop.families", family]) == 0
    (path,) = list_clips(tmp_path)
    assert read_clip(path).family == family
    assert 10_000 < path.stat().st_size <= LIMIT
