"""Several processes, one autoencoder: DistributedDataParallel under `torchrun`, and nothing at all without it."""

from __future__ import annotations

import os

import torch
import torch.distributed as dist
from jaxtyping import Bool
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel


def start(device: str = "cpu") -> str:
    """Join the group that `torchrun` set up (a no-op in a single process); returns this process's device.

    Example, in a script started by `torchrun --nproc-per-node 2 script.py`:
        cfg = SAEConfig(d_in=576, d_sae=4608, device=distributed.start("cuda"))
    """
    if "RANK" not in os.environ or dist.is_initialized():
        return device
    if device.startswith("cuda"):
        local = int(os.environ.get("LOCAL_RANK", 0))
        torch.cuda.set_device(local)
        device = f"cuda:{local}"
    dist.init_process_group("nccl" if device.startswith("cuda") else "gloo")
    return device


def stop() -> None:
    """Leave the group."""
    if running():
        dist.destroy_process_group()


def running() -> bool:
    """Whether this process belongs to a group."""
    return dist.is_available() and dist.is_initialized()


def rank() -> int:
    """Number of this process, 0 without a group."""
    return dist.get_rank() if running() else 0


def world_size() -> int:
    """Number of processes, 1 without a group."""
    return dist.get_world_size() if running() else 1


def wrap(model: nn.Module) -> nn.Module:
    """Average gradients over all processes, where there are several."""
    return DistributedDataParallel(model) if world_size() > 1 else model


def any_process(flags: Bool[Tensor, " n"]) -> Bool[Tensor, " n"]:
    """Elementwise "or" over all processes."""
    if world_size() == 1:
        return flags
    counts = flags.to(torch.int32)
    dist.all_reduce(counts, dist.ReduceOp.MAX)
    return counts.bool()


def mean(value: Tensor) -> Tensor:
    """The mean over all processes."""
    if world_size() > 1:
        dist.all_reduce(value)
        value = value / world_size()
    return value


def same_everywhere(model: nn.Module) -> None:
    """Give every process the first one's weights and buffers."""
    if world_size() > 1:
        for one in (*model.parameters(), *model.buffers()):
            dist.broadcast(one.data, 0)
