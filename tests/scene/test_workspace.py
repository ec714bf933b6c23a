"""The crop box."""

from __future__ import annotations

import pytest
import torch

from pointworld.errors import InputError
from pointworld.scene import Workspace


def test_parse_and_contains() -> None:
    box = Workspace.parse("0,-1,-0.5, 1,1,0.5")
    assert box == Workspace((0, -1, -0.5), (1, 1, 0.5))
    assert Workspace.parse(str(box)) == box
    points = torch.tensor([[0.0, 0.0, 0.0], [1.0, 1.0, 0.5], [1.01, 0.0, 0.0], [0.5, 0.0, -0.6]])
    assert box.contains(points).tolist() == [True, True, False, False]
    assert box.center == pytest.approx([0.5, 0.0, 0.0])


@pytest.mark.rejects_input
@pytest.mark.parametrize(
    "text", ["1,2,3", "a,b,c,d,e,f", "0,0,0,1,1,-1", "0,0,0,1,1,nan", "0,0,0,0,1,1", ""]
)
def test_refuses(text: str) -> None:
    with pytest.raises(InputError, match="workspace"):
        Workspace.parse(text)
