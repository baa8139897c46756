"""vLLM's schedulers, and one thing more: of a long prompt they say at once how much was found.

vLLM tells with the first token, minutes later where a long prompt is read on a CPU, what it knew
from the first step on. Requests that ask for it (`TELL` in their extra_args) get an output without
tokens after their first step, if that step was not already the last of the prompt.
"""

from copy import copy
from typing import Any

from vllm.v1.core.sched.async_scheduler import AsyncScheduler
from vllm.v1.core.sched.scheduler import Scheduler
from vllm.v1.engine import EngineCoreOutput, EngineCoreOutputs

from .planning import TELL


def scheduler(*, vllm_config: Any, **rest: Any) -> Any:
    """The scheduler that vLLM would take, and which tells; vLLM's `scheduler_cls` names this."""
    if vllm_config.scheduler_config.async_scheduling:
        return TellingAsyncScheduler(vllm_config=vllm_config, **rest)
    return TellingScheduler(vllm_config=vllm_config, **rest)


class _Telling:
    """Stands before one of vLLM's schedulers."""

    requests: Any

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        self._untold: dict[Any, Any] = {}

    def add_request(self, request: Any) -> None:
        super().add_request(request)  # type: ignore[misc]
        sampling = request.sampling_params
        if sampling is not None and (sampling.extra_args or {}).get(TELL):
            self._untold[request.request_id] = request

    def update_from_output(self, scheduler_output: Any, model_runner_output: Any) -> dict[int, Any]:
        outputs: dict[int, Any] = super().update_from_output(  # type: ignore[misc]
            scheduler_output, model_runner_output
        )
        for request_id, request in list(self._untold.items()):
            stats = request.prefill_stats  # vLLM takes it away when it has told itself
            if stats is None or self.requests.get(request_id) is not request:
                del self._untold[request_id]
            elif request_id in scheduler_output.num_scheduled_tokens:
                del self._untold[request_id]
                told = EngineCoreOutput(request_id, new_token_ids=[], prefill_stats=copy(stats))
                outputs.setdefault(request.client_index, EngineCoreOutputs()).outputs.append(told)
        return outputs


class TellingScheduler(_Telling, Scheduler):  # type: ignore[misc]
    """For steps one after the other."""


class TellingAsyncScheduler(_Telling, AsyncScheduler):  # type: ignore[misc]
    """For a step that is planned while the one before is computed."""
