"""Finds the folder of the model that was asked for, and reads off it what the engine must know.

`embedded` is prepared by the quant room in a process of its own; a folder is taken as it is; a
hub id is downloaded into the hub's own cache. Nothing here loads weights.
"""

import json
import re
import subprocess
import sys
from pathlib import Path

from senryu.server.manifest import Manifest, describe_folder
from senryu.server.turn.dialects import choose_dialect

from .base import EngineError
from .vllm_arguments import ModelFacts

EMBEDDED = "embedded"
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
# One copy of the weights: repositories also carry them in formats that vLLM does not read.
_HUB_FILES = ["*.json", "*.safetensors", "*.model", "*.txt", "*.jinja", "tokenizer*"]


def find_model(model: str) -> Path:
    """The folder of `model`. Raises EngineError with a sentence when it cannot be had."""
    if model == EMBEDDED:
        return _prepare_embedded()
    try:
        folder = Path(model).expanduser()
    except RuntimeError as error:  # ~nobody
        raise EngineError(f"There is no model folder {model}: {error}") from error
    if model and folder.is_dir():
        return folder
    if folder.is_absolute() or not _HUB_ID.fullmatch(model):
        raise EngineError(
            f"There is no model folder {model}: give a folder with config.json, a hub id such as "
            "Qwen/Qwen3-4B, or embedded"
        )
    return _download(model)


def refuse_unservable(folder: Path) -> None:
    """Raises EngineError for a model whose manifest says that it is not to be served."""
    try:
        manifest = Manifest.read(folder)
    except ValueError:
        return  # whoever reads its facts says what is wrong
    if manifest is not None and manifest.servable is False:
        why = manifest.refused_because or "it was marked so"
        raise EngineError(
            f"{folder} is not to be served, for it lost too much when it was quantized ({why}): "
            "quantize it in another way, or delete `servable` from its senryu.json"
        )


def read_facts(
    folder: Path, *, served_name: str | None, asked: str, dialect: str | None = None
) -> ModelFacts:
    """What the engine must know of a model folder. `dialect` is the one that was asked for.
    Raises EngineError when the folder is no model."""
    try:
        manifest = describe_folder(folder)
        config = json.loads((folder / "config.json").read_text())
        spoken, why = choose_dialect(_template(folder), asked=dialect, named=manifest.dialect)
    except (OSError, ValueError) as error:
        raise EngineError(str(error)) from error
    scheme = manifest.scheme
    if manifest.group_size:
        scheme += f", group {manifest.group_size}"
    # A hub id is the better name for what lies in a cache folder with a hash for a name.
    name = asked if _HUB_ID.fullmatch(asked) and not Path(asked).is_dir() else manifest.model_id
    return ModelFacts(
        folder=str(folder),
        name=served_name or name,
        scheme=scheme,
        created_at=manifest.created_at or "1970-01-01T00:00:00Z",
        trained_window=(config | (config.get("text_config") or {})).get("max_position_embeddings"),
        dialect=spoken,
        dialect_why=why,
    )


def _template(folder: Path) -> str:
    """The chat template of a model folder, which stands in a file of its own or, as it used to, in
    the tokenizer's; empty where there is none."""
    own, tokenizer = folder / "chat_template.jinja", folder / "tokenizer_config.json"
    if own.exists():
        return own.read_text(encoding="utf-8")
    config = json.loads(tokenizer.read_text(encoding="utf-8")) if tokenizer.exists() else {}
    template = config.get("chat_template") or ""
    if isinstance(template, list):  # several, each with a name
        template = "\n".join(str(each.get("template", "")) for each in template)
    return str(template)


def _prepare_embedded() -> Path:
    command = [sys.executable, "-m", "senryu.quant", "embedded"]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    lines = done.stdout.strip().splitlines()
    if done.returncode != 0 or not lines:
        raise EngineError("The embedded model could not be prepared; the lines above say why")
    return Path(lines[-1])


def _download(hub_id: str) -> Path:
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError
    except ImportError:
        raise EngineError(
            f"Fetching {hub_id} needs the model packages: pip install 'senryu[cpu]' or "
            "'senryu[gpu]'"
        ) from None
    try:
        return Path(snapshot_download(hub_id, allow_patterns=_HUB_FILES))
    except (LocalEntryNotFoundError, OSError, HfHubHTTPError, ValueError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else "no answer"
        raise EngineError(
            f"The model {hub_id} cannot be fetched ({reason}): check the id and the network, or "
            "give a local folder"
        ) from error
