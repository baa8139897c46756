"""The model card: README.md in the student's folder, as model hubs read it.

Comes in: an evaluation and the recipe. Goes out: the card's text, front matter first. It says what
was measured and what the recipe says, and nothing that nobody told it.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from pathlib import Path

from senryu.server.manifest import FileRecord, Manifest

from .evaluation import Evaluation, Measures, Share, shown, write_text
from .recipe import (
    DatasetSource,
    FileSource,
    PromptSource,
    Recipe,
    RequestsSource,
    SelfSource,
    ToolsSource,
)
from .report import seconds

FILE_NAME = "README.md"
_Shown = Callable[[Measures], str]
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
# Licences that hubs know by their SPDX name in small letters; any other is named beside `other`.
_KNOWN = {
    *("apache-2.0", "mit", "bsd-2-clause", "bsd-3-clause", "cc0-1.0", "openrail", "gemma"),
    *("cc-by-4.0", "cc-by-sa-4.0", "cc-by-nc-4.0", "cc-by-nc-sa-4.0", "mpl-2.0"),
    *("gpl-3.0", "lgpl-3.0", "agpl-3.0", "llama3", "llama3.1", "llama3.2", "llama3.3"),
}
_SHAPES = {
    "depth": "Some of the teacher's layers, in their order.",
    "width": "The teacher with narrower layers: the heads, channels and widths that matter most.",
    "scratch": "The teacher's architecture in another size, from random weights.",
    "layerwise": "Layers whose widths grow from the first to the last, from random weights.",
    "shared-ffn": "One feed-forward layer for all layers, from random weights. The folder holds it "
    "once for each layer, as copies.",
    "model": "A model that was there before.",
}


def render(evaluation: Evaluation, recipe: Recipe) -> str:
    """The card's text."""
    run = evaluation.run
    parts = [
        f"---\n{_front_matter(evaluation, recipe)}\n---\n\n# {run.student}",
        f"A student of **{_plain(run.teacher)}**, made with senryu on {run.date[:10]}.",
        "## How it was made",
        _bullets(_making(evaluation, recipe)),
        "## How close it is to its teacher",
        *_figures(evaluation),
        "## Limits",
        _bullets(_limits(evaluation, recipe)),
        "## Licence and terms of the teacher",
        f"The teacher's licence is {_plain(run.licence)}. On training with its outputs, the recipe "
        f"of this student says: {_plain(run.terms)}",
        "## Where the prompts come from",
        _bullets([_source(each) for each in recipe.sources]),
    ]
    return "\n\n".join(parts) + "\n"


def write_card(folder: Path, text: str) -> None:
    """Put the card into the student's folder, and its digest into the manifest where there is
    one."""
    write_text(folder / FILE_NAME, text)
    manifest = Manifest.read(folder)
    if manifest is not None:
        files = {**manifest.files, FILE_NAME: FileRecord.of(folder / FILE_NAME)}
        dataclasses.replace(manifest, files=files).write(folder)


def _front_matter(evaluation: Evaluation, recipe: Recipe) -> str:
    from huggingface_hub import ModelCardData

    spdx = evaluation.run.licence.strip()
    known = spdx.lower() in _KNOWN
    return str(
        ModelCardData(
            license=spdx.lower() if known else "other",
            license_name=None if known else re.sub(r"[^a-z0-9.]+", "-", spdx.lower()).strip("-"),
            base_model=_base(evaluation, recipe),
            library_name="transformers",
            pipeline_tag="text-generation",
            tags=["senryu", "distillation", f"loss:{recipe.train.loss}"],
        ).to_yaml()
    )


def _base(evaluation: Evaluation, recipe: Recipe) -> str | None:
    """The hub id of the model that the weights began with, where one was named: the recipe's, or
    that in brackets behind the teacher's name."""
    if recipe.student.shape in ("scratch", "layerwise", "shared-ffn"):
        return None
    named = recipe.student.model if recipe.student.shape == "model" else recipe.teacher.model
    if named and _HUB_ID.fullmatch(named) and not Path(named).exists():
        return named
    found = re.search(r"\(([\w.-]+/[\w.-]+)\)", evaluation.run.teacher)
    return found[1] if found and recipe.student.shape != "model" else None


def _making(evaluation: Evaluation, recipe: Recipe) -> list[str]:
    run, train = evaluation.run, recipe.train
    lines = [_SHAPES[recipe.student.shape]]
    if recipe.student.keep:
        lines.append(f"Layers kept: {', '.join(map(str, recipe.student.keep))}.")
    if run.parameters:
        of = f" of the teacher's {run.teacher_parameters:,}" if run.teacher_parameters else ""
        stored = " as stored, copies counted," if recipe.student.shape == "shared-ffn" else ""
        lines.append(f"{run.parameters:,} parameters{stored}{of}".rstrip(",") + ".")
    lines.append(
        f"Loss `{train.loss}`, {run.tokens_trained:,} tokens in {seconds(run.train_seconds)}, "
        f"learning rate {train.learning_rate:g}, {train.optimizer}, seed {train.seed}."
    )
    if recipe.refine is not None:
        lines.append(
            "Then DPO on pairs of its own answers, judged by "
            f"{'rules' if recipe.refine.judge == 'rules' else 'the teacher'}."
        )
    samples = sum(each.trained for each in evaluation.counts)
    if samples:
        tokens = sum(each.trained_tokens for each in evaluation.counts)
        lines.append(f"{samples:,} samples, with {tokens:,} tokens that the teacher wrote.")
    lines.append(f"Machine: {run.machine}.")
    versions = ", ".join(f"{name} {version}" for name, version in run.versions.items())
    lines.append(f"Versions: {versions}.")
    return lines


def _figures(evaluation: Evaluation) -> list[str]:
    after = evaluation.after
    over = {
        "vocabulary": "KL is over the whole vocabulary.",
        "stored": "KL is over the stored tokens and the rest as one outcome.",
        "nothing": "The teacher gave text only, so no KL is known.",
    }[after.over]
    told = (
        f"On {len(after.rows)} held-out samples with {after.tokens:,} tokens of the teacher's "
        f"answers; 95 % intervals by bootstrap over the tasks. {over}"
    )
    rows = [
        _row("KL to the teacher, nats a token", evaluation, lambda each: shown(each.kl)),
        _row("same first choice, %", evaluation, lambda each: shown(each.agreement, 1, scale=100)),
        _row("perplexity", evaluation, lambda each: shown(each.perplexity, 2)),
    ]
    table = "\n".join(["| figure | before training | after |", "|---|---|---|", *rows])
    parts = [told, table]
    if evaluation.relative_kl:
        parts.append(f"KL after over KL before: {shown(evaluation.relative_kl)}.")
    speech = evaluation.speech
    lines = [
        f"{name}: {share}"
        for name, share in (
            ("Answers that end by themselves", speech.ended),
            ("Begun tool calls that are valid", speech.calls_valid),
            ("Tool calls equal to the teacher's", speech.same_calls),
            ("Thoughts that are well-formed", speech.thoughts_valid),
        )
        if share != Share(0, 0)
    ]
    lines += [f"{name}: {value:.3f}" for name, value in evaluation.harness.items()]
    return [*parts, *([_bullets(lines)] if lines else [])]


def _row(name: str, evaluation: Evaluation, figure: _Shown) -> str:
    before = figure(evaluation.before) if evaluation.before else "not measured"
    return f"| {name} | {before} | {figure(evaluation.after)} |"


def _limits(evaluation: Evaluation, recipe: Recipe) -> list[str]:
    lines = [
        "The figures say how close the student is to its teacher on prompts like those that it "
        "was trained with. They do not say that either is right.",
        "It can be no better than its teacher in what it learned from it, and inherits its faults.",
    ]
    if recipe.teacher.api != "engine":
        lines.append("It learned from the teacher's text alone, not from its distributions.")
    if not any(row.kind == "tools" for row in evaluation.after.rows):
        lines.append("Tool calls were not measured.")
    if not any(row.kind == "thinking" for row in evaluation.after.rows):
        lines.append("Thinking was not measured.")
    lines.append("Its safety was not measured.")
    return lines


def _source(source: PromptSource) -> str:
    """One source of prompts, without paths of the machine."""
    match source:
        case SelfSource():
            return f"{source.count} that the teacher wrote itself, given only its chat prefix."
        case FileSource():
            return f"The file {Path(source.path).name}."
        case DatasetSource():
            name = source.name if _HUB_ID.fullmatch(source.name) else Path(source.name).name
            return f"The dataset {name}, split {source.split}."
        case RequestsSource():
            return f"A log of requests, {Path(source.path).name}, by opt-in and redacted."
        case ToolsSource():
            played = "the file's" if source.results == "scripted" else "played by the teacher"
            packaged = source.path == "packaged"
            tools = "the packaged tools" if packaged else f"the tools of {Path(source.path).name}"
            return f"{source.count} conversations with {tools}; results {played}."


def _bullets(lines: list[str]) -> str:
    return "\n".join(f"- {_plain(line)}" for line in lines)


def _plain(text: str) -> str:
    """In one line, and with nothing that opens a tag."""
    return " ".join(text.split()).replace("<", "&lt;")
