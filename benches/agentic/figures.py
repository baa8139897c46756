"""The figures of a replayed session, out of what was measured of its turns.

Comes in: a `Measured` turn after the other. Goes out: `Figures`. Pure; None means that the server
does not tell, and is shown as a dash. The words are used so:

- A turn's **new** tokens are those that no earlier turn had sent. A session only grows, so they are
  its prompt less the prompt of the turn before; of the first turn all are new. The turn after a
  compaction shares tools and system prompt with those before it: what `count_tokens` says of them
  with a message of one word is taken off (some ten tokens too many; it makes the ratio worse and
  never better). Where the server cannot count, that turn stays out of both sums.
- An attempt's **computed** tokens are those of its prompt that the server did not find in a cache:
  `input_tokens + cache_creation_input_tokens` where it reports `cache_read_input_tokens`, otherwise
  what its engine's counters grew by (asked - had), otherwise unknown. A dropped attempt has only
  `message_start` to go by: a server that does not know yet what it found is taken at its word.
- A turn's computed tokens are the sum over its attempts. An attempt that the client left before the
  first token was stopped in the middle of its prompt: it counts with what the next one did not have
  to compute again, for at least so much it had done. Where it told nothing of its prompt, that is
  what is missing to the turn's new tokens.
- **Computed over new** is the ratio of the sums over all turns of which both are known. 1.0 would
  be reading nothing twice; the turn's last, half-filled block is always read again.
- **Read again** is computed less new, at least 0, summed over the same turns.
- The **hit rate** is what was found in a cache over all prompt tokens of the attempts that ended by
  themselves.
"""

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from .stream import (
    Attempt,
    calls,
    final_usage,
    first_token_seconds,
    known_usage,
    longest_silence,
    same_input,
    start_seconds,
    started_usage,
)

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """One turn of the session as it went."""

    number: int
    kind: str
    """`first`, `grown`, `compacted`, `dropped` or `timed out`."""
    attempts: tuple[Attempt, ...]
    """The last one ended by itself."""
    counted: int | None
    """What `count_tokens` said of the same request."""
    shared: int | None
    """Of a compacted turn: tokens of tools and system prompt, as `count_tokens` says."""
    cold_seconds: float | None = None
    """Time to the first token of the same turn with a beginning that nobody had read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnFigures:
    """A line of the table of turns."""

    number: int
    kind: str
    prompt: int | None
    new: int | None
    computed: int | None
    start_s: float | None
    first_token_s: float | None
    cold_s: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """So many of so many."""

    met: int
    of: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """Of a whole session."""

    turns: tuple[TurnFigures, ...]
    requests: int
    sent: int | None
    """Prompt tokens of all requests."""
    new: int | None
    computed: int | None
    computed_over_new: float | None
    read_again: int | None
    hit_rate: float | None
    first_token_cold_s: float | None
    """Of the first turn."""
    first_token_warm_s: float | None
    """The median of the turns that only grew."""
    first_token_warm_longest_s: float | None
    start_s: float | None
    """Median time to `message_start`."""
    start_longest_s: float | None
    silence_s: float
    silence_without_pings_s: float
    calls: int
    calls_unparsable: int
    calls_cut: int
    usage_same: Share | None
    """Answers whose `message_start` and `message_delta` say the same about the prompt."""
    count_same: Share | None
    """Turns of which `count_tokens` and usage say the same."""
    counters_same: Share | None
    """Answers whose usage is what the engine's counters grew by."""
    billing_shared: float | None = None
    """Of the prompt, when only the billing line differs."""
    first_request_s: float | None = None
    """Time to the first token of a short request with one tool, before all turns: what a server
    puts off until somebody asks."""


def computed_tokens(attempt: Attempt) -> int | None:
    usage = known_usage(attempt)
    if usage is not None and usage.computed is not None:
        return usage.computed
    counters = attempt.counters
    return None if counters is None else counters.asked - counters.had


def prompt_tokens(attempt: Attempt) -> int | None:
    usage = known_usage(attempt)
    return None if usage is None else usage.prompt


def hit_share(attempt: Attempt) -> float | None:
    """How much of an attempt's prompt was found in a cache."""
    prompt, computed = prompt_tokens(attempt), computed_tokens(attempt)
    return None if not prompt or computed is None else 1 - computed / prompt


def _turn_computed(attempts: Sequence[Attempt], new: int | None) -> int | None:
    *earlier, last = attempts
    after = total = computed_tokens(last)
    for attempt in reversed(earlier):
        own = computed_tokens(attempt)
        if total is None or after is None:
            return None
        if first_token_seconds(attempt) is not None:
            if own is None:
                return None
            total += own
        elif own is not None:
            total += max(0, own - after)
        elif new is not None:
            total = max(total, new)
        after = own if own is not None else after
    return total


def turn_figures(measured: Iterable[Measured]) -> list[TurnFigures]:
    found: list[TurnFigures] = []
    before: int | None = 0
    for turn in measured:
        last = turn.attempts[-1]
        prompt = prompt_tokens(last)
        shared = turn.shared if turn.kind == "compacted" else before
        known = prompt is not None and shared is not None
        new = (prompt or 0) - (shared or 0) if known else None
        found.append(
            TurnFigures(
                number=turn.number,
                kind=turn.kind,
                prompt=prompt,
                new=new,
                computed=_turn_computed(turn.attempts, new),
                start_s=start_seconds(last),
                first_token_s=first_token_seconds(last),
                cold_s=turn.cold_seconds,
            )
        )
        before = prompt
    return found


def figures(measured: Sequence[Measured], tools: frozenset[str]) -> Figures:
    turns = turn_figures(measured)
    attempts = [attempt for turn in measured for attempt in turn.attempts]
    whole = [attempt for attempt in attempts if attempt.ending == "whole"]
    known = [(turn.new, turn.computed) for turn in turns]
    both = [(new, done) for new, done in known if new is not None and done is not None]
    new, computed = sum(new for new, _ in both), sum(done for _, done in both)
    grown = _known(turn.first_token_s for turn in turns if turn.kind == "grown")
    starts = _known(map(start_seconds, whole))
    prompts = [prompt_tokens(attempt) for attempt in attempts]
    made = [calls(attempt, tools) for attempt in whole]
    return Figures(
        turns=tuple(turns),
        requests=len(attempts),
        sent=sum(_known(prompts)) or None,
        new=new if both else None,
        computed=computed if both else None,
        computed_over_new=computed / new if new else None,
        read_again=sum(max(0, done - new) for new, done in both) if both else None,
        hit_rate=_hit_rate(whole),
        first_token_cold_s=turns[0].first_token_s if turns else None,
        first_token_warm_s=statistics.median(grown) if grown else None,
        first_token_warm_longest_s=max(grown, default=None),
        start_s=statistics.median(starts) if starts else None,
        start_longest_s=max(starts, default=None),
        silence_s=max(longest_silence(attempt, pings=True) for attempt in attempts),
        silence_without_pings_s=max(longest_silence(attempt, pings=False) for attempt in attempts),
        calls=sum(each.made for each in made),
        calls_unparsable=sum(each.unparsable for each in made),
        calls_cut=sum(each.cut for each in made),
        usage_same=_share(map(_usage_same, whole)),
        count_same=_share(map(_count_same, measured)),
        counters_same=_share(map(_counters_same, whole)),
    )


def with_probes(of: Figures, *, first: Attempt | None, repeated: Attempt | None) -> Figures:
    """`first`: the request before all turns. `repeated`: the last turn's once more, with another
    billing line."""
    return replace(
        of,
        first_request_s=first_token_seconds(first) if first else None,
        billing_shared=hit_share(repeated) if repeated else None,
    )


def _hit_rate(whole: Sequence[Attempt]) -> float | None:
    pairs = [(prompt_tokens(each), computed_tokens(each)) for each in whole]
    known = [(prompt, done) for prompt, done in pairs if prompt is not None and done is not None]
    total = sum(prompt for prompt, _ in known)
    return 1 - sum(done for _, done in known) / total if total else None


def _usage_same(attempt: Attempt) -> bool | None:
    first, last = started_usage(attempt), final_usage(attempt)
    return None if first is None or last is None else same_input(first, last)


def _count_same(turn: Measured) -> bool | None:
    prompt = prompt_tokens(turn.attempts[-1])
    return None if prompt is None or turn.counted is None else prompt == turn.counted


def _counters_same(attempt: Attempt) -> bool | None:
    usage, counters = final_usage(attempt), attempt.counters
    if usage is None or usage.read is None or counters is None:
        return None
    return (usage.prompt, usage.read) == (counters.asked, counters.had)


def _share(answers: Iterable[bool | None]) -> Share | None:
    known = [answer for answer in answers if answer is not None]
    return Share(met=sum(known), of=len(known)) if known else None


def _known(values: Iterable[_T | None]) -> list[_T]:
    return [value for value in values if value is not None]
