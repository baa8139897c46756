"""The sizes of a transformer: which were asked for, and why some cannot be.

Numbers in, numbers or one sentence out. It knows what vLLM's kernels and grouped-query attention
take, and refuses to know weights, families and files.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from senryu.distill.errors import DistillError
from senryu.distill.recipe import StudentRecipe

MULTIPLE = 32
"""vLLM's CPU kernel for 4-bit weights takes matrices whose sides are multiples of this."""

HEAD_WIDTHS = (32, 64, 80, 96, 112, 128, 160, 192, 224, 256)
"""What vLLM's attention takes, on a CPU and on GPUs."""

_FIELDS = {
    "layers": "num_hidden_layers",
    "hidden": "hidden_size",
    "heads": "num_attention_heads",
    "ffn": "intermediate_size",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """Of one decoder; each layer has the same."""

    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_width: int
    ffn: int

    @property
    def fields(self) -> dict[str, int]:
        """Under the names of transformers' configs."""
        named = {field: int(getattr(self, own)) for own, field in _FIELDS.items()}
        return named | {"num_key_value_heads": self.kv_heads, "head_dim": self.head_width}


def sizes_of(config: Any) -> Sizes:
    """The sizes that a transformers config tells. Raises DistillError where it tells them in a way
    of its own."""
    told: dict[str, Any] = {own: getattr(config, field, None) for own, field in _FIELDS.items()}
    for own, value in told.items():
        if not isinstance(value, int):
            raise DistillError(
                f"The config of a {config.model_type} does not tell {_FIELDS[own]} as one number: "
                "take a teacher like Llama, Qwen or Mistral, or student.shape = 'model'."
            )
    return Sizes(
        **told,
        kv_heads=getattr(config, "num_key_value_heads", None) or told["heads"],
        head_width=getattr(config, "head_dim", None) or told["hidden"] // told["heads"],
    )


def grown(recipe: StudentRecipe, base: Sizes) -> Sizes:
    """The sizes of a student that starts from random weights. What the recipe leaves out keeps the
    base's proportions."""
    hidden = recipe.hidden or base.hidden
    coupled = base.head_width * base.heads == base.hidden
    heads = recipe.heads
    if heads is None:  # a Qwen3's are together wider than its stream; most are just as wide
        heads = max(1, hidden // base.head_width if coupled else base.heads * hidden // base.hidden)
    if coupled and hidden % heads:
        raise DistillError(
            f"student.hidden ({hidden}) is not a multiple of the {heads} query heads: set "
            f"student.hidden to {_nearest(hidden, heads)}, or student.heads."
        )
    sizes = Sizes(
        layers=recipe.layers or base.layers,
        hidden=hidden,
        heads=heads,
        kv_heads=recipe.kv_heads or _kv_heads(heads, base),
        head_width=hidden // heads if coupled else base.head_width,
        ffn=recipe.ffn or (base.ffn if hidden == base.hidden else _scaled(base, hidden)),
    )
    _check(sizes, base)
    return sizes


def pruned(recipe: StudentRecipe, base: Sizes) -> Sizes:
    """The sizes of a teacher of which only a part stays. What the recipe leaves out stays whole;
    the width of a head always does."""
    group = base.heads // base.kv_heads
    heads = recipe.heads or (recipe.kv_heads or base.kv_heads) * group
    kv_heads = recipe.kv_heads or _kept_kv_heads(heads, base)
    sizes = dataclasses.replace(
        base,
        hidden=recipe.hidden or base.hidden,
        heads=heads,
        kv_heads=kv_heads,
        ffn=recipe.ffn or base.ffn,
    )
    for name in ("hidden", "heads", "kv_heads", "ffn"):
        if getattr(sizes, name) > getattr(base, name):
            raise DistillError(
                f"student.{name} is {getattr(sizes, name)} and the teacher has "
                f"{getattr(base, name)}: pruning only takes away."
            )
    _check(sizes, base)
    if heads // kv_heads > group:
        raise DistillError(
            f"student.heads = {heads} with {kv_heads} KV heads puts {heads // kv_heads} query "
            f"heads to a KV head and the teacher has {group}: keep more KV heads, or fewer query "
            "heads."
        )
    return sizes


def check_kv_heads(heads: int, kv_heads: int, key: str) -> None:
    """Raises DistillError unless the query heads can be shared out evenly."""
    if kv_heads < 1 or heads % kv_heads:
        fits = _words(each for each in range(1, heads + 1) if heads % each == 0)
        raise DistillError(
            f"{key} is {kv_heads} and the student has {heads} query heads: take "
            f"{_alternatives(fits)}, which share them out evenly."
        )


def check_multiple(value: int, key: str) -> None:
    """Raises DistillError for a side that vLLM's 4-bit kernel does not take."""
    if value < 1 or value % MULTIPLE:
        raise DistillError(
            f"{key} is {value} and vLLM's 4-bit kernel takes multiples of {MULTIPLE}: set it to "
            f"{_nearest(value, MULTIPLE)}."
        )


def rounded(value: float) -> int:
    """The nearest multiple that the 4-bit kernel takes."""
    return max(MULTIPLE, int(value / MULTIPLE + 0.5) * MULTIPLE)


def _check(sizes: Sizes, base: Sizes) -> None:
    """What differs from the base is ours to answer for."""
    check_kv_heads(sizes.heads, sizes.kv_heads, "student.kv_heads")
    for name in ("hidden", "ffn"):
        if getattr(sizes, name) != getattr(base, name):
            check_multiple(getattr(sizes, name), f"student.{name}")
    if sizes.head_width != base.head_width and sizes.head_width not in HEAD_WIDTHS:
        raise DistillError(
            f"student.hidden = {sizes.hidden} with {sizes.heads} query heads makes heads of width "
            f"{sizes.head_width} and vLLM's attention takes "
            f"{_alternatives(_words(HEAD_WIDTHS))}: choose them to fit."
        )


def _kept_kv_heads(heads: int, base: Sizes) -> int:
    """Whole groups go where that leaves so many query heads; else heads go inside the groups."""
    group = base.heads // base.kv_heads
    if heads % group == 0:
        return heads // group
    for kv_heads in range(base.kv_heads, 0, -1):
        if heads % kv_heads == 0 and heads // kv_heads <= group:
            return kv_heads
    fits = {kv * each for kv in range(1, base.kv_heads + 1) for each in range(1, group + 1)}
    raise DistillError(
        f"student.heads is {heads} and pruning takes from {base.kv_heads} KV heads with {group} "
        f"query heads each, alike from all that stay: take {_alternatives(_words(fits))}."
    )


def _words(numbers: Iterable[int]) -> list[str]:
    return [str(each) for each in sorted(numbers)]


def _scaled(base: Sizes, hidden: int) -> int:
    return rounded(base.ffn * hidden / base.hidden)


def _kv_heads(heads: int, base: Sizes) -> int:
    """With as many query heads to each as the base has, or else the most that share them evenly."""
    group = base.heads // base.kv_heads
    if heads % group == 0:
        return heads // group
    return max(each for each in range(1, base.kv_heads + 1) if heads % each == 0)


def _nearest(value: int, step: int) -> str:
    below = value // step * step
    return f"{below} or {below + step}" if below else str(step)


def _alternatives(words: list[str]) -> str:
    return " or ".join(filter(None, (", ".join(words[:-1]), words[-1])))
