"""The report says what was measured, all of it, and is one file that needs no network."""

from dataclasses import replace

import pytest

from senryu.distill.compare import Figure
from senryu.distill.curve import Point
from senryu.distill.evaluation import (
    Count,
    Evaluation,
    Measures,
    Other,
    Row,
    RunFacts,
    Speech,
    Spoken,
)
from senryu.distill.report import render, seconds

FACTS = RunFacts(
    name="ours",
    student="senryu/tiny",
    teacher="SmolLM2 135M Instruct",
    licence="Apache-2.0",
    terms="The licence <allows> it.",
    loss="forward-kl",
    tokens_trained=123_456,
    train_seconds=700.0,
    parameters=64_000_000,
    teacher_parameters=134_500_000,
    machine="a machine, 2 cores",
    versions={"senryu": "0.1.0", "torch": "2.13.0"},
    date="2026-11-22T06:00:00+00:00",
)
ROWS = (
    Row(id="a", kind="chat", tokens=10, surprise=20.0, own_surprise=5.0, compared=10, kl=10.0),
    Row(id="b", kind="tools", tokens=30, surprise=30.0, own_surprise=5.0, compared=30, kl=50.0),
)
AFTER = Measures(rows=ROWS, over="vocabulary")
BEFORE = Measures(rows=tuple(replace(row, kl=4 * row.kl) for row in ROWS), over="vocabulary")
SPOKEN = Spoken(
    id="b",
    kind="tools",
    source="tools",
    asked="<b>How</b> is the weather?",
    teacher='[calls] get_weather({"city": "Oslo"})',
    student="<tool_call>\n</script>",
    tokens=96,
    ended=False,
    should_call=True,
    called=True,
)
OTHER = Other(
    run=replace(FACTS, name="sft-only", loss="sft"),
    before=Figure(6.0, 5.0, 7.0),
    kl=Figure(2.5, 2.0, 3.0),
    relative_kl=Figure(0.4, 0.3, 0.5),
    agreement=Figure(0.5, 0.4, 0.6),
    perplexity=None,
    kl_difference=Figure(1.0, 0.5, 1.5),
)
EVALUATION = Evaluation(
    run=FACTS,
    samples_digest="d1" * 32,
    after=AFTER,
    before=BEFORE,
    speech=Speech(answers=(SPOKEN,)),
    counts=(
        Count(
            source="self",
            kind="chat",
            trained=900,
            held_out=100,
            prompt_tokens=5000,
            answer_tokens=70000,
        ),
    ),
    harness={"arc_easy, acc": 0.3},
    harness_note="Not run: far_away (ConnectionError).",
    beside=(OTHER,),
)
CURVE = [
    Point(
        step=step,
        tokens=step * 2048,
        loss=4.0 / step,
        sft=5.0 / step,
        kl=3.0 / step,
        learning_rate=1e-3,
        gradient_norm=1.0,
        tokens_per_second=300.0,
        seconds=step * 7.0,
        on_policy=step % 5 == 0,
    )
    for step in range(1, 40)
]
RECIPE = '[teacher]\nlicence = "Apache-2.0" # <&>\n'


@pytest.fixture(scope="module")
def told() -> str:
    return render(EVALUATION, CURVE, RECIPE)


def test_the_headline_is_kl_before_and_after(told: str) -> None:
    head = told[: told.index("</section>")]
    assert "6.000 → 1.500" in head
    assert "0.250" in head
    assert "0.250 to 0.250" in head
    assert "0.0 → 0.0 %" in head
    assert "the teacher&#x27;s own: 1.28" in head
    assert "over the whole vocabulary" in head


@pytest.mark.parametrize(
    "words",
    [
        "sft-only",
        "2.500 <span>(2.000 to 3.000)</span>",
        "1.000 <span>(0.500 to 1.500)</span>",
        "ours (this)",
        "tools, before",
        "all, after",
        "<td>0 of 1</td>",
        "forbidden to the teacher by a grammar",
        "the turns of one conversation are one task",
        "Its call is not valid.",
        "was cut after 96 tokens",
        "&lt;b&gt;How&lt;/b&gt;",
        "arc_easy, acc",
        "Not run: far_away",
        "70,000",
        "The licence &lt;allows&gt; it.",
        "a machine, 2 cores",
        "torch 2.13.0",
        "2026-11-22",
        "64.0 million",
        "11.7 min",
        "# &lt;&amp;&gt;",
        "d1d1",
    ],
)
def test_what_is_known_is_told(told: str, words: str) -> None:
    assert words in told


def test_what_models_wrote_is_never_a_part_of_the_page(told: str) -> None:
    assert "<script" not in told
    assert "</script" not in told
    assert "<b>How" not in told


def test_it_needs_no_network(told: str) -> None:
    for word in ("http", "url(", "src=", "@import", "<link"):
        assert word not in told.replace("url(#", "")


def test_the_curves_are_in_it(told: str) -> None:
    assert told.count("<svg ") == 3
    assert "KL to the teacher" in told
    assert "loss on its own text" in told


def test_a_loss_that_is_the_kl_is_drawn_once() -> None:
    """One line would hide the other, and the legend would name a colour that nobody sees."""
    told = render(EVALUATION, [replace(each, loss=each.kl) for each in CURVE], RECIPE)
    assert "nats a token over tokens trained on: KL to the teacher, cross-entropy" in told


def test_without_a_curve_or_answers_these_sections_are_left_out() -> None:
    bare = replace(EVALUATION, speech=Speech(), beside=(), harness={}, harness_note="", before=None)
    told = render(bare, [], RECIPE)
    assert "<svg" not in told
    for title in ("How training went", "What it says itself", "Beside other runs", "Public tasks"):
        assert title not in told
    assert "1.500" in told


def test_with_text_alone_it_says_that_no_kl_is_known() -> None:
    rows = tuple(replace(row, compared=0, kl=0.0, own_surprise=None) for row in ROWS)
    told = render(
        replace(EVALUATION, after=Measures(rows=rows, over="nothing"), before=None, beside=()),
        [],
        RECIPE,
    )
    assert "so no KL is known" in told
    assert "on the teacher&#x27;s answers" in told


def test_of_few_cases_no_percentage_is_told() -> None:
    for cases, words in ((19, "<td>0 of 19</td>"), (20, "<td>0 of 20 (0 %)</td>")):
        told = render(replace(EVALUATION, speech=Speech(answers=(SPOKEN,) * cases)), [], RECIPE)
        assert words.replace("(0 %)", "<span>(0 %)</span>") in told


def test_one_task_alone_has_no_interval() -> None:
    one = Measures(rows=ROWS[:1], over="vocabulary")
    told = render(replace(EVALUATION, after=one, beside=()), [], RECIPE)
    assert "1.000 <span>(interval not known)</span>" in told


def test_times_are_shown_in_units_that_people_use() -> None:
    assert [seconds(each) for each in (3.4, 700.0, 9000.0)] == ["3 s", "11.7 min", "2.5 h"]
