"""Every setting of the server, its default and its reason, written once."""

import math
import re
from dataclasses import dataclass
from typing import Literal

from .layers import SettingsError

# As browsers write it in the Origin header: no path, not even a slash; `null` for pages of no
# origin, `file://` and the like for programs that are made of web pages.
_ORIGIN = re.compile(r"\*|null|[a-z][a-z0-9+.-]*://[^/\sA-Z]*")


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerSettings:
    """What `senryu serve` can be told."""

    model: str = "embedded"
    """A model folder, a hub id, or `embedded`: SmolLM2-135M in 4 bits, which needs no hub."""

    host: str = "127.0.0.1"
    """The address to listen on. Any but a loopback address wants a key, of the settings or made
    by `senryu keys create`."""

    port: int = 8765
    """The port to listen on; 0 takes a free one and prints it."""

    api_key: str | None = None
    """The key that clients must send. Left out: all that can reach the port are served."""

    api_keys: tuple[str, ...] = ()
    """Keys of several clients, each as `NAME=KEY`. What is cached of a prompt serves requests of
    the same key alone; keys written `NAME@GROUP=KEY` share it within their group."""

    key_limits: tuple[str, ...] = ()
    """What each key may use that has no limits of its own, as `NAME=NUMBER`:
    `requests_per_minute`, `input_tokens_per_minute`, `output_tokens_per_minute`,
    `concurrent_requests`, `tokens_per_day`, `tokens_per_month`, `usd_per_day`, `usd_per_month`."""

    prices: tuple[str, ...] = ("*=1/5",)
    """What the ledger counts for a million tokens read and written, in dollars, as
    `MODEL=INPUT/OUTPUT`; the first pattern that fits holds. Left out: the hosted haiku's, so that
    a team sees what it saved."""

    data: str | None = None
    """The folder of what must outlive the server: ledger, keys, batches, files. Left out:
    `$SENRYU_DATA`, else the user's data folder."""

    database: str | None = None
    """Where they are kept: a path for SQLite, or `postgresql://USER:PASSWORD@HOST/NAME`; `none`
    keeps no ledger, and offers no batches and no files. Left out: SQLite in the folder `data`."""

    served_name: str | None = None
    """The model id to answer to. Left out: the one in the folder's manifest, or its name."""

    aliases: tuple[str, ...] = ("claude-*haiku*",)
    """Patterns of further model ids that are answered: clients ask for a haiku by default."""

    dialect: str | None = None
    """How the model spells tool calls and thinking. Left out: read off its chat template."""

    engine: Literal["auto", "vllm", "scripted"] = "auto"
    """`auto` and `vllm` open vLLM; `scripted` recites a text and needs no model."""

    device: Literal["auto", "gpu", "cpu"] = "auto"
    """`auto` looks for an NVIDIA GPU; `gpu` and `cpu` insist."""

    profile: Literal["latency", "balanced", "throughput"] = "balanced"
    """What the engine is tuned for: `latency` for few streams, each of them fast; `throughput` for
    many at once, and prompts that are read in large pieces while others wait."""

    window: int | None = None
    """Tokens of prompt and answer together. Left out: what the model was trained for, as far
    as the KV memory holds it once."""

    dtype: Literal["auto", "bfloat16", "float16", "float32"] = "auto"
    """Type of activations and of unquantized weights; `auto`: as measured best on a
    CPU, and the model's own on a GPU."""

    kv_memory_gib: float | None = None
    """Memory for the KV cache, in GiB. Left out: on a CPU a twelfth of the memory,
    at least 0.5 and at most 4; on a GPU what the weights leave of 90 %."""

    block_size: int | None = None
    """Tokens in one block of the KV cache; prefix hits are whole blocks. Left out: 32 on a CPU,
    and vLLM's own choice on a GPU."""

    kv_files_gib: float = 8.0
    """Disk that prompts marked for the prompt cache may take, in GiB, to outlive the KV memory and
    a restart; 0 keeps none."""

    kv_files: str | None = None
    """The folder to keep them in. Left out: one in the cache folder."""

    kv_cpu_gib: float | None = None
    """Memory of the machine that takes what the KV memory of a GPU has no room for, in GiB; 0 takes
    none, and keeps no prompts in files either. Left out: an eighth of it, as far as its shared
    memory goes. A CPU needs none."""

    cache_minimum: int = 0
    """Tokens that a prefix marked for the prompt cache must have to be counted as cached. 0 counts
    from one block on; the hosted service begins at 512 to 4,096, by model."""

    threads: int | None = None
    """Threads of the engine on a CPU. Left out: one for each core that we may use."""

    compile: bool | None = None
    """Compile the model before the first request. Left out: yes on a GPU, where it takes a minute
    once; no on a CPU, where it takes several."""

    max_streams: int | None = None
    """Requests that are worked on at one time; more wait. Left out: vLLM's default."""

    max_queued: int = 1_000
    """Requests that may wait for the engine; more are told to come back later (529)."""

    max_queued_tokens: int = 4_000_000
    """Tokens of prompts that may wait for the engine; with more, requests are told the same."""

    answer_seconds: float = 3_600.0
    """Time that a request may take, its wait for the engine included."""

    batch_streams: int | None = None
    """Requests of batches that are worked on at one time. Left out: half of those that the engine
    works on; interactive ones go first either way."""

    batch_limit_mb: float = 256.0
    """Largest body of a batch, in MiB."""

    batch_hours: float = 24.0
    """Time after which a batch ends, with what it has."""

    batch_days: float = 29.0
    """Time that its results are kept, from its creation on."""

    files_gib: float = 10.0
    """Disk that uploaded files may take together, in GiB."""

    file_limit_mb: float = 500.0
    """Largest uploaded file, in MiB."""

    scripted_text: str = ""
    """What the scripted engine says; it may think and call tools as a Hermes model writes it. Left
    out: a poem."""

    scripted_tokens: int = 0
    """How many tokens the scripted engine says; 0 recites its text once."""

    ping_seconds: float = 4.0
    """Silence on a stream after which a `ping` shows that we are alive."""

    grace_seconds: int = 10
    """Time that open requests get to finish when the server is told to stop."""

    body_limit_mb: float = 32.0
    """Largest request body, packed or unpacked, in MiB."""

    body_seconds: float = 60.0
    """Silence in the middle of a request body after which we stop waiting for the rest."""

    head_seconds: float = 20.0
    """Time that a client has to send the head of its request, and then to take an answer's next
    bytes when they are ready, before it is hung up on."""

    head_limit_kb: float = 64.0
    """Largest head of a request, in KiB: its address and all headers."""

    lenient_sampling: bool = False
    """Honour temperature, top_p and top_k also where the hosted service refuses them: for clients
    of API version 2026-10-21, and while the model thinks."""

    strict: bool = False
    """Refuse what the hosted service refuses and we would let pass: a missing anthropic-version,
    unknown betas, signatures of others, schema keywords outside its subset."""

    cors_origins: tuple[str, ...] = ()
    """Origins of web pages that may ask, such as `http://localhost:3000`, or patterns of them, such
    as `vscode-webview://*`; `*` lets every page. Left out: only pages that this server itself
    delivers."""

    signing_key: str | None = None
    """The secret that thinking blocks are signed with. Left out: one is made once and kept in the
    cache folder."""

    fetch_media: bool = False
    """Fetch images and documents that a request names by an https URL. Addresses of private
    networks are refused always."""

    admin_port: int | None = None
    """A second port, on this machine alone, for what is the operator's: /metrics and the reports.
    They are then not found on the public one. Left out: both are there, for keys of admins."""

    log_format: Literal["text", "json"] = "text"
    """A line for each request: for people, or as JSON."""

    log_prompts: bool = False
    """Show in the log what was asked and answered. Nothing else ever does."""

    otlp: str | None = None
    """The address of a collector that traces are sent to (OTLP over HTTP). Left out: none are
    made."""

    verbose: bool = False
    """Show the engine's own log."""

    @property
    def keyless(self) -> bool:
        """Whether all that can reach the port are served."""
        return self.api_key is None and not self.api_keys

    @property
    def body_limit_bytes(self) -> int:
        return int(self.body_limit_mb * 2**20)

    def __post_init__(self) -> None:
        if not 0 <= self.port <= 65535:
            raise SettingsError(f"port: {self.port} is not a port; take one from 0 to 65535")
        if self.admin_port is not None and not 0 <= self.admin_port <= 65535:
            raise SettingsError(f"admin_port: {self.admin_port} is not a port")
        counts = ("window", "block_size", "threads", "max_streams", "batch_streams", "max_queued")
        for name in (*counts, "max_queued_tokens", "kv_memory_gib"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise SettingsError(f"{name}: {value} must be greater than 0")
        limits = ("body_limit_mb", "batch_limit_mb", "file_limit_mb", "head_limit_kb")
        sizes = ("kv_memory_gib", "kv_files_gib", "kv_cpu_gib", "files_gib", *limits)
        times = ("ping_seconds", "body_seconds", "head_seconds", "answer_seconds")
        ages = ("batch_hours", "batch_days")
        for name in (*sizes, *times, *ages):
            if not math.isfinite(getattr(self, name) or 0.0):
                raise SettingsError(f"{name}: {getattr(self, name)} is not a finite number")
        for name in ("grace_seconds", "cache_minimum", "kv_files_gib", "kv_cpu_gib", "files_gib"):
            if (getattr(self, name) or 0) < 0:
                raise SettingsError(f"{name}: {getattr(self, name)} must not be below 0")
        for name in (*times, *ages, *limits):
            if not getattr(self, name) > 0:
                raise SettingsError(f"{name}: {getattr(self, name)} must be greater than 0")
        for name in sizes:  # 1e308 of them is no number of bytes
            if (getattr(self, name) or 0) > 2**20:
                raise SettingsError(
                    f"{name}: {getattr(self, name):g} is more than a machine has; take at most "
                    f"{2**20}"
                )
        for name in ("api_key", "signing_key"):
            value = getattr(self, name)
            if value is not None and not value.strip():
                raise SettingsError(
                    f"{name}: an empty key protects nothing; set one, or leave it out"
                )
        for origin in self.cors_origins:
            if not _ORIGIN.fullmatch(origin):
                raise SettingsError(
                    f"cors_origins: {origin!r} is not an origin; write it as scheme://host:port, "
                    "without a path, or * for all"
                )
