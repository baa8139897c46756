"""`senryu serve`: settings, engine, banner, and the server loop until it is told to stop.

The port is taken before the model is loaded, so that a taken port is said at once; requests are
accepted when the engine can answer them.
"""

import argparse
import asyncio
import contextlib
import gc
import ipaddress
import logging
import os
import shlex
import signal
import socket
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from functools import partial

from .engine import kept_prompts
from .engine.base import Engine, EngineError
from .engine.keeping import KeptEngine
from .layers import SettingsError, add_flags, load_arguments
from .observing.log import configure as configure_log
from .observing.opening import Observing, open_observing
from .settings import ServerSettings
from .signing_key import read_secret
from .tenancy.callers import Callers, entries
from .tenancy.store.opening import StoreError
from .tenancy.tenancy import Tenancy, open_tenancy
from .traffic import Traffic
from .warm_up import Beginnings, warm_up

log = logging.getLogger("senryu.server")

# The settings that people change by hand; all others are for senryu.toml and SENRYU_*.
FLAGS = (
    "model",
    "host",
    "port",
    "api_key",
    "served_name",
    "engine",
    "device",
    "window",
    "dtype",
    "kv_memory_gib",
    "threads",
    "max_streams",
    "compile",
    "lenient_sampling",
    "strict",
    "dialect",
    "verbose",
)


_BACKLOG = 2048  # connections that wait to be accepted


def main(argv: Sequence[str]) -> int:
    """Serve until SIGINT or SIGTERM. 2: the settings are wrong; 1: the engine did not open."""
    arguments = parser().parse_args(argv)
    try:
        loaded = load_arguments(ServerSettings, table="server", arguments=arguments)
        if arguments.print_config:
            print("[server]", *loaded.lines(), sep="\n")
            return 0
        settings = loaded.settings
        entries(settings)
        import uvloop

        return uvloop.run(_serve(settings))
    except (SettingsError, StoreError) as error:
        print(f"senryu serve: {error}", file=sys.stderr)
        return 2
    except EngineError as error:
        print(f"senryu serve: {error}", file=sys.stderr)
        return 1


def parser() -> argparse.ArgumentParser:
    """The flags, each with the docstring of its setting."""
    flags = argparse.ArgumentParser(
        prog="senryu serve",
        description="Answer the Anthropic Messages API with one local model.",
        epilog="Every setting can stand in senryu.toml under [server], or in the environment as "
        "SENRYU_NAME; --print-config shows all of them and where each value came from.",
    )
    add_flags(flags, ServerSettings, FLAGS)
    flags.add_argument("--print-config", action="store_true", help="show the settings and stop")
    return flags


def _check_exposure(settings: ServerSettings, callers: Callers) -> None:
    """Without a key only this machine may reach us. Raises SettingsError."""
    if callers.anyone is None or settings.host == "localhost":
        return
    try:
        loopback = ipaddress.ip_address(settings.host).is_loopback
    except ValueError:
        loopback = False
    if not loopback:
        raise SettingsError(
            f"host: {settings.host} can be reached from other machines; make a key first "
            "(senryu keys create NAME), or set one (--api-key or SENRYU_API_KEY)"
        )


def _listen(host: str, port: int) -> socket.socket:
    """The port, taken and listening: requests that come while the model loads wait for it.

    Bound without listening it would not be taken: two servers could both bind, load their models,
    and find out then.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen(_BACKLOG)
    except OSError as error:
        listener.close()
        raise SettingsError(
            f"port: {host}:{port} cannot be used ({error.strerror}); choose another with --port"
        ) from None
    return listener


async def _serve(settings: ServerSettings) -> int:
    """Raises StoreError, SettingsError and EngineError."""
    # A stream of its own: while an engine opens, what is printed goes to the engine's log.
    log_handler = configure_log(
        settings, os.fdopen(os.dup(2), "w", buffering=1, errors="backslashreplace")
    )
    observing = open_observing(settings)
    tenancy = await open_tenancy(settings, read_secret(settings))
    try:
        _check_exposure(settings, tenancy.callers)
        with ExitStack() as stack:
            listener = stack.enter_context(_listen(settings.host, settings.port))
            admin = None
            if settings.admin_port is not None:
                admin = stack.enter_context(_listen("127.0.0.1", settings.admin_port))
            engine = await _open_engine(settings)
            keeping = asyncio.create_task(engine.keep())
            try:
                await _answer_requests(settings, listener, admin, engine, tenancy, observing)
            finally:
                keeping.cancel()
                await asyncio.wait({keeping})
                await engine.close()
    finally:
        await tenancy.close()
        await observing.close()  # it has heard the last of all of them
        log_handler.flush()
    return 0


async def _open_engine(settings: ServerSettings) -> KeptEngine:
    from .engine import open_engine

    async def reopen() -> Engine:
        return await open_engine(settings, gate=True)

    # The loop makes a cancellation of Ctrl-C, and vLLM's start hears neither that nor Python's own
    # KeyboardInterrupt. There is nothing to lose yet, and the lifeline ends the children.
    on_interrupt = signal.signal(signal.SIGINT, signal.SIG_DFL)
    engine = KeptEngine(await reopen(), reopen)
    signal.signal(signal.SIGINT, on_interrupt)
    # What the engine has loaded stays: looking through it for garbage stops all streams for 0.2 s.
    gc.collect()
    gc.freeze()
    return engine


async def _answer_requests(
    settings: ServerSettings,
    listener: socket.socket,
    admin: socket.socket | None,
    engine: Engine,
    tenancy: Tenancy,
    observing: Observing,
) -> None:
    import uvicorn
    from fastapi import FastAPI

    from .answering import answer_item
    from .app import batch_seats, build_admin_app, build_app
    from .http import protocol_for

    class Server(uvicorn.Server):
        """Stops on a signal and returns. uvicorn's own would then raise the signal once more,
        which ends the process before the engine is closed."""

        @contextlib.contextmanager
        def capture_signals(self) -> Iterator[None]:
            signals = (signal.SIGINT, signal.SIGTERM)
            before = [signal.signal(each, self.handle_exit) for each in signals]
            try:
                yield
            finally:
                for each, handler in zip(signals, before, strict=True):
                    signal.signal(each, handler)

        async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
            await tenancy.stop_working()  # what is left of batches waits for the next server
            await super().shutdown(sockets)

    def config(app: FastAPI) -> uvicorn.Config:
        return uvicorn.Config(
            app,
            http=protocol_for(settings),
            loop="none",  # we are in ours already
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            ws="none",
            backlog=_BACKLOG,
            timeout_keep_alive=75,  # above the 60 s after which clients and proxies drop idle ones
            timeout_graceful_shutdown=settings.grace_seconds,
        )

    beginnings, traffic = _beginnings(settings, engine), Traffic()
    app = build_app(settings, engine, beginnings, traffic, observing, tenancy)
    await tenancy.start(
        partial(answer_item, app.state),
        batch_streams=batch_seats(settings, engine.card),
        batch_days=settings.batch_days,
    )
    keyless = tenancy.callers.anyone is not None
    print(banner(settings, engine, listener.getsockname()[1], keyless=keyless), flush=True)
    server = Server(config(app))
    beside = [asyncio.create_task(_read_ahead(tenancy.callers, engine, beginnings, traffic))]
    if admin is not None:
        print(f"/metrics and reports: http://127.0.0.1:{admin.getsockname()[1]}", flush=True)
        operators = uvicorn.Server(config(build_admin_app(app)))
        beside.append(asyncio.create_task(operators._serve([admin])))
    await server.serve(sockets=[listener])
    for task in beside:
        task.cancel()
    await asyncio.wait(beside)
    if unfinished := server.server_state.tasks:
        for each in unfinished:  # uvicorn has done so, but not after a second Ctrl-C
            each.cancel()
        await asyncio.wait(unfinished, timeout=2)  # they say farewell


async def _read_ahead(
    callers: Callers, engine: Engine, beginnings: Beginnings | None, traffic: Traffic
) -> None:
    if beginnings is None:
        return
    try:
        await warm_up(beginnings, engine, callers.salts, traffic)
    except Exception:
        log.exception("known prompts were not read ahead")


def _beginnings(settings: ServerSettings, engine: Engine) -> Beginnings | None:
    """The notes of how prompts begin; none where nothing of prompts is to be kept on the disk."""
    if settings.engine == "scripted" or not settings.kv_files_gib:
        return None
    card = engine.card
    folder = kept_prompts(settings) / "beginnings"
    return Beginnings(folder, f"{card.model} {card.created_at}")


def banner(settings: ServerSettings, engine: Engine, port: int, *, keyless: bool) -> str:
    """What was chosen and why, and the lines to paste. A key itself is never printed."""
    width = max(len(choice.name) for choice in engine.card.choices)
    chosen = [
        f"  {choice.name:<{width}}  {choice.value}  ({choice.why})"
        for choice in engine.card.choices
    ]
    url, bound = _addresses(settings.host, port)
    model = engine.card.model
    variables = [
        f"ANTHROPIC_BASE_URL={url}",
        'ANTHROPIC_API_KEY="$SENRYU_API_KEY"' if not keyless else "ANTHROPIC_API_KEY=local",
    ]
    token = variables[1].replace("API_KEY", "AUTH_TOKEN", 1)
    in_python, in_typescript = '"local"', '"local"'
    first = []
    if not keyless:
        in_python, in_typescript = 'os.environ["SENRYU_API_KEY"]', "process.env.SENRYU_API_KEY"
        first = ["  # these read $SENRYU_API_KEY: export it here too, as the key that you set"]
    return "\n".join(
        [
            "",
            f"senryu serves {model} on {url}",
            *([f"  listening on {bound}: other machines use this one's name"] if bound else []),
            *chosen,
            *(["  no key is set: this machine alone is served"] if keyless else []),
            "",
            "The official SDKs, and anything that reads the environment:",
            *first,
            *(f"  export {variable}" for variable in variables),
            "",
            "Claude Code:",
            f"  {variables[0]} {token} ANTHROPIC_MODEL={shlex.quote(model)} \\",
            f"  CLAUDE_CODE_MAX_CONTEXT_TOKENS={engine.card.window} claude",
            "",
            "Python:",
            f'  anthropic.Anthropic(base_url="{url}", api_key={in_python})',
            "TypeScript:",
            f'  new Anthropic({{ baseURL: "{url}", apiKey: {in_typescript} }})',
            "",
            "Ctrl-C stops it.",
        ]
    )


def _addresses(host: str, port: int) -> tuple[str, str | None]:
    """The URL that works on this machine, and where we listen when that is every address."""
    shown = f"[{host}]" if ":" in host else host
    try:
        every = not host or ipaddress.ip_address(host).is_unspecified
    except ValueError:
        every = False
    if not every:
        return f"http://{shown}:{port}", None
    return f"http://127.0.0.1:{port}", f"every address, {shown or '0.0.0.0'}:{port}"  # noqa: S104
