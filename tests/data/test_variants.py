"""Held-out classes of fixtures, tools and containers: every family draws from both sets, which share nothing."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest

from pointworld.data import TabletopConfig
from pointworld.data.families import REGISTRY
from pointworld.data.families.variants import VARIANTS, draw_variant
from pointworld.data.tabletop import SceneSpec

_WITH_CLASSES = ("drawer", "door", "lid", "knob", "broom", "duster", "spatula", "scarf", "pillow")


def _scenes(family: str, shapes: str, count: int) -> list[SceneSpec]:
    rng, found = np.random.default_rng(3), []
    config = TabletopConfig(shapes=shapes, families=(family,))  # type: ignore[arg-type]
    while len(found) < count:
        scene = REGISTRY[family].draw_scene(rng, config)
        if scene is not None:
            found.append(scene)
    return found


def _classes(scenes: list[SceneSpec]) -> set[str]:
    props: list[Mapping[str, str]] = [prop.shapes for scene in scenes for prop in scene.props]
    return {name for shapes in props for name in shapes.values()}


def test_held_out_classes_are_never_in_training() -> None:
    for kind, (train, test) in VARIANTS.items():
        assert train and test and not set(train) & set(test), kind
        rng = np.random.default_rng(0)
        for shapes, expected in (("train", train), ("test", test), ("all", train + test)):
            assert {draw_variant(rng, kind, shapes) for _ in range(200)} == set(expected)


@pytest.mark.parametrize("family", _WITH_CLASSES)
def test_scenes_have_classes_of_their_set(family: str) -> None:
    train, test = VARIANTS[family]
    assert _classes(_scenes(family, "train", 24)) == {f"{family}_{name}" for name in train}
    assert _classes(_scenes(family, "test", 24)) == {f"{family}_{name}" for name in test}


@pytest.mark.parametrize("family", ["tray", "broom"])
def test_small_things_have_classes_of_their_set(family: str) -> None:
    for k, shapes in enumerate(("train", "test")):
        names = {o.shape.name for scene in _scenes(family, shapes, 12) for o in scene.objects}
        allowed = set(VARIANTS["small"][k]) | set(VARIANTS["tray"][k])
        assert names <= allowed and names & set(VARIANTS["small"][k])
