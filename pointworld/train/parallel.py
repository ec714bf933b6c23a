"""The processes of one training run, as `torchrun` starts them; one process when it did not."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta

import torch
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel

Tensor = torch.Tensor

#: A process that hears nothing from the others for so long gives up, while they train.
TIMEOUT = timedelta(minutes=5)
#: The same while one process makes the samples of all, which takes hours with a large image encoder.
PATIENCE = timedelta(hours=24)


@dataclass(frozen=True, kw_only=True)
class Ranks:
    """rank: number of this process. world: number of processes. device: where this one computes.

    patient: the same processes, for what takes long in one of them.
    """

    rank: int = 0
    world: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    patient: distributed.ProcessGroup | None = None

    @property
    def leads(self) -> bool:
        """This process writes files and reports."""
        return self.rank == 0

    def mine(self, items: int) -> range:
        """Indices of a batch of `items` that this process computes."""
        return range(self.rank, items, self.world)

    def wrap(self, model: nn.Module) -> nn.Module:
        """The model whose backward pass averages gradients over the processes."""
        return model if self.world == 1 else DistributedDataParallel(model)

    def total(self, value: Tensor) -> Tensor:
        """Sum of a scalar over the processes."""
        if self.world == 1:
            return value.detach()
        summed = value.detach().clone()
        distributed.all_reduce(summed)
        return summed

    def wait(self) -> None:
        """Until every process is here, however long one of them takes (`PATIENCE`)."""
        if self.world > 1:
            distributed.barrier(group=self.patient)

    def agree(self, value: float) -> float:
        """The leading process's value, in all of them."""
        if self.world == 1:
            return value
        shared = torch.tensor([value], dtype=torch.float64, device=self.device)
        distributed.broadcast(shared, src=0)
        return float(shared)


@contextmanager
def joined_ranks(device: torch.device | str = "cpu") -> Iterator[Ranks]:
    """Join the other processes of a `torchrun` (gloo on CPUs, NCCL on GPUs), and leave them at the end.

    Source: torchrun's environment variables RANK, LOCAL_RANK and WORLD_SIZE.
    """
    world = int(os.environ.get("WORLD_SIZE", "1"))
    chosen = torch.device(device)
    if world == 1:
        yield Ranks(device=chosen)
        return
    if chosen.type == "cuda":
        chosen = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        torch.cuda.set_device(chosen)
    distributed.init_process_group("nccl" if chosen.type == "cuda" else "gloo", timeout=TIMEOUT)
    # gloo on GPUs too: NCCL would keep the device busy with waiting.
    patient = distributed.new_group(backend="gloo", timeout=PATIENCE)
    try:
        yield Ranks(rank=distributed.get_rank(), world=world, device=chosen, patient=patient)
    finally:
        distributed.destroy_process_group()
