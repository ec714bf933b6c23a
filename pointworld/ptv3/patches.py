"""Patches of tokens along a curve: which rows attend to each other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True, eq=False)
class PatchPlan:
    """Where every token goes so that equal-length segments lie one after the other.

    gather: (slots,) token of every slot; tokens that also fill up a last patch occur twice.
    slot_of: (tokens,) slot whose output is the token's.
    filler_slots: slots whose output is dropped.
    groups: (number of segments, length) of runs of equal-length segments, in slot order.
    """

    gather: torch.Tensor
    slot_of: torch.Tensor
    filler_slots: torch.Tensor
    groups: tuple[tuple[int, int], ...]


def plan_patches(order: torch.Tensor, counts: Sequence[int], patch_size: int) -> PatchPlan:
    """Cuts every sample's tokens, taken along a curve, into patches.

    A sample with at most `patch_size` tokens is one segment. A longer one is cut into consecutive patches; the last
    one, where it is partial, is filled up with the tokens just before it, so that its queries attend to exactly
    the last `patch_size` tokens of the sample.

    Args:
        order: (tokens,) tokens along the curve, samples one after the other.
        counts: tokens per sample.
        patch_size: tokens per patch.
    """
    runs: dict[
        int, list[tuple[int, int, int]]
    ] = {}  # length -> (first, one past the last, dropped) in `order`
    first = 0
    for count in counts:
        if count > patch_size:
            whole = count - count % patch_size
            runs.setdefault(patch_size, []).append((first, first + whole, 0))
            if whole < count:
                tail = (first + count - patch_size, first + count, patch_size - count % patch_size)
                runs[patch_size].append(tail)
        elif count:
            runs.setdefault(count, []).append((first, first + count, 0))
        first += count
    pieces, fillers, groups, slot = [], [], [], 0
    for length, spans in runs.items():
        begin = slot
        for start, stop, dropped in spans:
            pieces.append(torch.arange(start, stop))
            if dropped:
                fillers.append(torch.arange(slot, slot + dropped))
            slot += stop - start
        groups.append(((slot - begin) // length, length))
    empty = torch.zeros(0, dtype=torch.int64)
    gather = order[torch.cat(pieces or [empty]).to(order.device)]
    filler_slots = torch.cat(fillers or [empty]).to(order.device)
    slots = torch.arange(len(gather), device=order.device)
    kept = torch.ones(len(gather), dtype=torch.bool, device=order.device)
    kept[filler_slots] = False
    slot_of = torch.empty_like(order)
    slot_of[gather[kept]] = slots[kept]
    return PatchPlan(
        gather=gather, slot_of=slot_of, filler_slots=filler_slots, groups=tuple(groups)
    )


class _ToSlots(torch.autograd.Function):
    """x[gather]; its gradient is a gather too, plus the few rows that were used twice."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, plan: PatchPlan) -> torch.Tensor:
        ctx.plan = plan
        return x.index_select(0, plan.gather)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, None]:
        plan: PatchPlan = ctx.plan
        result = grad.index_select(0, plan.slot_of)
        if len(plan.filler_slots):
            result.index_add_(0, plan.gather[plan.filler_slots], grad[plan.filler_slots])
        return result, None


class _FromSlots(torch.autograd.Function):
    """slots[slot_of]; the gradient of dropped slots is zero."""

    @staticmethod
    def forward(ctx: Any, slots: torch.Tensor, plan: PatchPlan) -> torch.Tensor:
        ctx.plan = plan
        return slots.index_select(0, plan.slot_of)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, None]:
        plan: PatchPlan = ctx.plan
        result = grad.index_select(0, plan.gather)
        if len(plan.filler_slots):
            result[plan.filler_slots] = 0
        return result, None


def to_slots(x: torch.Tensor, plan: PatchPlan) -> torch.Tensor:
    """(tokens, channels) -> (slots, channels)."""
    result: torch.Tensor = _ToSlots.apply(x, plan)
    return result


def from_slots(slots: torch.Tensor, plan: PatchPlan) -> torch.Tensor:
    """(slots, channels) -> (tokens, channels)."""
    result: torch.Tensor = _FromSlots.apply(slots, plan)
    return result
