"""Opens an engine: picks one, and says why.

`auto` is vLLM; the scripted engine is opened only when it is asked for by name, so that nobody
talks to a fake without knowing.
"""

import os
import platform
import shutil
import sys
from pathlib import Path

from senryu.server.device import detect, refusal
from senryu.server.manifest import cache_folder
from senryu.server.settings import ServerSettings

from .base import Choice, Engine, EngineError


async def open_engine(settings: ServerSettings, *, gate: bool = False) -> Engine:
    """An engine that can answer. With `gate`, not with a model that broke the bounds that it was
    held to. Raises EngineError with one sentence for the user."""
    if settings.engine == "scripted":
        from .scripted import POEM, ScriptedEngine

        return ScriptedEngine(
            settings.scripted_text or POEM,
            tokens=settings.scripted_tokens,
            window=settings.window or 200_000,
            model=settings.served_name or "scripted",
            seats=settings.max_streams or 1_000,
        )
    from .kv.identity import weights_identity
    from .model_folder import find_model, read_facts, refuse_unservable
    from .quiet import new_log
    from .vllm_arguments import Storage, memory_choices, vllm_arguments
    from .vllm_engine import installed_build, open_vllm

    try:
        device = detect({**os.environ, "SENRYU_DEVICE": settings.device})
    except ValueError as error:
        raise EngineError(str(error)) from error
    why_not = refusal(sys.platform, platform.machine(), platform.libc_ver()[1], device)
    if why_not is not None:
        raise EngineError(why_not)
    build, version = installed_build(device.kind)  # before the minutes that a model may take
    folder = find_model(settings.model)
    if gate:
        refuse_unservable(folder)
    facts = read_facts(
        folder, served_name=settings.served_name, asked=settings.model, dialect=settings.dialect
    )
    try:
        weights = weights_identity(folder)
    except OSError as error:
        raise EngineError(f"{error.filename} cannot be read ({error.strerror})") from error
    storage = Storage(
        folder=str(kept_prompts(settings)),
        weights=weights,
        shared_memory=_free_shared_memory(),
    )
    arguments = vllm_arguments(settings, device, facts, build=f"{build} {version}", storage=storage)
    try:
        log_file = None if settings.verbose else new_log(cache_folder() / "logs")
    except OSError as error:
        raise EngineError(
            f"{error.filename} cannot be written ({error.strerror}): set SENRYU_CACHE to a folder "
            "that can"
        ) from error

    def memory(window: int, kv_tokens: int) -> tuple[Choice, ...]:
        return memory_choices(settings, device, facts, window=window, kv_tokens=kv_tokens)

    return await open_vllm(arguments, memory, log_file=log_file)


def kept_prompts(settings: ServerSettings) -> Path:
    """The folder of what is kept of prompts over a restart."""
    if settings.kv_files is None:
        return cache_folder() / "kv"
    return Path(settings.kv_files).expanduser().absolute()


def _free_shared_memory() -> int:
    try:
        return shutil.disk_usage("/dev/shm").free  # noqa: S108 - where vLLM shares memory
    except OSError:
        return 0
