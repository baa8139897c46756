"""The recipe: everything that decides a student, as one TOML file.

Frozen values, with every default written once; `recipe_file.py` reads them from a TOML file.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from .errors import DistillError


class RecipeError(DistillError):
    """The recipe is wrong."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TeacherRecipe:
    """`[teacher]`: who answers, and by what right we learn from the answers."""

    licence: str
    """SPDX name of the teacher's licence."""

    allows_training: bool
    """Whether its licence and terms allow training another model on its outputs."""

    terms: str
    """Where they say so: a sentence or an address, which the student's card repeats."""

    model: str = "embedded"
    """A model folder, a hub id or `embedded`; for an endpoint, the name that it knows."""

    api: Literal["engine", "messages", "openai"] = "engine"
    """`engine` runs the model here and stores its distributions; the others ask an endpoint of
    that kind, which gives text only."""

    url: str | None = None
    """The endpoint's base address."""

    key_variable: str | None = None
    """The environment variable that holds the endpoint's key."""

    top_k: int = 32
    """How many of the most probable tokens are stored at each position; 0 stores the text only."""

    streams: int = 64
    """Answers in the making at once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SelfSource:
    """`kind = "self"`: the teacher writes the user's turn itself, given only its chat prefix
    (Magpie, Xu et al. 2024)."""

    kind: Literal["self"]
    count: int
    """How many conversations."""
    system: str = ""
    """A system prompt that sets the topic."""
    turns: int = 1
    """User turns in one conversation; the teacher writes all of them."""
    temperature: float = 1.0
    """Of the user's turns."""
    max_tokens: int = 96
    """Of one user turn."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FileSource:
    """`kind = "file"`: JSONL or Parquet; a row has `prompt` (text), or `messages` with, optionally,
    `system` and `tools` in the form of the Messages API."""

    kind: Literal["file"]
    path: str
    """The file; relative to the recipe's folder."""
    count: int | None = None
    """The first so many rows; left out, all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DatasetSource:
    """`kind = "dataset"`: a Hugging Face dataset, by id or local folder."""

    kind: Literal["dataset"]
    name: str
    """Its id or folder."""
    subset: str | None = None
    """Its configuration, where it has several."""
    split: str = "train"
    """Which part of it."""
    column: str = "prompt"
    """The column with the prompt's text, or with a list of messages."""
    count: int | None = None
    """The first so many rows; left out, all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestsSource:
    """`kind = "requests"`: a log of Messages API requests, one JSON body a line. Only with
    `opt_in = true`, and what looks like a secret or a person's address is blanked."""

    kind: Literal["requests"]
    path: str
    """The file; relative to the recipe's folder."""
    opt_in: bool = False
    """Whether those who wrote the requests agreed to this use."""
    count: int | None = None
    """The first so many requests; left out, all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolsSource:
    """`kind = "tools"`: conversations that call tools, from a file of tools with their schemas."""

    kind: Literal["tools"]
    path: str
    """JSON: a list of `{"name", "description", "input_schema", "asks": [...], "results": [...]}`;
    the packaged set when it is the word `packaged`."""
    count: int
    """How many conversations."""
    results: Literal["scripted", "teacher"] = "scripted"
    """Who plays the tool: the file's own results, or the teacher, who is told to write one."""
    force: bool = False
    """Whether the call is forced by a grammar, for teachers that never call by themselves."""


PromptSource = SelfSource | FileSource | DatasetSource | RequestsSource | ToolsSource

SOURCES: Mapping[str, type[PromptSource]] = {
    "self": SelfSource,
    "file": FileSource,
    "dataset": DatasetSource,
    "requests": RequestsSource,
    "tools": ToolsSource,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class CollectRecipe:
    """`[collect]`: how the teacher answers."""

    max_tokens: int = 256
    """The longest answer; one that is cut teaches no end."""
    temperature: float = 1.0
    """What answers are drawn with; the stored distributions are those of 1."""
    top_p: float = 1.0
    """The share of the probability that they are drawn from."""
    thinking: float = 0.0
    """The share of prompts, 0 to 1, that a thinking teacher thinks about first."""
    near_duplicates: float = 0.8
    """Prompts whose estimated Jaccard similarity of word 5-grams is above this are one prompt."""
    contamination: int = 8
    """A prompt that shares this many words in a row with the evaluation set is left out; 0 lets
    all pass."""
    shard_samples: int = 256
    """Samples in one file: what a kill costs at the most, besides those in the making."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StudentRecipe:
    """`[student]`: the shape of the student."""

    shape: Literal["depth", "width", "scratch", "layerwise", "shared-ffn", "model"] = "depth"
    """`depth` and `width` prune the teacher; `scratch`, `layerwise` (OpenELM, Mehta et al. 2024)
    and `shared-ffn` (MobiLlama, Thawakar et al. 2024) start from random weights with the teacher's
    tokenizer; `model` takes an existing one."""

    model: str | None = None
    """For `model`: a folder or hub id."""

    layers: int | None = None
    """How many layers it has; left out, a third of the teacher's for `depth`, else all of them."""

    keep: tuple[int, ...] = ()
    """For `depth`: the layers of the teacher that stay; left out, chosen by `importance`."""

    importance: Literal["even", "block"] = "even"
    """For `depth` without `keep`: evenly spaced with the last, or by block influence (ShortGPT,
    Men et al. 2024) on stored samples."""

    hidden: int | None = None
    """Width of the residual stream; left out, the teacher's."""
    heads: int | None = None
    """Query heads of a layer."""
    kv_heads: int | None = None
    """Heads of keys and values of a layer."""
    ffn: int | None = None
    """Channels of the feed-forward layer."""

    ffn_range: tuple[float, float] = (0.5, 2.0)
    """For `layerwise`: multiples of the default FFN width at the first and the last layer."""

    kv_range: tuple[int, int] | None = None
    """For `layerwise`: KV heads at the first and the last layer."""

    name: str | None = None
    """The model id that clients see; left out, made of the teacher's and the shape."""


LossName = Literal["sft", "forward-kl", "reverse-kl", "skew-kl", "skew-reverse-kl", "js"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainRecipe:
    """`[train]`: the loss and the loop."""

    loss: LossName = "forward-kl"
    """`sft` learns the teacher's text; the others its distributions: Kullback-Leibler forward,
    reverse, skewed (DistiLLM, Ko et al. 2024), Jensen-Shannon (GKD, Agarwal et al. 2024)."""
    mix: float = 0.5
    """For `js` the weight of the teacher in the mixture (GKD's beta); for the skewed losses that
    of the model that is compared against (DistiLLM's alpha)."""
    sft_weight: float = 0.0
    """Cross-entropy on the teacher's own tokens, added with this weight."""
    hidden_weight: float = 0.0
    """Matching of hidden states, for pruned students; the teacher runs beside the student."""
    on_policy: float = 0.0
    """The share of steps, 0 to 1, where the student writes and the teacher scores (GKD)."""
    on_policy_tokens: int = 64
    """How many tokens it writes then."""

    tokens: int = 200_000
    """Tokens read in all, prompts included; samples come again once all have been read."""
    batch_tokens: int = 2048
    """Tokens of one step."""
    sequence: int = 512
    """Tokens of one packed row; a longer sample keeps its end."""
    learning_rate: float = 1e-3
    """The highest rate of AdamW."""
    warmup: float = 0.05
    """The share of steps in which the rate rises."""
    decay: float = 0.5
    """The share of steps, at the end, in which it falls to a tenth."""
    optimizer: Literal["adamw", "muon"] = "adamw"
    """`muon` (Jordan 2024) takes the matrices between the layers, AdamW the rest."""
    weight_decay: float = 0.01
    """Decoupled, of the matrices alone."""
    betas: tuple[float, float] = (0.9, 0.95)
    """AdamW's two decays."""
    clip: float = 1.0
    """The largest norm of the gradient; 0 clips nothing."""
    ema: float = 0.0
    """Decay of a moving average of the weights, which is then the student; 0 is none."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """What the matrix products are computed in; the weights themselves are float32. `auto` takes
    bfloat16 where the processor or GPU has it."""
    gradient_checkpointing: bool = False
    """Computes each layer twice and keeps less in memory."""
    compile: bool = False
    """torch.compile, which pays on a GPU."""
    vocabulary_chunk: int = 1024
    """Positions whose logits stand in memory at once."""
    checkpoint_steps: int = 50
    """Steps between two checkpoints: what a kill costs at the most."""
    seed: int = 17
    """Decides the order of the samples, and with it every weight."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluateRecipe:
    """`[evaluate]`: what is held out and measured."""

    held_out: float = 0.1
    """The share of prompts that is never trained on."""
    max_samples: int = 64
    """Held-out samples that are measured."""
    generate: int = 8
    """Samples that the student answers itself: side by side, tool calls, thoughts."""
    max_tokens: int = 96
    """Of such an answer."""
    harness: tuple[str, ...] = ()
    """Tasks of lm-evaluation-harness, where it is installed and its data at hand."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RefineRecipe:
    """`[refine]`: preference pairs by critique, then DPO (Rafailov et al. 2023). Left out: no
    refinement."""

    constitution: str
    """A text file, one principle a line; the packaged one when it is the word `packaged`."""
    judge: Literal["rules", "teacher"] = "rules"
    """Who says which answer is better: rules that can be checked, or the teacher in words."""
    pairs: int = 64
    """Pairs of a better and a worse answer."""
    beta: float = 0.1
    """DPO's hold on the student as it was."""
    learning_rate: float = 5e-6
    """The highest rate."""
    steps: int = 20
    """Steps of training."""
    batch: int = 4
    """Pairs of one step."""
    max_tokens: int = 96
    """Of an answer that is judged."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """All of it."""

    teacher: TeacherRecipe
    prompts: tuple[PromptSource, ...] = ()
    """`[[prompts]]`; without any, the teacher writes 400 of them itself."""
    collect: CollectRecipe = field(default_factory=CollectRecipe)
    student: StudentRecipe = field(default_factory=StudentRecipe)
    train: TrainRecipe = field(default_factory=TrainRecipe)
    evaluate: EvaluateRecipe = field(default_factory=EvaluateRecipe)
    refine: RefineRecipe | None = None

    @property
    def sources(self) -> tuple[PromptSource, ...]:
        return self.prompts or (SelfSource(kind="self", count=400),)

    def digest(self, *parts: str) -> str:
        """SHA-256 of the named parts, such as `teacher` and `collect`."""
        told = {part: dataclasses.asdict(self)[part] for part in parts}
        return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()
