"""What a model folder says about itself: the file `senryu.json` beside the weights.

Comes in: a folder. Goes out: a `Manifest`, either written by the room that made the model or, for
anyone's model without one, gathered from its `config.json`. Rooms hand each other folders with a
manifest, so this file needs the standard library only. It refuses to know how models are made,
loaded or served.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

MANIFEST_NAME = "senryu.json"
FORMAT = 1
"""Raised when a reader of the old shape would misread the new one."""


class DamagedModelError(ValueError):
    """A model folder is not what its manifest says; one sentence, with what to do."""

    def __init__(self, folder: Path, finding: str) -> None:
        self.finding = finding
        """What is wrong, without the advice."""
        super().__init__(f"{finding}: delete the folder {folder} and prepare the model again.")


@dataclass(frozen=True, slots=True, kw_only=True)
class FileRecord:
    """One file as it was when the model was finished."""

    size: int
    """Bytes."""
    sha256: str
    """Hexadecimal."""

    @classmethod
    def of(cls, file: Path) -> FileRecord:
        with file.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
        return cls(size=file.stat().st_size, sha256=digest)


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """The facts about one model folder."""

    model_id: str
    """The name clients see, such as `senryu/smollm2-135m`."""
    display_name: str
    """The name people read."""
    source: str
    """Where the weights came from: package and version, folder, or hub id."""
    licence: str | None
    """SPDX name of the weights' licence; None when the folder does not say."""
    scheme: str
    """How the weights are stored: `w4a16`, `bf16`, `nf4`, `fp8`, ..."""
    group_size: int | None
    """Weights that share one scale, None when the scheme has no groups."""
    parameters: int | None
    """Weights before quantizing, None when unknown."""
    created_at: str | None
    """ISO 8601 in UTC, None for a folder that somebody else made."""
    files: Mapping[str, FileRecord] = field(default_factory=dict)
    """Every file of the model except this manifest; empty when nobody recorded them."""
    recipe_digest: str | None = None
    """SHA-256 of everything that decided the result, so that equal recipes share one folder."""
    dialect: str | None = None
    """How it spells tools and thinking, where its chat template does not tell."""
    notes: tuple[str, ...] = ()
    """Sentences for people."""
    calibration: Mapping[str, Any] | None = None
    """What the weights were fitted to while they were quantized; None when to nothing."""
    servable: bool | None = None
    """Whether it kept the bounds that it was held to; None when nobody measured."""
    refused_because: str | None = None
    """The bound that it broke, as the end of a sentence."""

    @classmethod
    def read(cls, folder: Path) -> Manifest | None:
        """The folder's own manifest; None without one, `DamagedModelError` if it is no manifest."""
        file = folder / MANIFEST_NAME
        try:
            text = file.read_text(encoding="utf-8")
        except FileNotFoundError:
            return None
        except (OSError, UnicodeDecodeError) as problem:
            raise _damaged(file, str(problem)) from problem
        try:
            return cls._from_json(json.loads(text))
        except KeyError as missing:
            raise _damaged(file, f"it lacks {missing}") from missing
        except (TypeError, ValueError) as problem:
            raise _damaged(file, str(problem)) from problem

    def write(self, folder: Path) -> None:
        """Put the manifest into the folder; it is whole or not there, never half."""
        text = json.dumps({"format": FORMAT, **asdict(self)}, indent=2, ensure_ascii=False)
        partial = folder / f".{MANIFEST_NAME}.partial"
        partial.write_text(text + "\n", encoding="utf-8")
        os.replace(partial, folder / MANIFEST_NAME)

    def verify(self, folder: Path, *, hashes: bool = True) -> None:
        """Raise `DamagedModelError`, a ValueError that names the first damaged file.

        Without `hashes` only presence and size are compared, which takes no time.
        """
        for name, record in sorted(self.files.items()):
            problem = _difference(folder / name, record, hashes=hashes)
            if problem:
                raise DamagedModelError(folder, f"{folder / name} {problem}")

    @classmethod
    def _from_json(cls, data: Any) -> Manifest:
        if not isinstance(data, dict):
            raise ValueError("it is not a JSON object")
        if data.get("format") != FORMAT:
            raise ValueError(f"its format is {data.get('format')!r}, this senryu reads {FORMAT}")
        known = {each.name for each in fields(cls)}
        # A later senryu may say more about a model; what we do not know does no harm.
        values = {name: value for name, value in data.items() if name in known}
        for name in ("model_id", "display_name", "source", "scheme"):
            if not isinstance(values.get(name), str):
                raise ValueError(f"it lacks {name!r}")
        for name in ("licence", "group_size", "parameters", "created_at"):
            values.setdefault(name, None)
        values["files"] = {
            name: FileRecord(size=int(record["size"]), sha256=str(record["sha256"]))
            for name, record in dict(values.get("files", {})).items()
        }
        values["notes"] = tuple(values.get("notes", ()))
        return cls(**values)


def record_files(folder: Path, names: Iterable[str] | None = None) -> dict[str, FileRecord]:
    """Size and hash of the named files, or of all files in the folder except the manifest."""
    if names is None:
        names = [each.name for each in folder.iterdir() if each.is_file()]
    return {name: FileRecord.of(folder / name) for name in sorted(names) if name != MANIFEST_NAME}


def describe_folder(folder: Path) -> Manifest:
    """The folder's manifest, or what its `config.json` tells about it; ValueError without both."""
    own = Manifest.read(folder)
    if own is not None:
        return own
    config = _config(folder)
    scheme, group_size = _scheme(config)
    return Manifest(
        model_id=folder.resolve().name,
        display_name=folder.resolve().name,
        source="local folder",
        licence=None,
        scheme=scheme,
        group_size=group_size,
        parameters=None,
        created_at=None,
    )


def cache_folder() -> Path:
    """Where models that senryu makes are kept: `$SENRYU_CACHE`, else the user's cache folder."""
    own = os.environ.get("SENRYU_CACHE")
    if own:
        return Path(own).expanduser()
    shared = os.environ.get("XDG_CACHE_HOME")
    return (Path(shared) if shared else Path.home() / ".cache") / "senryu"


def data_folder() -> Path:
    """Where is kept what cannot be made again: `$SENRYU_DATA`, else the user's data folder."""
    own = os.environ.get("SENRYU_DATA")
    if own:
        return Path(own).expanduser()
    shared = os.environ.get("XDG_DATA_HOME")
    return (Path(shared) if shared else Path.home() / ".local" / "share") / "senryu"


def _damaged(file: Path, why: str) -> DamagedModelError:
    return DamagedModelError(file.parent, f"{file} is damaged ({why})")


def _difference(file: Path, record: FileRecord, *, hashes: bool) -> str | None:
    """What is wrong with one file, as the end of a sentence; None when nothing is."""
    try:
        size = file.stat().st_size
        if size != record.size:
            return f"is damaged ({size} bytes instead of {record.size})"
        if hashes and FileRecord.of(file).sha256 != record.sha256:
            return "is damaged (its SHA-256 is not the recorded one)"
    except FileNotFoundError:
        return "is missing"
    except OSError as problem:
        return f"cannot be read ({problem.strerror})"
    return None


def _config(folder: Path) -> dict[str, Any]:
    file = folder / "config.json"
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(
            f"{folder} is not a model folder, it has no config.json: name a folder that "
            f"holds a model in the Hugging Face layout."
        ) from None
    except (OSError, ValueError) as problem:
        raise ValueError(
            f"{file} cannot be read ({problem}): copy the model into the folder again."
        ) from problem
    if not isinstance(config, dict):
        raise ValueError(f"{file} is not a JSON object: copy the model into the folder again.")
    return config


_DTYPES = {"bfloat16": "bf16", "float16": "fp16", "float32": "fp32", "float64": "fp64"}


def _scheme(config: Mapping[str, Any]) -> tuple[str, int | None]:
    """The scheme's short name and its group size, as far as the config tells."""
    # Models that also see or hear keep the language part, which we serve, one level down.
    inner = config.get("text_config")
    inner = inner if isinstance(inner, dict) else {}
    quantization = config.get("quantization_config") or inner.get("quantization_config")
    if isinstance(quantization, dict):
        return _quantized(quantization)
    for level in (config, inner):
        dtype = level.get("dtype") or level.get("torch_dtype")
        if isinstance(dtype, str):
            return _DTYPES.get(dtype, dtype), None
    return "unknown", None


def _quantized(config: Mapping[str, Any]) -> tuple[str, int | None]:
    method = str(config.get("quant_method", "unknown")).lower()
    match method:
        case "compressed-tensors":
            return _compressed_tensors(config)
        case "gptq" | "awq":
            group = config.get("group_size", config.get("q_group_size"))
            return f"{method}-int{config.get('bits', config.get('w_bit', 4))}", _group(group)
        case "bitsandbytes":
            if config.get("load_in_4bit"):
                return str(config.get("bnb_4bit_quant_type", "fp4")), None
            return "int8", None
        case "modelopt":
            return str(config.get("quant_algo", method)).lower(), _group(config.get("group_size"))
        case _:
            return method, None  # fp8, mxfp4, ... name themselves


def _compressed_tensors(config: Mapping[str, Any]) -> tuple[str, int | None]:
    groups = config.get("config_groups")
    first = next(iter(groups.values()), None) if isinstance(groups, dict) and groups else None
    weights = first.get("weights") if isinstance(first, dict) else None
    if not isinstance(first, dict) or not isinstance(weights, dict):
        return "compressed-tensors", None
    group = _group(weights.get("group_size"))
    bits = weights.get("num_bits")
    layout = str(first.get("format") or config.get("format") or "")
    inputs = first.get("input_activations")
    if weights.get("type") == "float" and bits == 4:
        family = "mxfp4" if layout.startswith("mxfp4") or group == 32 else "nvfp4"
        return family if isinstance(inputs, dict) else f"{family}a16", group
    if weights.get("type") == "float" and isinstance(inputs, dict):
        return f"fp{bits}", group
    activations = inputs.get("num_bits") if isinstance(inputs, dict) else 16
    return f"w{bits}a{activations}", group


def _group(value: Any) -> int | None:
    """A group size, where formats write -1 or nothing for one scale a row."""
    return value if isinstance(value, int) and value > 0 else None
