"""Several processes that train one student: under torchrun each takes some rows of every step, and
FSDP2 gives each a part of every layer's weights, gradients and optimizer state.

Comes in: torchrun's environment, or none of it, which is one process. Goes out: `Ranks`, and
functions that are nothing special when there is one process. It refuses to know the loss.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

from senryu.server.device import detect

from .errors import DistillError


@dataclass(frozen=True, slots=True, kw_only=True)
class Ranks:
    """Who this process is among how many."""

    rank: int
    world: int
    device: torch.device

    @property
    def first(self) -> bool:
        """The one that writes."""
        return self.rank == 0

    def wait(self) -> None:
        if self.world > 1:
            dist.barrier()

    def added(self, numbers: Tensor) -> Tensor:
        """The sum over all processes."""
        if self.world > 1:
            dist.all_reduce(numbers)
        return numbers


@contextmanager
def joined() -> Iterator[Ranks]:
    """This process among those that torchrun started."""
    gpu = torch.cuda.is_available() and detect().kind == "gpu"
    rank, world = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    place = int(os.environ.get("LOCAL_RANK", "0"))
    if gpu and place >= torch.cuda.device_count():
        raise DistillError(
            f"There are {torch.cuda.device_count()} GPUs and more processes than that: give "
            "torchrun --nproc-per-node as many as there are GPUs."
        )
    device = torch.device("cuda", place) if gpu else torch.device("cpu")
    if gpu:
        torch.cuda.set_device(device)
    started = world > 1 and not dist.is_initialized()
    if started:
        dist.init_process_group("nccl" if gpu else "gloo", rank=rank, world_size=world)
    try:
        yield Ranks(rank=rank, world=world, device=device)
    finally:
        if started:
            dist.destroy_process_group()


def shard(whole: nn.Module, layers: Sequence[nn.Module], ranks: Ranks) -> None:
    """Spread the weights over all processes, in place: each layer by itself, then the rest."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh(ranks.device.type, (ranks.world,))
    for layer in layers:
        fully_shard(layer, mesh=mesh)
    fully_shard(whole, mesh=mesh)


def gathered(tree: Any) -> Any:
    """The same nest of dicts and lists with whole tensors on the CPU. All processes must ask."""
    if isinstance(tree, DTensor):
        return tree.full_tensor().cpu()
    if isinstance(tree, Tensor):
        return tree.detach().cpu()
    if isinstance(tree, Mapping):
        return {key: gathered(value) for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        return [gathered(each) for each in tree]
    return tree


def put(value: Tensor, like: Tensor) -> Tensor:
    """A whole tensor, spread as `like` is and on its device."""
    value = value.to(like.device)
    if isinstance(like, DTensor):
        return distribute_tensor(value, like.device_mesh, like.placements)
    return value


def load_optimizer(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Give an optimizer the state that `gathered` made of its own. What it was made with, such as
    its weight decay, stays as it is: the recipe may have changed."""
    now = [{**group} for group in optimizer.param_groups]
    optimizer.load_state_dict(state)
    for group, kept in zip(optimizer.param_groups, now, strict=True):
        group.update(kept)
    for weight, entries in optimizer.state.items():
        for name, value in entries.items():
            if isinstance(value, Tensor) and value.shape == weight.shape:
                entries[name] = put(value, weight)


def clip(weights: Sequence[nn.Parameter], limit: float) -> float:
    """Shorten the gradients to a common norm of at most `limit`; 0 shortens nothing. The norm as
    it was before."""
    with torch.no_grad():
        norm = nn.utils.get_total_norm([each.grad for each in weights if each.grad is not None])
        if isinstance(norm, DTensor):
            norm = norm.full_tensor()
        if limit and float(norm) > limit:
            nn.utils.clip_grads_with_norm_(weights, limit, norm)
        return float(norm)
