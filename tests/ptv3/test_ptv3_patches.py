"""Attention patches against a definition by masks, and their gradients."""

from __future__ import annotations

import pytest
import torch

from pointworld.ptv3.backbone import PatchAttention
from pointworld.ptv3.patches import from_slots, plan_patches, to_slots


def _order(counts: list[int], generator: torch.Generator) -> torch.Tensor:
    pieces, first = [], 0
    for count in counts:
        pieces.append(first + torch.randperm(count, generator=generator))
        first += count
    return torch.cat(pieces)


def _visible(order: torch.Tensor, counts: list[int], size: int) -> torch.Tensor:
    """(tokens, tokens) bool: who attends to whom, from the documented rule."""
    visible = torch.zeros(len(order), len(order), dtype=torch.bool)
    first = 0
    for count in counts:
        own = order[first : first + count]
        for start in range(0, count, size):
            queries = own[start : start + size]
            last_is_partial = count > size and start + size > count
            keys = own[-size:] if last_is_partial else queries
            visible[queries[:, None], keys[None, :]] = True
        first += count
    return visible


@pytest.mark.parametrize("counts", [[5], [8], [9], [20, 3], [16, 8, 0, 23, 1], [7, 7, 30]])
def test_attention_equals_masked_attention(counts: list[int], generator: torch.Generator) -> None:
    attention = PatchAttention(12, 3).double()
    for parameter in attention.parameters():
        torch.nn.init.normal_(parameter, std=0.5, generator=generator)
    order = _order(counts, generator)
    x = torch.randn(len(order), 12, generator=generator, dtype=torch.float64)
    q, k, v = attention.qkv(x).view(-1, 3, 3, 4).permute(1, 2, 0, 3)
    scores = (q @ k.transpose(1, 2)) * 4**-0.5
    scores = scores.masked_fill(~_visible(order, counts, 8), -torch.inf)
    expected = attention.proj((scores.softmax(-1) @ v).transpose(0, 1).reshape(-1, 12))
    got = attention(x, plan_patches(order, counts, 8))
    torch.testing.assert_close(got, expected, atol=1e-12, rtol=0)


def test_gradients_through_slots(generator: torch.Generator) -> None:
    plan = plan_patches(_order([11, 3], generator), [11, 3], 4)
    assert len(plan.filler_slots) == 1 and plan.groups == ((3, 4), (1, 3))
    x = torch.randn(14, 2, generator=generator, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(len(plan.gather), 2, generator=generator, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda x: to_slots(x, plan) * weight, (x,))
    assert torch.autograd.gradcheck(lambda x: from_slots(to_slots(x, plan) ** 2, plan), (x,))


def test_slots_return_every_token_to_its_place(generator: torch.Generator) -> None:
    plan = plan_patches(_order([300, 256, 10, 1000], generator), [300, 256, 10, 1000], 256)
    x = torch.randn(1566, 3, generator=generator)
    assert torch.equal(from_slots(to_slots(x, plan), plan), x)
