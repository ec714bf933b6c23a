"""Sizes: parameter counts of the released backbones, the limits of ours, and the description's round trip."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from pointworld.errors import InputError
from pointworld.ptv3.arch import PTv3Arch
from pointworld.ptv3.backbone import PTv3
from pointworld.ptv3.flops import forward_flops
from pointworld.ptv3.levels import Pyramid, stable_pyramid
from tests.ptv3.clouds import surface_tokens

RELEASED = [
    (PTv3Arch.small(), 50_417_280, 448),
    (PTv3Arch.base(), 409_479_424, 1084),
    (PTv3Arch.large(), 983_821_568, 1444),
]


@pytest.mark.parametrize(("arch", "parameters", "tensors"), RELEASED)
def test_released_sizes(arch: PTv3Arch, parameters: int, tensors: int) -> None:
    with torch.device("meta"):
        network = PTv3(arch)
    state = network.state_dict()
    assert sum(value.numel() for value in state.values()) == parameters
    assert len(state) == tensors


def _pyramid(arch: PTv3Arch, tokens: int, generator: torch.Generator) -> Pyramid:
    coords, batch = surface_tokens(tokens, generator)
    return stable_pyramid(
        coords,
        batch,
        1,
        arch=arch,
        grid_size=0.015,
        rank=torch.zeros_like(batch),
        features=torch.zeros(tokens, 1),
    )


def test_tiny_keeps_its_limits(generator: torch.Generator) -> None:
    arch = PTv3Arch.tiny()
    assert sum(value.numel() for value in PTv3(arch).state_dict().values()) <= 2_700_000
    assert forward_flops(arch, _pyramid(arch, 2000, generator)) <= 1.4e9


def test_flops_equal_those_counted(generator: torch.Generator) -> None:
    arch = PTv3Arch.tiny()
    pyramid = _pyramid(arch, 600, generator)
    network = PTv3(arch).eval()
    with torch.no_grad(), torch.backends.mkldnn.flags(enabled=False):  # it does not know oneDNN's
        for parameter in network.parameters():
            parameter.fill_(0.01)
        with FlopCounterMode(display=False) as counter:
            network(torch.zeros(600, arch.in_channels), pyramid)
    attention = 0  # the counter does not see the CPU attention kernel
    for s, level in enumerate(pyramid.levels):
        widths = [(arch.enc_channels[s], arch.enc_depths[s])]
        widths += [(arch.dec_channels[s], arch.dec_depths[s])] if s < len(arch.dec_depths) else []
        for width, depth in widths:
            for index in range(depth):
                attention += sum(
                    4 * width * n * length**2 for n, length in level.plan(index).groups
                )
    assert counter.get_total_flops() in (
        forward_flops(arch, pyramid) - attention,
        forward_flops(arch, pyramid),
    )


@pytest.mark.parametrize("arch", [PTv3Arch.tiny(), *(entry[0] for entry in RELEASED)])
def test_description_survives_json(arch: PTv3Arch) -> None:
    assert PTv3Arch.from_dict(json.loads(json.dumps(arch.to_dict()))) == arch


@pytest.mark.rejects_input
def test_bad_descriptions_are_refused() -> None:
    good = PTv3Arch.tiny().to_dict()
    for change, message in (
        ({"enc_heads": (3, 2, 3, 4)}, "multiple"),
        ({"dec_depths": (1, 1)}, "expected 3"),
        ({"curves": ("z", "peano")}, "peano"),
        ({"patch_size": 0}, "patch_size"),
        ({"width": 3}, "unknown entries"),
    ):
        with pytest.raises(InputError, match=message):
            PTv3Arch.from_dict({**good, **change})
    with pytest.raises(InputError, match="missing entries"):
        PTv3Arch.from_dict({"name": "x"})
    for build, most in ((PTv3Arch.small, 128), (PTv3Arch.base, 256), (PTv3Arch.tiny, 64)):
        with pytest.raises(InputError, match=f"1 to {most}"):
            build(most + 1)
    assert dataclasses.is_dataclass(PTv3Arch)
