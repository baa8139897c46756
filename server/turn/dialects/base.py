"""What a dialect is: how one family of models spells tools, tool calls and thinking.

A dialect is one file. It turns a conversation into plain chat messages for the model's own
template, and says by which marks the answer's thinking and calls are known; `turn.grammar`
makes a grammar of those marks and `turn.splitter` finds them again. Pure: no engine, no tokenizer.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from senryu.server.conversation.messages import Conversation, Tool
from senryu.server.turn.guard import THOUGHT_BEGINS, THOUGHT_ENDS

ChatMessage = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Chat:
    """What a model's own chat template is given."""

    messages: list[ChatMessage]
    """`{"role": ..., "content": ...}`, calls, results and thoughts spelt out in the content, which
    is a text (or an object where the family's template writes a result as JSON). Stand-ins
    (turn/guard.py) show where an image is and where a thought begins and ends."""
    tools: list[dict[str, Any]] = field(default_factory=list)
    """Tools for a template that words them itself, as JSON objects; empty where the dialect has
    worded them in the messages."""
    variables: Mapping[str, Any] = field(default_factory=dict)
    """What else the template may be told, by the names of its variables."""
    marks: tuple[str, ...] = ()
    """Words that the dialect alone writes: where a client wrote one, the dialect has guarded it
    (turn/guard.py), so that one without a guard may be a control token."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ThoughtMarks:
    """How thinking is spelt: `opening` stands at the end of the prompt, the model writes its
    thoughts and `closing`, then the answer. `skipped` stands at the end of the prompt of a model
    that could think and is not to."""

    opening: str
    closing: str
    skipped: str = ""

    def around(self, thought: str) -> str:
        """A thought of the past, its marks hidden from the template."""
        opening = self.opening.replace(self.opening.strip(), THOUGHT_BEGINS)
        return f"{opening}{thought}{self.closing.replace(self.closing.strip(), THOUGHT_ENDS)}"

    def shown(self, text: str) -> str:
        """The text that a template gave, with the marks in their places."""
        text = text.replace(THOUGHT_BEGINS, self.opening.strip())
        return text.replace(THOUGHT_ENDS, self.closing.strip())


@dataclass(frozen=True, slots=True, kw_only=True)
class CallMarks:
    """How a call is spelt: `opening`, a head that holds the tool's name, the input as one JSON
    object, a tail.

    The grammar writes `opening + head(name) + JSON + tail`, and `separator` between two calls; the
    splitter reads with `head_pattern` (its group `name`) and `tail_pattern`, which forgive white
    space that a grammar would not let pass. Both patterns match right after what they follow.
    """

    opening: str
    head: str
    """With `{name}`-free text around the marker `\\0`, where the tool's name goes."""
    tail: str
    separator: str
    head_pattern: re.Pattern[str]
    tail_pattern: re.Pattern[str]
    parallel: bool = True
    """Whether the family was trained on several calls in one answer."""
    anywhere: bool = True
    """Whether a call may follow a text. Where `opening` is what a text may well hold, a call is one
    only at the very start of an answer."""

    def head_of(self, name: str) -> str:
        return self.head.replace("\0", name)


class Dialect(Protocol):
    """One family's spelling."""

    @property
    def name(self) -> str: ...

    @property
    def thought(self) -> ThoughtMarks | None:
        """None for a model that does not think."""
        ...

    @property
    def calls(self) -> CallMarks: ...

    def chat(self, conversation: Conversation) -> Chat:
        """The conversation as the model's template takes it; a prefilled last turn is left out
        (the prompt ends with it). The same conversation gives the same bytes always, and a longer
        one begins with those of its beginning."""
        ...

    def define(self, tool: Tool) -> str:
        """One tool as the model reads it, also in the middle of a conversation."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """A dialect as the table in `__init__` knows it."""

    name: str
    speaks: Callable[[ThoughtMarks | None], Dialect]
    """Makes the dialect, with the marks of thinking for a model that thinks."""
    recognises: Callable[[str], bool]
    """Whether a chat template is of this family."""
    sign: str
    """What such a template shows, as the end of a sentence."""
