"""Shows a comparison: one page for people, one record for machines, a few lines for a terminal.

Comes in: a `Comparison`. Goes out: the text of `report.html`, of a short table, and both files in
their place. It measures nothing and says only what it is given.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from statistics import fmean

from senryu.distill.compare import Figure
from senryu.distill.curves import Line, draw
from senryu.distill.page import (
    Card,
    Cards,
    Drawing,
    Part,
    Section,
    SideBySide,
    Table,
    Text,
    Verbatim,
    page,
)

from .comparison import Comparison
from .measures import ALL, ANSWERS, Measures, Row
from .picture import fields
from .speed import Speed, verdict
from .spoken import CALLS, Call, Mode, Pair, Said, Share, Speech, Who

PAGE = "report.html"
RECORD = "report.json"
_SHOWN = 8
"""Answers that stand side by side on the page."""
_BOTH: tuple[Who, ...] = ("parent", "candidate")
_FEW = 20
"""Of fewer cases no percentage is told: it would look surer than it is."""
_EXPLAINED = (
    "KL(parent || quantized) over the whole vocabulary, in nats a token, at every position of "
    "held-out conversations, prompts included: text that no weight was fitted to. In brackets: "
    "95 % intervals, by bootstrap over the conversations. The perplexity is that of the recorded "
    "text, and says less: a model may predict the text as well and still choose other words."
)
_ASKED = (
    "Both models were served by the real engine and always took their most probable token. Every "
    "recorded turn with a tool call was asked again behind its true history: free to call or not; "
    "with a call of the recorded tool begun for it, and nothing to hold its input; and held to a "
    "call by a grammar, as the server does where a call is demanded. A call is valid when it is "
    "whole JSON, names a known tool, and its input fits the tool's schema."
)


def write(found: Comparison, out: Path) -> Path:
    """Put both files into the folder, each whole or not at all; the page's path."""
    out.mkdir(parents=True, exist_ok=True)
    _put(out / RECORD, found.text())
    _put(out / PAGE, render(found))
    return out / PAGE


def _put(file: Path, text: str) -> None:
    partial = file.with_name(f".{file.name}.partial")
    try:
        with partial.open("w", encoding="utf-8") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(partial, file)
    except OSError:
        partial.unlink(missing_ok=True)
        raise


def table(found: Comparison) -> str:
    """The main figures, a line each, for a terminal."""
    rows = [("", _scheme(found.parent.scheme), _scheme(found.candidate.scheme))]
    rows.append(("size", _bytes(found.parent.bytes), _bytes(found.candidate.bytes)))
    row = found.measures.all
    rows += [
        ("KL, nats a token", "", f"{row.kl.value:.4f}"),
        ("same first choice", "", f"{100 * row.agreement.value:.1f} %"),
        ("perplexity", f"{row.parent_perplexity.value:.2f}", f"{row.perplexity.value:.2f}"),
    ]
    if found.speech:
        rows += [(name, mine, its) for name, mine, its in _speech_rows(found.speech)]
    if found.speed:
        rows += [
            (
                f"tokens a second, {_streams(each.streams)}",
                _rate(fmean(each.parent)),
                _rate(fmean(each.candidate)),
            )
            for each in found.speed.rates
        ]
    widths = [max(len(row[place]) for row in rows) for place in range(3)]
    lines = [
        f"{row[0]:<{widths[0]}}  {row[1]:>{widths[1]}}  {row[2]:>{widths[2]}}".rstrip()
        for row in rows
    ]
    return "\n".join([*lines, *_verdicts(found)])


def _verdicts(found: Comparison) -> Iterator[str]:
    if found.speed:
        yield _advice(found, found.speed)
    if found.broken is not None and not found.broken:
        yield "It keeps all bounds that it was held to."


def render(found: Comparison) -> str:
    """The page."""
    sections = [
        Section("What was lost", (_headline(found), *_judged(found), Text(_EXPLAINED))),
        *_section("Speed and size here", _speed(found)),
        *_section("By kind of text", _by_kind(found.measures)),
        *_section("Layer by layer", _layers(found)),
        *_section("What it says when it is served", _speech(found)),
        Section("How it was made and measured", _made(found)),
    ]
    subtitle = (
        f"{found.candidate.scheme} beside {found.parent.scheme}, {found.date[:10]}, {found.machine}"
    )
    foot = f"senryu {found.versions.get('senryu', '')}".strip()
    return page(found.candidate.name, subtitle, sections, foot=foot)


def _section(title: str, parts: tuple[Part, ...]) -> list[Section]:
    return [Section(title, parts)] if parts else []


def _headline(found: Comparison) -> Cards:
    row = found.measures.all
    cards = [
        Card("KL to the parent", f"{row.kl.value:.3f}", "nats a token"),
        Card("Same first choice", f"{100 * row.agreement.value:.1f} %", "of all positions"),
        Card(
            "Perplexity",
            f"{row.parent_perplexity.value:.2f} → {row.perplexity.value:.2f}",
            f"{row.perplexity_ratio:.3f} times the parent's",
        ),
    ]
    bits = found.candidate.weight_bits
    cards.append(
        Card(
            "Size",
            f"{_bytes(found.parent.bytes)} → {_bytes(found.candidate.bytes)}",
            f"{found.size_ratio:.3f} of the parent's"
            + (f", {bits:.2f} bits a weight of linear layers" if bits else ""),
        )
    )
    if found.speech:
        worse = found.speech.worse_calls
        told = [found.speech.kept(who, worse) for who in _BOTH]
        how = "free to call" if worse == "auto" else "begun for both"
        cards.append(
            Card("Valid tool calls", f"{told[0]} → {told[1]}", f"where the parent calls, {how}")
        )
    if found.speed:
        first = found.speed.rates[0]
        cards.append(
            Card(
                f"Speed at {_streams(first.streams)}",
                f"{_rate(fmean(first.parent))} → {_rate(fmean(first.candidate))}",
                f"tokens a second, {first.times} as fast",
            )
        )
    return Cards(tuple(cards))


def _judged(found: Comparison) -> tuple[Part, ...]:
    if found.broken is None:
        return ()
    if not found.broken:
        return (Text("It keeps all bounds that it was held to, and may be served."),)
    return (Text(f"Not to be served: {'; '.join(found.broken)}."),)


def _advice(found: Comparison, speed: Speed) -> str:
    names = _scheme(found.candidate.scheme), _scheme(found.parent.scheme)
    told = verdict(speed.rates, *names, advise=not found.broken)
    return f"Here {told}"


def _scheme(told: str) -> str:
    return told.partition(",")[0]


def _speed(found: Comparison) -> tuple[Part, ...]:
    rows = [
        (
            "size of the folder",
            _bytes(found.parent.bytes),
            _bytes(found.candidate.bytes),
            f"{found.size_ratio:.3f}",
        )
    ]
    speed = found.speed
    if speed:
        mine, its = speed.parent_load_seconds, speed.candidate_load_seconds
        rows.append(("seconds until it answers", f"{mine:.1f}", f"{its:.1f}", f"{its / mine:.2f}"))
        rows += [
            (
                f"tokens a second, {_streams(each.streams)}",
                _rounds(each.parent),
                _rounds(each.candidate),
                f"{each.ratio:.2f}",
            )
            for each in speed.rates
        ]
    columns = ("", found.parent.scheme, found.candidate.scheme, "quantized / parent")
    parts: list[Part] = [Table(columns, tuple(rows))]
    if speed:
        parts.append(
            Text(
                f"{_advice(found, speed)} Measured on this machine, the models in turns, all "
                "answers of a round together, from the first prompt to the last token; in brackets "
                "the slowest and the fastest round. The one that is loaded second finds more of "
                "what it needs in memory."
            )
        )
    return tuple(parts)


def _rounds(rates: tuple[float, ...]) -> str:
    told = _rate(fmean(rates))
    return told if len(rates) < 2 else f"{told} ({_rate(min(rates))} to {_rate(max(rates))})"


def _rate(told: float) -> str:
    """Three digits: more is noise."""
    return f"{told:.{0 if told >= 100 else 1 if told >= 10 else 2}f}"


_NAMES = {ALL: "all text", ANSWERS: "answers alone"}


def _by_kind(measures: Measures) -> tuple[Part, ...]:
    columns = (
        *("", "passages", "tokens", "KL, mean", "median", "99th percentile"),
        *("same first choice, %", "perplexity", "parent's"),
    )
    return (Table(columns, tuple(map(_kind_row, measures.rows))),)


def _kind_row(row: Row) -> tuple[str, ...]:
    return (
        _NAMES.get(row.name, row.name),
        str(row.passages),
        f"{row.tokens:,}",
        _shown(row.kl),
        f"{row.kl_median:.4f}",
        f"{row.kl_p99:.2f}",
        _shown(row.agreement, 1, scale=100),
        f"{row.perplexity.value:.2f}",
        f"{row.parent_perplexity.value:.2f}",
    )


def _layers(found: Comparison) -> tuple[Part, ...]:
    measures = found.measures
    behind = Line("", tuple((float(at), error) for at, error in enumerate(measures.layers)))
    drawn = [
        (
            draw([behind], x="decoder layer", y="relative error"),
            "How far the hidden states behind each decoder layer are from the parent's: the length "
            "of the difference over the length of the parent's vector, the mean over all tokens. "
            "Errors of earlier layers are in it.",
        )
    ]
    told = fields(dict(_weights(measures)), x="decoder layer", what="relative error of each weight")
    drawn.append(
        (
            told,
            "How far each weight was moved: the norm of the difference over the norm of the "
            "parent's.",
        )
    )
    parts: list[Part] = [Drawing(svg, caption) for svg, caption in drawn if svg]
    return (*parts, *(Text(note) for note in found.notes))


def _weights(measures: Measures) -> Iterator[tuple[str, dict[int, float]]]:
    """By the last part of their names, the errors by the number of their layer."""
    rows: dict[str, dict[int, float]] = {}
    for each in measures.weights or ():
        numbers = [int(part) for part in each.name.split(".") if part.isdigit()]
        if numbers:
            rows.setdefault(each.name.split(".")[-1], {})[numbers[0]] = each.error
    yield from rows.items()


def _speech_rows(speech: Speech) -> Iterator[tuple[str, str, str]]:
    def both(name: str, mine: Share, its: Share) -> Iterator[tuple[str, str, str]]:
        if mine.whole or its.whole:
            yield name, _share(mine), _share(its)

    def of_both(name: str, *modes: Mode) -> Iterator[tuple[str, str, str]]:
        yield from both(name, *(speech.valid(who, *modes) for who in _BOTH))

    called = [speech.called(who, "auto") for who in _BOTH]
    yield from both("calls begun where one was recorded", *called)
    yield from of_both("valid calls, free", "auto")
    yield from of_both("valid calls, begun for it", "begun")
    yield from of_both("valid calls, held by a grammar", "forced")
    rows: tuple[tuple[str, Mode, bool], ...] = (
        ("inputs, begun for it", "begun", True),
        ("tools, held", "forced", False),
        ("tools and inputs, held", "forced", True),
    )
    for what, mode, inputs in rows:
        told = [speech.as_recorded(who, mode, inputs=inputs) for who in _BOTH]
        yield from both(f"recorded {what}", *told)
    for what, mode, inputs in rows:
        share = speech.alike(mode, inputs=inputs)
        if share.whole:
            yield f"the parent's {what}", "", _share(share)
    yield from of_both("JSON that fits its schema, free", "json")
    yield from of_both("JSON that fits its schema, held by a grammar", "json-held")


def _speech(found: Comparison) -> tuple[Part, ...]:
    speech = found.speech
    if speech is None:
        return ()
    columns = ("", found.parent.scheme, found.candidate.scheme)
    apart = [pair for pair in speech.pairs if pair.parent.text != pair.candidate.text]
    parts: list[Part] = [Table(columns, tuple(_speech_rows(speech))), Text(_ASKED)]
    if speech.left_out:
        count = len(speech.left_out)
        parts.append(Text(f"Left out: {count} questions that only one of them could be asked."))
    if apart:
        parts.append(
            Text(f"Of {len(speech.pairs)} answers {len(apart)} differ. The first of them:")
        )
    names = (_scheme(found.parent.scheme), _scheme(found.candidate.scheme))
    return (*parts, *(_beside(pair, names) for pair in apart[:_SHOWN]))


_HOW = {
    "auto": "Free to call or not.",
    "begun": "A call of the recorded tool was begun for both.",
    "forced": "A grammar held both to a call.",
    "json": "Asked for JSON; nothing held it.",
    "json-held": "A grammar held both to the schema.",
}


def _beside(pair: Pair, names: tuple[str, str]) -> SideBySide:
    remarks = [_HOW[pair.mode]]
    if pair.recorded:
        remarks.append(f"Recorded: {_calls(pair.recorded)}")
    for name, said in zip(names, (pair.parent, pair.candidate), strict=True):
        remarks.append(f"{name}: {_remark(said, calls=pair.mode in CALLS)}")
    answers = ((names[0], pair.parent.text), (names[1], pair.candidate.text))
    return SideBySide(asked=pair.asked, answers=answers, remarks=tuple(remarks))


def _remark(said: Said, *, calls: bool) -> str:
    what = "valid" if said.valid else "no call" if calls else "not valid"
    if said.calls:
        fit = "valid" if said.valid else "not valid"
        what = f"calls {_calls(said.calls)}, {fit}"
    elif said.called:
        what = "a call that cannot be read"
    return f"{what}{'' if said.ended else f', cut after {said.tokens} tokens'}."


def _calls(calls: tuple[Call, ...]) -> str:
    return ", ".join(map(str, calls))


def _made(found: Comparison) -> tuple[Part, ...]:
    held = found.held_out
    kinds = ", ".join(f"{count} {kind}" for kind, count in held.kinds.items())
    rows = [
        ("how it was made", " ".join(found.made) or "not known"),
        ("fitted to", _fitted(found) if found.made else "not known"),
        ("held-out text", f"{held.name}: {held.tokens:,} tokens, {kinds}"),
        ("languages in it", ", ".join(held.languages)),
        ("held-out text, SHA-256", held.sha256),
        ("parent, SHA-256", found.parent.sha256),
        ("quantized, SHA-256", found.candidate.sha256),
        ("machine", found.machine),
        ("versions", ", ".join(f"{name} {version}" for name, version in found.versions.items())),
        ("measured", found.date),
    ]
    recipe = json.dumps(dict(found.recipe), indent=1)
    return (Table(("", ""), tuple(rows), numbers=False), Verbatim("The recipe", recipe))


def _fitted(found: Comparison) -> str:
    calibration = found.calibration
    if not calibration:
        return "nothing: each weight was rounded by itself"
    known = ("name", "tokens", "kinds", "languages", "sha256")
    return "; ".join(f"{key}: {_plain(calibration[key])}" for key in known if key in calibration)


def _plain(value: object) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{count} {kind}" for kind, count in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value))
    return f"{value:,}" if isinstance(value, int) else str(value)


def _share(share: Share) -> str:
    if share.value is None or share.whole < _FEW:
        return str(share)
    return f"{share} ({100 * share.value:.0f} %)"


def _shown(figure: Figure, digits: int = 3, *, scale: float = 1.0) -> str:
    value = f"{figure.value * scale:.{digits}f}"
    if figure.low is None or figure.high is None:
        return value
    return f"{value} ({figure.low * scale:.{digits}f} to {figure.high * scale:.{digits}f})"


def _bytes(count: int) -> str:
    return f"{count / 1e9:.2f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"


def _streams(count: int) -> str:
    return "1 stream" if count == 1 else f"{count} streams"
