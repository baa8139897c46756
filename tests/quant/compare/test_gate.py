"""The gate closes for each bound that is broken and for no other, and says so in the manifest."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from senryu.quant.compare.comparison import Comparison
from senryu.quant.compare.gate import judge, mark
from senryu.quant.compare.recipe import Bounds
from senryu.quant.compare.spoken import Speech
from senryu.quant.errors import QuantizeError
from senryu.server.manifest import Manifest

from .conftest import DEEP, pair, said


def asked(**bounds: float) -> Bounds:
    return dataclasses.replace(Bounds.none(), **bounds)


@pytest.mark.parametrize(
    ("kept", "broken", "words"),
    [
        ({"kl": 0.1}, {"kl": 0.09}, "the KL to the parent is 0.1 nats a token, above"),
        ({"perplexity_ratio": 1.1}, {"perplexity_ratio": 1.09}, "perplexity over the parent's is"),
        ({"agreement": 0.9}, {"agreement": 0.91}, "equal first choices is 0.9, below the bound"),
        # Free both keep one of two; begun for them, the candidate loses one of two.
        ({"tool_validity_drop": 50}, {"tool_validity_drop": 49}, "is 50 points in 2 cases, above"),
        ({"match": 1.0}, {"match": 1.01}, "with the parent's calls is 1 in 2 cases, below"),
        ({"match_drop": 0.0}, {}, ""),
        (
            {"structured_drop": 100},
            {"structured_drop": 99},
            "fit their schema is 100 points in 1 cases",
        ),
        ({"size_ratio": 0.44}, {"size_ratio": 0.43}, "size over the parent's is 0.44, above"),
    ],
)
def test_a_bound_is_kept_or_broken(found: Comparison, kept: Any, broken: Any, words: str) -> None:
    assert judge(found, asked(**kept)) == ()
    said = judge(found, asked(**broken))
    assert len(said) == len(broken)
    assert all(words in each for each in said)


def test_nothing_is_asked_by_no_bounds(found: Comparison) -> None:
    assert judge(found, Bounds.none()) == ()


def test_what_was_not_measured_is_broken(found: Comparison) -> None:
    silent = dataclasses.replace(found, speech=None)
    bounds = asked(tool_validity_drop=1, match=0.5, match_drop=1, structured_drop=1)
    broken = judge(silent, bounds)
    assert len(broken) == 4
    assert all("was not measured" in each for each in broken)


def test_no_number_keeps_no_bound(found: Comparison) -> None:
    rows = found.measures.rows
    lost = dataclasses.replace(rows[0], kl=dataclasses.replace(rows[0].kl, value=float("nan")))
    measures = dataclasses.replace(found.measures, rows=(lost, *rows[1:]))
    assert judge(dataclasses.replace(found, measures=measures), asked(kl=1000))


def manifest(folder: Path) -> Manifest:
    made = Manifest(
        model_id="tiny",
        display_name="Tiny",
        source="a test",
        licence=None,
        scheme="w4a16",
        group_size=32,
        parameters=None,
        created_at=None,
    )
    made.write(folder)
    return made


def test_the_verdict_stands_in_the_manifest(tmp_path: Path) -> None:
    made = manifest(tmp_path)
    mark(tmp_path, ("the KL is 1", "the size is 2"))
    told = Manifest.read(tmp_path)
    assert told == dataclasses.replace(
        made, servable=False, refused_because="the KL is 1; the size is 2"
    )
    mark(tmp_path, ())
    assert Manifest.read(tmp_path) == dataclasses.replace(made, servable=True)


def test_a_folder_without_a_manifest_takes_no_verdict(tmp_path: Path) -> None:
    with pytest.raises(QuantizeError, match="no manifest"):
        mark(tmp_path, ())


def test_whoever_no_longer_calls_by_itself_is_not_served(found: Comparison) -> None:
    assert found.speech
    mute = said(called=False, valid=False)
    good = said("a", DEEP)
    pairs = tuple(pair("auto", good, mute, DEEP, turn=f"c{n}#1") for n in range(3))
    begun = tuple(pair("begun", good, good, DEEP, turn=f"c{n}#1") for n in range(30))
    silent = dataclasses.replace(found, speech=Speech(pairs=(*pairs, *begun)))
    assert "100 points in 3 cases" in judge(silent, asked(tool_validity_drop=1))[0]


def test_a_question_that_one_could_not_be_asked_keeps_the_gate_shut(found: Comparison) -> None:
    assert found.speech
    speech = dataclasses.replace(found.speech, left_out=("forced",))
    broken = judge(dataclasses.replace(found, speech=speech), asked(match=0.1, match_drop=99))
    assert len(broken) == 2
    assert all("not measured (1 questions could be asked of one" in each for each in broken)
