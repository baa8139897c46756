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
import shlex
import signal
import socket
import sys
from collections.abc import Iterator, Sequence

from .engine import kept_prompts
from .engine.base import Engine, EngineError
from .engine.keeping import KeptEngine
from .layers import SettingsError, add_flags, load_arguments
from .settings import ServerSettings
from .signing_key import read_secret
from .tenancy.callers import Callers, entries
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
        _check_exposure(settings)
        listener = _listen(settings)
    except SettingsError as error:
        print(f"senryu serve: {error}", file=sys.stderr)
        return 2
    with listener:
        import uvloop

        try:
            return uvloop.run(_serve(settings, listener))
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


def _check_exposure(settings: ServerSettings) -> None:
    """Without a key only this machine may reach us. Raises SettingsError."""
    entries(settings)
    if not settings.keyless or settings.host == "localhost":
        return
    try:
        loopback = ipaddress.ip_address(settings.host).is_loopback
    except ValueError:
        loopback = False
    if not loopback:
        raise SettingsError(
            f"host: {settings.host} can be reached from other machines; set an api_key as well "
            "(--api-key or SENRYU_API_KEY)"
        )


def _listen(settings: ServerSettings) -> socket.socket:
    """The port, taken and listening: requests that come while the model loads wait for it.

    Bound without listening it would not be taken: two servers could both bind, load their models,
    and find out then.
    """
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((settings.host, settings.port))
        listener.listen(_BACKLOG)
    except OSError as error:
        listener.close()
        raise SettingsError(
            f"port: {settings.host}:{settings.port} cannot be used ({error.strerror}); "
            "choose another with --port"
        ) from None
    return listener


async def _serve(settings: ServerSettings, listener: socket.socket) -> int:
    from .engine import open_engine

    # The loop makes a cancellation of Ctrl-C, and vLLM's start hears neither that nor Python's own
    # KeyboardInterrupt. There is nothing to lose yet, and the lifeline ends the children.
    on_interrupt = signal.signal(signal.SIGINT, signal.SIG_DFL)

    async def reopen() -> Engine:
        return await open_engine(settings, gate=True)

    engine = KeptEngine(await reopen(), reopen)
    signal.signal(signal.SIGINT, on_interrupt)
    # What the engine has loaded stays: looking through it for garbage stops all streams for 0.2 s.
    gc.collect()
    gc.freeze()
    keeping = asyncio.create_task(engine.keep())
    try:
        await _answer_requests(settings, listener, engine)
    finally:
        keeping.cancel()
        await asyncio.wait({keeping})
        await engine.close()
    return 0


async def _answer_requests(
    settings: ServerSettings, listener: socket.socket, engine: Engine
) -> None:
    import uvicorn

    from .app import build_app

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

    beginnings, traffic = _beginnings(settings, engine), Traffic()
    config = uvicorn.Config(
        build_app(settings, engine, beginnings, traffic),
        http="httptools",
        loop="none",  # we are in ours already
        lifespan="off",
        log_level="warning",
        access_log=False,
        server_header=False,
        ws="none",
        backlog=_BACKLOG,
        timeout_keep_alive=75,  # above the 60 s after which clients and proxies drop idle ones
        timeout_graceful_shutdown=settings.grace_seconds,
    )
    print(banner(settings, engine, listener.getsockname()[1]), flush=True)
    server = Server(config)
    reading_ahead = asyncio.create_task(_read_ahead(settings, engine, beginnings, traffic))
    await server.serve(sockets=[listener])
    reading_ahead.cancel()
    await asyncio.wait({reading_ahead})
    if unfinished := server.server_state.tasks:
        for task in unfinished:  # uvicorn has done so, but not after a second Ctrl-C
            task.cancel()
        await asyncio.wait(unfinished, timeout=2)  # they say farewell


async def _read_ahead(
    settings: ServerSettings, engine: Engine, beginnings: Beginnings | None, traffic: Traffic
) -> None:
    if beginnings is None:
        return
    try:
        await warm_up(beginnings, engine, Callers(settings, read_secret(settings)).salts, traffic)
    except Exception:
        log.exception("known prompts were not read ahead")


def _beginnings(settings: ServerSettings, engine: Engine) -> Beginnings | None:
    """The notes of how prompts begin; none where nothing of prompts is to be kept on the disk."""
    if settings.engine == "scripted" or not settings.kv_files_gib:
        return None
    card = engine.card
    folder = kept_prompts(settings) / "beginnings"
    return Beginnings(folder, f"{card.model} {card.created_at}")


def banner(settings: ServerSettings, engine: Engine, port: int) -> str:
    """What was chosen and why, and the lines to paste. The key itself is never printed."""
    width = max(len(choice.name) for choice in engine.card.choices)
    chosen = [
        f"  {choice.name:<{width}}  {choice.value}  ({choice.why})"
        for choice in engine.card.choices
    ]
    url, bound = _addresses(settings.host, port)
    model = engine.card.model
    variables = [
        f"ANTHROPIC_BASE_URL={url}",
        'ANTHROPIC_API_KEY="$SENRYU_API_KEY"'
        if not settings.keyless
        else "ANTHROPIC_API_KEY=local",
    ]
    token = variables[1].replace("API_KEY", "AUTH_TOKEN", 1)
    in_python, in_typescript = '"local"', '"local"'
    first = []
    if not settings.keyless:
        in_python, in_typescript = 'os.environ["SENRYU_API_KEY"]', "process.env.SENRYU_API_KEY"
        first = ["  # these read $SENRYU_API_KEY: export it here too, as the key that you set"]
    return "\n".join(
        [
            "",
            f"senryu serves {model} on {url}",
            *([f"  listening on {bound}: other machines use this one's name"] if bound else []),
            *chosen,
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
