"""Blanks what looks like a secret or a person's data in a logged conversation.

Comes in: a conversation. Goes out: the same with placeholders such as `[e-mail]`, and how many
there are. Patterns and checksums alone: it errs towards blanking, and cannot know a name or a
street from other words, so a log still needs the agreement of those who wrote it. It refuses to
know where the conversation comes from.

Ids that tie a call to its result stay, for they are the client's own counters.
"""

from __future__ import annotations

import ipaddress
import math
import re
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from senryu.server.conversation.messages import (
    Block,
    Conversation,
    ImageBlock,
    Message,
    NoteBlock,
    TextBlock,
    ThinkingBlock,
    Tool,
    ToolDefinitionBlock,
    ToolResultBlock,
    ToolUseBlock,
)

_Judge = Callable[[re.Match[str]], str | None]
"""What to put in the place of a match; None leaves it."""


def redacted(conversation: Conversation) -> tuple[Conversation, int]:
    """The conversation without them, and how many were blanked."""
    eraser = _Eraser()
    return (
        Conversation(
            system=tuple(TextBlock(text=eraser.text(block.text)) for block in conversation.system),
            tools=tuple(eraser.tool(tool) for tool in conversation.tools),
            messages=tuple(
                Message(role=each.role, content=tuple(map(eraser.block, each.content)))
                for each in conversation.messages
            ),
        ),
        eraser.blanked,
    )


def redact_text(text: str) -> tuple[str, int]:
    """The same for one text."""
    eraser = _Eraser()
    return eraser.text(text), eraser.blanked


class _Eraser:
    """Goes through the parts of a conversation and counts."""

    def __init__(self) -> None:
        self.blanked = 0

    def text(self, text: str) -> str:
        for pattern, judge in _RULES:
            text = pattern.sub(partial(self._judged, judge), text)
        return text

    def _judged(self, judge: _Judge, match: re.Match[str]) -> str:
        instead = judge(match)
        if instead is None:
            return match.group()
        self.blanked += 1
        return instead

    def value(self, value: Any, *, secret: bool = False) -> Any:
        """JSON with its texts and numbers cleaned; blanked where a name says that it is secret."""
        if isinstance(value, Mapping):
            return {
                self.text(key): self.value(each, secret=secret or _names_a_secret(key, each))
                for key, each in value.items()
            }
        if isinstance(value, list | tuple):
            return [self.value(each, secret=secret) for each in value]
        if isinstance(value, bool) or not isinstance(value, str | int | float):
            return value
        told = str(value)
        if secret and len(told) >= _SHORTEST and not _PLACEHOLDER.fullmatch(told):
            self.blanked += 1
            return "[secret]"
        clean = self.text(told)
        return value if clean == told else clean

    def tool(self, tool: Tool) -> Tool:
        return replace(
            tool,
            description=self.text(tool.description),
            input_schema=self._schema(tool.input_schema),
            input_examples=tuple(self.value(example) for example in tool.input_examples),
        )

    def _schema(self, schema: Any, *, secret: bool = False) -> Any:
        """Its words and the values that it gives. What its properties are called stays, and so does
        what a validator reads: a `password` among the names is no secret, its default is."""
        if isinstance(schema, list | tuple):
            return [self._schema(each, secret=secret) for each in schema]
        if not isinstance(schema, Mapping):
            return schema
        clean: dict[str, Any] = {}
        for key, told in schema.items():
            if key in _GIVEN:
                clean[key] = self.value(told, secret=secret)
            elif key in _WORDS and isinstance(told, str):
                clean[key] = self.text(told)
            elif key in _NAMED and isinstance(told, Mapping):
                clean[key] = {
                    name: self._schema(each, secret=secret or bool(_SECRET_NAME.search(name)))
                    for name, each in told.items()
                }
            else:
                clean[key] = self._schema(told, secret=secret)
        return clean

    def block(self, block: Block) -> Block:
        match block:
            case TextBlock() | NoteBlock():
                return replace(block, text=self.text(block.text))
            case ThinkingBlock():
                return replace(block, thinking=self.text(block.thinking))
            case ToolUseBlock():
                return replace(block, input=self.value(block.input))
            case ToolResultBlock():
                return replace(block, content=tuple(map(self._inner, block.content)))
            case ToolDefinitionBlock():
                return replace(block, tool=self.tool(block.tool))
            case ImageBlock():
                return block

    def _inner(
        self, block: TextBlock | ImageBlock | ToolDefinitionBlock
    ) -> TextBlock | ImageBlock | ToolDefinitionBlock:
        cleaned = self.block(block)
        assert isinstance(cleaned, TextBlock | ImageBlock | ToolDefinitionBlock)
        return cleaned


def _always(instead: str) -> _Judge:
    return lambda match: match.expand(instead)


def _likely(match: re.Match[str]) -> str | None:
    """A token that is a number counts something, and one with brackets is computed."""
    plain = match[2].isdigit() or re.search(r"[(\[]", match[2]) is not None
    return None if plain and "token" in match[1].lower() else f"{match[1]}[secret]"


def _card(match: re.Match[str]) -> str | None:
    """Luhn's check digit (ISO/IEC 7812) tells a card's number from another."""
    digits = [int(each) for each in match.group() if each.isdigit()]
    doubled = (sum(divmod(2 * digit, 10)) for digit in digits[-2::-2])
    valid = (sum(digits[-1::-2]) + sum(doubled)) % 10 == 0
    return "[card number]" if valid and 13 <= len(digits) <= 19 and any(digits) else None


def _account(match: re.Match[str]) -> str | None:
    """An IBAN: its two check digits (ISO 7064) tell it from other capitals and digits, and where
    it ends."""
    text = match.group()
    ends = [at for at in range(len(text), 14, -1) if at == len(text) or not text[at].isalnum()]
    for end in ends:
        plain = "".join(filter(str.isalnum, text[:end]))
        if (
            len(plain) >= 15
            and int("".join(str(int(c, 36)) for c in plain[4:] + plain[:4])) % 97 == 1
        ):
            return "[account number]" + text[end:]
    return None


def _phone(match: re.Match[str]) -> str | None:
    count = sum(each.isdigit() for each in match.group())
    return "[phone number]" if 8 <= count <= 15 else None


def _network_address(match: re.Match[str]) -> str | None:
    try:
        address = ipaddress.ip_address(match.group())
    except ValueError:
        return None
    # Those that mean the same on every machine say nothing about one.
    return None if address.is_loopback or address.is_unspecified else "[IP address]"


def _random_looking(match: re.Match[str]) -> str | None:
    """Letters and digits without the habits of words: many different ones, in no order."""
    text = match.group()
    digits = sum(each.isdigit() for each in text)
    hexadecimal = re.fullmatch(r"[0-9a-fA-F-]+", text) is not None
    mixed = any(each.islower() for each in text) and any(each.isupper() for each in text)
    strewn = len(_LETTER_BESIDE_DIGIT.findall(text)) >= 6
    if digits < 3 or not (mixed or hexadecimal or strewn):
        return None
    return "[secret]" if _bits(text) >= (3.0 if hexadecimal else 3.5 if strewn else 3.9) else None


def _base32(match: re.Match[str]) -> str | None:
    """Secrets of one-time passwords: capitals and a few digits, none of them 0, 1, 8 or 9."""
    text = match.group().rstrip("=")
    mixed = any(each.isdigit() for each in text) and any(each.isalpha() for each in text)
    return "[secret]" if mixed and _bits(text) >= 2.5 else None


def _bits(text: str) -> float:
    """Shannon's entropy of its characters."""
    counts = Counter(text).values()
    return -sum(count / len(text) * math.log2(count / len(text)) for count in counts)


def _names_a_secret(name: str, value: Any) -> bool:
    """Names such as `token` are also those of harmless things, with values that are words."""
    if _SECRET_NAME.search(name):
        return True
    random = isinstance(value, str) and any(each.isdigit() for each in value)
    return random and re.search(rf"{_WEAK_NAME}\Z", name) is not None


_SHORTEST = 6
_GIVEN = frozenset({"default", "const", "enum", "examples", "example"})
_WORDS = frozenset({"title", "description", "$comment"})
_NAMED = frozenset({"properties", "patternProperties", "dependentSchemas", "$defs", "definitions"})

_PLACEHOLDER = re.compile(
    r"\[(?:secret|private key|e-mail|card number|account number|social security number|"
    r"phone number|IP address|user)\]"
)
_SECRET_NAME = re.compile(
    r"(?i:pass(?:word|wd|phrase|code)|secret|credential|api[_-]?key|private[_-]?key|"
    r"(?:access|auth|refresh|session)[_-]?(?:key|token))"
)
_WEAK_NAME = (
    r"(?:(?<![A-Za-z])(?i:pass|pwd|pw|psk|token)|(?<=[a-z])(?:Pass|Pwd|Token))(?:[_-]?\d{1,3})?"
)
_LETTER_BESIDE_DIGIT = re.compile(r"(?<=[A-Za-z])\d|(?<=\d)[A-Za-z]")

# What stands between a name and its value, as in `name: str = "value"` or `\"name\": \"value\"`.
_BETWEEN = (
    r"(?:\\{0,3}[\"'`]|\*\*)?(?:[ \t]*:[ \t]*(?:str|[Ss]tring)\b\??)?[ \t]*"
    r"(?:=>|:?={1,3}|:)(?:\*\*)?[ \t]*"
)
_QUOTED = (
    rf"(?P<mark>\\{{0,3}}[\"'`])(?!{_PLACEHOLDER.pattern})"
    rf"(?:(?!(?<!\\)(?P=mark))[^\n]){{{_SHORTEST},400}}(?<!\\)(?P=mark)"
)
_BARE = rf"(?!{_PLACEHOLDER.pattern})(?:[^\s\"',;]|,(?=[^\s\"',])){{{_SHORTEST},}}"

# Lengths are bounded wherever a pattern could start anew at each character of a long text.
# In this order: what has a clear form goes first, so that nothing of it is left for the guesses.
_RULES: tuple[tuple[re.Pattern[str], _Judge], ...] = (
    (
        re.compile(r"-----BEGIN ([A-Z ]*PRIVATE KEY)-----.*?(?:-----END \1-----|\Z)", re.DOTALL),
        _always("[private key]"),
    ),
    # The password in an address.
    (re.compile(r"(://)[^\s/:@]*:[^\s/@]+@"), _always(r"\1[secret]@")),
    (
        re.compile(r"\b[\w.+-]{1,64}@(?:[\w-]{1,63}\.){1,8}[^\W\d_]{2,24}\b"),
        _always("[e-mail]"),
    ),
    # Tokens that name their kind at the beginning, and JSON Web Tokens.
    (
        re.compile(
            r"\b(?:sk-|pk-|rk_live_|sk_live_|gh[opsur]_|github_pat_|glpat-|xox[abeprs]-|hf_|npm_|"
            r"pypi-|AKIA|ASIA|AIza|ya29\.|eyJ[\w-]{10,400}\.)[\w.~+/=-]{12,}"
        ),
        _always("[secret]"),
    ),
    (
        re.compile(
            r"(?i)(\bAuthorization\\{0,3}[\"']?[ \t]*[:=][ \t]*\\{0,3}[\"']?"
            r"(?:[a-z][\w-]{1,20}[ \t]+)?)(?=[\w.~+/-]{0,200}[\d=])"
            rf"(?!{_PLACEHOLDER.pattern})[\w.~+/-]{{6,}}=*"
        ),
        _always(r"\1[secret]"),
    ),
    # Behind `basic` stands a word as a rule.
    (
        re.compile(
            r"\b(Bearer|Basic)[ \t]+(?=[\w.~+/-]{0,200}(?:\d|=|(?-i:[a-z][A-Z])))[\w.~+/-]{12,}=*",
            re.IGNORECASE,
        ),
        _always(r"\1 [secret]"),
    ),
    # A name, an equals sign or a colon, and the secret.
    (
        re.compile(rf"({_SECRET_NAME.pattern}[\w-]{{0,40}}{_BETWEEN}){_QUOTED}"),
        _always(r"\1\g<mark>[secret]\g<mark>"),
    ),
    (
        re.compile(rf"({_SECRET_NAME.pattern}[\w-]{{0,40}}{_BETWEEN}[\"']?){_BARE}"),
        _always(r"\1[secret]"),
    ),
    # Weaker signs, and what is no plain word.
    (
        re.compile(
            rf"((?:{_WEAK_NAME}{_BETWEEN}|{_SECRET_NAME.pattern}[ \t]+(?:is|was)[ \t]+)[\"'`]?)"
            rf"(?=[^\s\"',;]{{0,200}}\d)({_BARE})"
        ),
        _likely,
    ),
    (
        re.compile(
            rf"((?<![\w-])--[\w-]{{0,40}}(?:{_SECRET_NAME.pattern}|{_WEAK_NAME})[ \t]+){_BARE}"
        ),
        _always(r"\1[secret]"),
    ),
    (
        re.compile(r"((?:/home|/Users|[\\/]Users)[\\/]+)(?!\[)[^\s\\/:\"'<>|]+"),
        _always(r"\1[user]"),
    ),
    (re.compile(r"(?<![\w.])\d{1,3}(?:\.\d{1,3}){3}(?!\w|\.\d)"), _network_address),
    (
        re.compile(r"(?<![\w:])[0-9a-fA-F]{0,4}(?::[0-9a-fA-F]{0,4}){3,7}(?![\w:])"),
        _network_address,
    ),
    (re.compile(r"(?<![\w-])[A-Z]{2}\d{2}(?:[ -]?[A-Z0-9]){11,30}(?![\w-])"), _account),
    (re.compile(r"(?<![\w.-])\d(?:[ -]?\d){12,18}(?![\w-])"), _card),
    (
        re.compile(r"(?<![\w-])(?!000|666|9)\d{3}-(?!00)\d{2}-(?!0000)\d{4}(?![\w-])"),
        _always("[social security number]"),
    ),
    # +49 30 901820, (030) 901820, 020 7946 0958, 555-010-4477; dates and decimals are none.
    (
        re.compile(
            r"(?<![\w.,+-])(?:\+\d{1,3}(?:[ .()/-]{0,2}\d){6,13}"
            r"|\(\d{2,5}\)[ -]?\d(?:[ -]?\d){4,9}"
            r"|0\d{1,4}[ /-]\d(?:[ -]?\d){4,9}"
            r"|\d{3}[ .-]\d{3}[ .-]\d{4})(?![\w-]|\.\d)"
        ),
        _phone,
    ),
    (re.compile(r"(?<![\w+/=-])[A-Z2-7]{16,128}={0,6}(?![\w+/=-])"), _base32),
    (re.compile(r"(?<![\w+/=-])[\w+/-]{20,}={0,2}(?![\w+/=-])", re.ASCII), _random_looking),
)
