"""How families of models spell tools and thinking; and which one a model speaks.

A new dialect is a file here and its line in `_FAMILIES`: nobody else names one.
"""

from . import hermes, llama3, plain
from .base import Dialect, Family

# The first that recognises a template is taken; the last recognises every one.
_FAMILIES: tuple[Family, ...] = (hermes.FAMILY, llama3.FAMILY, plain.FAMILY)


def choose_dialect(template: str, *, asked: str | None, named: str | None) -> tuple[Dialect, str]:
    """The dialect of the model with this chat template, and why, as the end of a sentence.

    `asked` is what a setting says and `named` what the model folder says, when they say anything.
    Raises ValueError for a name that is no dialect's.
    """
    if asked is not None:
        family, why = _called(asked), "it was asked for"
    elif named is not None:
        family, why = _called(named), "the model folder names it"
    else:
        family = next(each for each in _FAMILIES if each.recognises(template))
        why = f"its chat template {family.sign}"
    thinks = "</think>" in template
    return family.speaks(hermes.THOUGHT if thinks else None), why


def _called(name: str) -> Family:
    for family in _FAMILIES:
        if family.name == name:
            return family
    names = ", ".join(family.name for family in _FAMILIES)
    raise ValueError(f"there is no dialect {name!r}: name one of {names}")
