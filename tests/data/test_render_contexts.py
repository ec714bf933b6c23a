"""Renderers of several sizes beside each other in one thread."""

from __future__ import annotations

import gc
from dataclasses import replace

import numpy as np
import pytest

from pointworld.data import ClipGenerator, TabletopConfig
from pointworld.data.render import RenderedView
from pointworld.data.robot_tree import RobotTree
from pointworld.errors import InputError
from tests.data.conftest import SEED


def test_a_renderer_works_on_after_another_has_come_and_gone(
    tree: RobotTree, config: TabletopConfig
) -> None:
    try:
        first = ClipGenerator.create(tree, "fr3", config, "gl")
    except InputError as error:
        pytest.skip(f"no OpenGL: {error}")
    before = first.draw(SEED, 0).views
    other_config = replace(config, height=config.height // 2, width=config.width // 2)
    other = ClipGenerator.create(tree, "fr3", other_config, "gl")
    assert other.draw(SEED, 0).views[0].depth.shape == (config.height // 2, config.width // 2)
    del other
    gc.collect()
    _same(before, first.draw(SEED, 0).views)


def test_a_renderer_starts_again_after_its_display_was_ended(
    tree: RobotTree, config: TabletopConfig
) -> None:
    try:
        generator = ClipGenerator.create(tree, "fr3", config, "gl")
    except InputError as error:
        pytest.skip(f"no OpenGL: {error}")
    import mujoco.egl
    from OpenGL import EGL

    if mujoco.egl.EGL_DISPLAY is None:
        pytest.skip("OpenGL without EGL")
    before = generator.draw(SEED, 0).views
    EGL.eglTerminate(mujoco.egl.EGL_DISPLAY)
    _same(before, generator.draw(SEED, 0).views)
    EGL.eglTerminate(mujoco.egl.EGL_DISPLAY)
    _same(before, ClipGenerator.create(tree, "fr3", config, "gl").draw(SEED, 0).views)
    gc.collect()
    _same(before, generator.draw(SEED, 0).views)


def _same(before: tuple[RenderedView, ...], after: tuple[RenderedView, ...]) -> None:
    for one, two in zip(before, after, strict=True):
        assert np.array_equal(one.rgb, two.rgb) and np.array_equal(one.depth, two.depth)
