"""The session that is replayed: what the client says, and what the history then holds.

Comes in: a shape and a seed. Goes out: a `Session`, and the body of any of its requests. The
assistant's turns are written here too, so that every server reads the same bytes; what a server
really answers is measured and left out, but for its signed thoughts, which only it can read. It
refuses to know sockets and clocks.

It is an agent's session as they are observed: three system blocks, of which the first is a line
that differs in each request; tools with long descriptions, one of them deferred; a system message
behind the first question and reminders further on, as blocks while they are last and as a string
from then on; marks on two system blocks and on the last message; parallel calls; one compaction.
"""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from .text import Pen

Block = dict[str, Any]
Message = dict[str, Any]
Mishap = Literal["dropped", "timed out"]

CYCLE = 5
"""Turns of one task: the question, then four rounds of calls and results."""
REMINDER_EVERY = 4
_MARK = {"type": "ephemeral"}
_TASKS = (
    "The import breaks on empty rows since this morning.",
    "The totals of the report are off by one line.",
    "The worker waits forever when the queue is empty.",
    "Two tests fail on the second run only.",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """How large a session is. Tokens are those of an English-trained tokenizer, about."""

    turns: int
    tools: int
    tool_tokens: int
    system_tokens: int
    environment_tokens: int
    turn_tokens: int
    """What the client adds in one turn."""

    @property
    def compaction(self) -> int:
        """The turn that asks for a summary."""
        return _half_way(self.turns)


def _half_way(turns: int) -> int:
    """The first turn of a task that is about there."""
    return max(1, round(turns / 2 / CYCLE)) * CYCLE + 1


SMALL = Shape(
    turns=20, tools=8, tool_tokens=30, system_tokens=300, environment_tokens=150, turn_tokens=300
)
"""For a window of 8,192 tokens: at least 320 new tokens a turn, at most 6,000 in all."""


def full(tokens: int, turns: int = 40) -> Shape:
    """A session whose prompt grows to about `tokens`, twice: up to the compaction and up to the
    end. A third of it is tools and system prompt, as is usual."""
    head, body = tokens // 3, tokens - tokens // 3
    longest = max(_half_way(turns), turns - _half_way(turns))
    return Shape(
        turns=turns,
        tools=20,
        tool_tokens=head // 2 // 20,
        system_tokens=head * 4 // 10,
        environment_tokens=head // 10,
        # What the assistant says and calls is some eighty tokens a turn.
        turn_tokens=max(40, body // longest - 80),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """One question of the client and what the history holds as its answer."""

    number: int
    adds: tuple[Message, ...]
    says: tuple[Block, ...]
    afresh: bool = False
    """Whether the history begins anew with this turn: it was summed up."""
    mishap: Mishap | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """Everything that is sent, but for the billing line."""

    seed: int
    system: tuple[str, str]
    tools: tuple[dict[str, Any], ...]
    turns: tuple[Turn, ...]


Echoes = Mapping[int, Sequence[Block]]
"""The signed thoughts that a server gave, by the turn that it answered."""


def write(shape: Shape, seed: int) -> Session:
    """The session of this seed. Its very first words are the seed's, so that no server has read
    the beginning of another one's."""
    pen = Pen(seed)
    system = (
        f"You are a coding agent in the workspace {pen.name()}-{pen.number()}.",
        "\n" + pen.prose(shape.system_tokens) + "\n",
    )
    tools = tuple(_tools(shape, pen))
    return Session(seed=seed, system=system, tools=tools, turns=tuple(_turns(shape, pen)))


def _turns(shape: Shape, pen: Pen) -> list[Turn]:
    environment = _note(f"# Environment\n{pen.prose(shape.environment_tokens)}")
    turns: list[Turn] = []
    step = 0
    for number in range(1, shape.turns + 1):
        before = turns[-1].says if turns else ()
        afresh = number == shape.compaction + 1
        if number == shape.compaction:
            asked = f"Sum up this session, so that it can go on. {pen.prose(shape.turn_tokens)}"
            adds = [_user(_text(asked))]
            says: tuple[Block, ...] = (_text(pen.prose(shape.turn_tokens)),)
        else:
            adds = [_user(*_asks(step, number, shape, pen, before))]
            says = tuple(_says(step, number, pen))
            step = (step + 1) % CYCLE
        if afresh:
            opening = f"This session goes on from an earlier one. {before[0]['text']}"
            adds[0]["content"].insert(0, _text(opening))
        if number == 1:
            reminder = "<system-reminder>\nThe user likes short answers.\n</system-reminder>\n"
            adds[0]["content"].insert(0, _text(reminder))
        if number == 1 or afresh:
            adds.append(environment)
        elif number % REMINDER_EVERY == 0:
            adds.append(_note(f"Reminder: {pen.number()} tokens are left. The list is empty."))
        turns.append(
            Turn(
                number=number,
                adds=tuple(adds),
                says=says,
                afresh=afresh,
                mishap=_mishap(number, shape),
            )
        )
    return turns


def _mishap(number: int, shape: Shape) -> Mishap | None:
    if number == max(2, shape.compaction // 2):
        return "dropped"
    return "timed out" if number == shape.compaction + 4 else None


def _asks(step: int, number: int, shape: Shape, pen: Pen, before: Sequence[Block]) -> list[Block]:
    """A question, or the results of the calls before it."""
    if step == 0:
        task = _TASKS[number // CYCLE % len(_TASKS)]
        return [_text(f"{task}\n\nTraceback:\n{pen.traceback(shape.turn_tokens)}")]
    calls = [block for block in before if block["type"] == "tool_use"]
    each = shape.turn_tokens // len(calls)
    shows = {"Read": pen.file, "Edit": pen.file, "Grep": pen.search, "Bash": pen.log}
    return [
        {
            "type": "tool_result",
            "tool_use_id": call["id"],
            "content": shows[call["name"]](each),
            "is_error": False,
        }
        for call in calls
    ]


def _says(step: int, number: int, pen: Pen) -> list[Block]:
    """What the assistant is said to have answered."""

    def call(place: int, name: str, **given: Any) -> Block:
        return {"type": "tool_use", "id": f"toolu_{number}_{place}", "name": name, "input": given}

    match step:
        case 0:
            return [
                _text("I read the file and look for its callers."),
                call(0, "Read", file_path=pen.path()),
                call(1, "Grep", pattern=pen.name(), path="src"),
            ]
        case 1:
            return [_text("One more file."), call(0, "Read", file_path=pen.path(), offset=120)]
        case 2:
            changed = {"old_string": pen.code(15), "new_string": pen.code(20)}
            return [
                _text("Both places need the same change."),
                call(0, "Edit", file_path=pen.path(), **changed),
                call(1, "Edit", file_path=pen.path(), **changed),
            ]
        case 3:
            command = f"python -m pytest {pen.path()} -q"
            return [_text("Now the tests."), call(0, "Bash", command=command, timeout=60)]
        case _:
            return [_text(f"It is repaired, and the tests pass. {pen.prose(20)}")]


_TOOLS: dict[str, dict[str, str]] = {
    "Read": {"file_path": "string", "offset": "integer", "limit": "integer"},
    "Grep": {"pattern": "string", "path": "string", "ignore_case": "boolean"},
    "Edit": {"file_path": "string", "old_string": "string", "new_string": "string"},
    "Bash": {"command": "string", "timeout": "integer"},
    "Write": {"file_path": "string", "content": "string"},
    "Glob": {"pattern": "string", "path": "string"},
    "Plan": {"steps": "array", "done": "integer"},
    "Agent": {"task": "string", "prompt": "string"},
    "Fetch": {"url": "string", "prompt": "string"},
    "Search": {"query": "string", "domains": "array"},
    "Notebook": {"file_path": "string", "cell": "integer", "source": "string"},
    "Output": {"task": "string", "wait": "boolean"},
    "Stop": {"task": "string"},
    "Skill": {"name": "string", "arguments": "string"},
    "Wake": {"seconds": "integer", "reason": "string"},
    "Findings": {"findings": "array"},
    "Agents": {"all": "boolean"},
    "Move": {"source": "string", "target": "string"},
    "Diff": {"path": "string", "against": "string"},
}
_PLACEHOLDER = {
    "name": "Later",
    "description": "Stands for tools that are made known later.",
    "input_schema": {"type": "object", "properties": {}},
    "defer_loading": True,
}


def _tools(shape: Shape, pen: Pen) -> list[dict[str, Any]]:
    """The first ones of the table, and a placeholder that the model is not shown."""
    found: list[dict[str, Any]] = []
    for name, given in list(_TOOLS.items())[: shape.tools - 1]:
        properties = {
            key: {"type": kind} | ({"items": {"type": "string"}} if kind == "array" else {})
            for key, kind in given.items()
        }
        schema = {"type": "object", "properties": properties, "required": [next(iter(given))]}
        description = f"{pen.name()}: {pen.prose(shape.tool_tokens)}"
        found.append({"name": name, "description": description, "input_schema": schema})
    return [*found, _PLACEHOLDER]


def _text(text: str) -> Block:
    return {"type": "text", "text": text}


def _user(*blocks: Block) -> Message:
    return {"role": "user", "content": list(blocks)}


def _note(text: str) -> Message:
    return {"role": "system", "content": text}


def billing_line(seed: int, request: int) -> str:
    """Differs with each request, in digits only: it is as many tokens each time."""
    digits = random.Random(f"{seed} {request}")  # noqa: S311 - no secret
    build, check = digits.randrange(100, 1000), digits.randrange(10_000, 100_000)
    return (
        f"x-anthropic-billing-header: cc_version=2.1.330.{build}; cc_entrypoint=cli; cch={check};"
    )


def messages(session: Session, turn: Turn, echoes: Echoes) -> list[Message]:
    """The conversation up to this turn's question."""
    found: list[Message] = []
    for earlier in session.turns[: turn.number]:
        if earlier.afresh:
            found.clear()
        found += earlier.adds
        if earlier is not turn:
            said = [*echoes.get(earlier.number, ()), *earlier.says]
            found.append({"role": "assistant", "content": said})
    found[-1] = _marked(found[-1])
    return found


def _marked(message: Message) -> Message:
    """With a mark on its last block."""
    content = message["content"]
    blocks = [_text(content)] if isinstance(content, str) else content
    return message | {"content": [*blocks[:-1], blocks[-1] | {"cache_control": _MARK}]}


def body(
    session: Session, turn: Turn, echoes: Echoes, *, billing: str, as_string: bool = False
) -> dict[str, Any]:
    """The request of a turn, but for `model`, `max_tokens` and `stream`. `as_string`: the system
    prompt is one string, which begins with the billing line."""
    return head(session, billing=billing, as_string=as_string) | {
        "messages": messages(session, turn, echoes)
    }


def head(session: Session, *, billing: str, as_string: bool = False) -> dict[str, Any]:
    """What all requests of a session begin with, and how they want to be answered."""
    system: str | list[Block]
    if as_string:
        system = "\n".join([billing, *session.system])
    else:
        marked = [_text(text) | {"cache_control": _MARK} for text in session.system]
        system = [_text(billing), *marked]
    return {
        "system": system,
        "tools": list(session.tools),
        "thinking": {"type": "adaptive", "display": "omitted"},
        "context_management": {"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]},
        "output_config": {"effort": "high"},
        "metadata": {"user_id": f"session_{session.seed}"},
    }


def unread(asked: dict[str, Any], word: str) -> dict[str, Any]:
    """The same request with other first words in tools and system prompt: no server has read its
    beginning, and it is as long."""
    first, *others = asked["tools"]
    system = asked["system"]
    if isinstance(system, str):
        line, _, rest = system.partition("\n")
        changed: str | list[Block] = f"{line}\n{word} {rest}"
    else:
        line, named, *more = system
        changed = [line, named | {"text": f"{word} {named['text']}"}, *more]
    tools = [first | {"description": f"{word} {first['description']}"}, *others]
    return asked | {"system": changed, "tools": tools}
