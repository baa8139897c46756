"""vLLM's way to KV that lies elsewhere, with files: the connector of the CPU build.

vLLM makes one of these in the process that schedules and one in the process that computes. What
each of them does stands in `planning` and `moving`; here is only what vLLM wants it to look like.

Blocks are read while other requests are computed (vLLM's "asynchronous" load). Where a file cannot
be read after all, vLLM computes its block and those behind it, and until then shows none of them
to anybody else: with its other kind of load such blocks could be hit while they hold nothing.
"""

import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import vllm
from vllm.distributed.kv_transfer.kv_connector.v1.base import (
    KVConnectorBase_V1,
    KVConnectorMetadata,
    KVConnectorRole,
    SupportsHMA,
)
from vllm.v1.kv_cache_interface import FullAttentionSpec

from .files import KeptBlocks
from .identity import namespace
from .moving import Mover
from .planning import Planner
from .work import Work


class _Asked(KVConnectorMetadata):  # type: ignore[misc]
    """Work on its way to the worker."""

    def __init__(self, work: Work) -> None:
        self.work = work


class FileConnector(KVConnectorBase_V1, SupportsHMA):  # type: ignore[misc]
    """Its settings, in `kv_connector_extra_config`: `folder`, `bytes` that all blocks together may
    take, and `weights`, which tells models apart.

    Of models that keep KV of more than one kind nothing is kept: vLLM numbers the blocks of each
    kind anew, and a prompt may be continued only where it has all of them.
    """

    def __init__(self, vllm_config: Any, role: Any, kv_cache_config: Any) -> None:
        super().__init__(vllm_config, role, kv_cache_config)
        self._planner: Planner | None = None
        self._mover: Mover | None = None
        self._failed: set[int] = set()
        self._keeps = _is_of_one_kind(kv_cache_config)
        if not self._keeps:
            return
        spec = kv_cache_config.kv_cache_groups[0].kv_cache_spec
        extra: Mapping[str, Any] = self._kv_transfer_config.kv_connector_extra_config
        model, cache = vllm_config.model_config, vllm_config.cache_config
        facts = {
            "vllm": vllm.__version__,
            "dtype": str(model.dtype),
            "kv_dtype": str(cache.cache_dtype),
            "hashing": cache.prefix_caching_hash_algo,
            "layout": str(spec),
            "layers": [tensor.layers for tensor in kv_cache_config.kv_cache_tensors],
        }
        self._files = KeptBlocks(
            Path(extra["folder"]), namespace(extra["weights"], facts), extra["bytes"]
        )
        if role == KVConnectorRole.SCHEDULER:
            size = sum(pages for _, pages in _pages(kv_cache_config))
            self._planner = Planner(self._files, block=spec.block_size, size=size)

    @property
    def requires_kv_delivery(self) -> bool:
        return False  # what is not kept is computed again

    # ---- in the process that schedules

    def on_new_request(self, request: Any) -> None:
        if self._planner:
            self._planner.came(request)

    def get_num_new_matched_tokens(
        self, request: Any, num_computed_tokens: int
    ) -> tuple[int | None, bool]:
        tokens = self._planner.matched(request, num_computed_tokens) if self._planner else 0
        return tokens, tokens > 0

    def update_state_after_alloc(self, request: Any, blocks: Any, num_external_tokens: int) -> None:
        if self._planner:
            self._planner.admitted(request, blocks.get_block_ids()[0], num_external_tokens)

    def build_connector_meta(self, scheduler_output: Any) -> KVConnectorMetadata:
        if self._planner is None:
            return _Asked(Work())
        state = scheduler_output.kv_connector_block_state
        return _Asked(
            self._planner.work(
                scheduler_output.num_scheduled_tokens,
                lambda request_id: state.get_block_ids(request_id)[0],
            )
        )

    def request_finished_all_groups(
        self, request: Any, block_ids: tuple[list[int], ...]
    ) -> tuple[bool, dict[str, Any] | None]:
        if self._planner:
            self._planner.ended(request.request_id)
        return False, None

    # ---- in the process that computes

    def register_kv_caches(self, kv_caches: dict[str, Any]) -> None:
        if self._keeps and kv_caches:
            part = next(iter(kv_caches.values()))
            self._mover = Mover(self._files, _rows(self._kv_cache_config, part))

    def start_load_kv(self, forward_context: Any, **kwargs: Any) -> None:
        if self._mover:
            self._mover.load(self._work)

    def wait_for_layer_load(self, layer_name: str) -> None:
        return None

    def save_kv_layer(
        self, layer_name: str, kv_layer: Any, attn_metadata: Any, **kwargs: Any
    ) -> None:
        return None

    def wait_for_save(self) -> None:
        # vLLM calls it also on its way out of a step that failed, whose blocks are half computed.
        if self._mover and sys.exc_info()[0] is None:
            self._mover.save(self._work)

    def get_finished(self, finished_req_ids: set[str]) -> tuple[set[str] | None, set[str] | None]:
        if self._mover is None:
            return None, None
        read, failed = self._mover.read()
        self._failed |= failed
        return None, read

    def get_block_ids_with_load_errors(self) -> set[int]:
        failed, self._failed = self._failed, set()
        return failed

    def shutdown(self) -> None:
        if self._mover:
            self._mover.close()

    @property
    def _work(self) -> Work:
        asked = self._get_connector_metadata()
        assert isinstance(asked, _Asked)
        return asked.work


def _is_of_one_kind(kv_cache_config: Any) -> bool:
    """Whether all layers keep the KV of all tokens, in the same blocks."""
    if len(kv_cache_config.kv_cache_groups) != 1:
        return False
    spec = kv_cache_config.kv_cache_groups[0].kv_cache_spec
    each = getattr(spec, "kv_cache_specs", {"": spec})
    return all(isinstance(one, FullAttentionSpec) for one in each.values())


def _pages(kv_cache_config: Any) -> Iterator[tuple[Any, int]]:
    """For each layer the tensor that says where its KV lies, and the bytes of a block of it."""
    spec = kv_cache_config.kv_cache_groups[0].kv_cache_spec
    each = getattr(spec, "kv_cache_specs", {})  # where the layers differ in size
    for tensor in kv_cache_config.kv_cache_tensors:
        for layer in tensor.layers:
            yield tensor, each.get(layer, spec).page_size_bytes


def _rows(kv_cache_config: Any, part: Any) -> list[Any]:
    """The KV memory, of which `part` is a view: of each layer an array of bytes, a row a block. By
    vLLM's description of it, for its own views may cut blocks into smaller ones."""
    import numpy
    import torch

    memory = torch.tensor([], dtype=torch.uint8).set_(part.untyped_storage()).numpy()
    rows = []
    before: dict[int, int] = {}
    for tensor, page in _pages(kv_cache_config):
        layer = before[id(tensor)] = before.get(id(tensor), -1) + 1
        rows.append(
            numpy.lib.stride_tricks.as_strided(
                memory[tensor.offset + layer * tensor.layer_stride :],
                shape=(kv_cache_config.num_blocks, page),
                strides=(tensor.block_stride, 1),
            )
        )
    return rows
