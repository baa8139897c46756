"""Which patterns an answer can be held to. Pure.

The grammar compiler takes every pattern as if it were anchored on both sides, and writes what it
allows into the JSON as it is, unescaped. So a pattern is held only when it says itself where it
begins and ends, and when no text that fits it needs an escape: letters, digits, blanks and most
signs, classes of them, `\\d` and `\\w`, groups that are not nested, and counts below a hundred.
Any other would force the model into texts that nobody meant.
"""

import re

_LONGEST = 200
_ESCAPED = r"\\[dw.+*?()|/\[\]{}^$-]"
_RANGE = "[a-z]-[a-z]|[A-Z]-[A-Z]|[0-9]-[0-9]"
_SIGNS = "A-Za-z0-9 _:;,@/#%&=!~<>'`"
_CLASS = rf"\[(?:{_RANGE}|[{_SIGNS}.+*?()|{{}}$]|{_ESCAPED})++-?\]"
_HOW_OFTEN = r"(?:[?*+]|\{\d{1,2}(?:,\d{0,2})?\})?"
_RUN = rf"(?:(?:[{_SIGNS}-]|{_ESCAPED}|{_CLASS}){_HOW_OFTEN})*+"
_GROUP = rf"\((?:\?:)?{_RUN}(?:\|{_RUN})*+\)[?*+]?"
# Possessive throughout: no pattern of a client's keeps this one busy.
_HOLDABLE = re.compile(rf"\^(?:(?=[^()])(?>{_RUN})|{_GROUP})*+\$")


def holdable(pattern: str) -> bool:
    """Whether an answer can be held to `pattern` as it is meant."""
    return len(pattern) <= _LONGEST and _HOLDABLE.fullmatch(pattern) is not None
