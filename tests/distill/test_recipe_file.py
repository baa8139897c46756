"""A recipe is read whole or refused with one sentence that names the key."""

from pathlib import Path

import pytest

from senryu.distill.recipe import FileSource, RecipeError, SelfSource
from senryu.distill.recipe_file import read_recipe

ROOT = Path(__file__).parents[2]
TEACHER = '[teacher]\nlicence = "Apache-2.0"\nallows_training = true\nterms = "It says so."\n'


def recipe(folder: Path, text: str) -> Path:
    file = folder / "recipe.toml"
    file.write_text(text, encoding="utf-8")
    return file


def test_a_licence_is_all_that_a_recipe_needs(tmp_path: Path) -> None:
    read = read_recipe(recipe(tmp_path, TEACHER))
    assert read.teacher.model == "embedded"
    assert read.sources == (SelfSource(kind="self", count=400),)


@pytest.mark.parametrize("file", sorted((ROOT / "examples/recipes").glob("*.toml")), ids=str)
def test_the_examples_are_recipes(file: Path) -> None:
    assert read_recipe(file).teacher.allows_training


def test_a_source_lies_beside_its_recipe(tmp_path: Path) -> None:
    read = read_recipe(
        recipe(tmp_path, TEACHER + '[[prompts]]\nkind = "file"\npath = "asked.jsonl"\n')
    )
    assert read.sources == (FileSource(kind="file", path=str(tmp_path / "asked.jsonl")),)


def test_a_whole_number_will_do_for_a_number(tmp_path: Path) -> None:
    assert read_recipe(recipe(tmp_path, TEACHER + "[train]\nclip = 2\n")).train.clip == 2.0


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "has no [teacher]"),
        ("[teacher", "cannot be read"),
        (TEACHER.replace("true", "false"), "does not allow training on its outputs"),
        (TEACHER.replace('"It says so."', '" "'), "teacher.terms must not be empty"),
        (TEACHER.replace('licence = "Apache-2.0"\n', ""), "lacks teacher.licence"),
        (TEACHER + "[train]\nlerning_rate = 1.0\n", "did you mean 'learning_rate'?"),
        (TEACHER + '[train]\nloss = "kl"\n', "train.loss is 'kl'; it takes 'sft', "),
        (TEACHER + '[train]\ntokens = "many"\n', "train.tokens is 'many'; it takes a whole number"),
        (TEACHER + "[train]\ntokens = -1\n", "takes numbers from 0 on"),
        (TEACHER + "[train]\nbetas = [0.9]\n", "train.betas has 1 items; it takes 2"),
        (TEACHER + "[train]\nema = 1.5\n", "train.ema is 1.5; it takes 0 to 1"),
        (TEACHER + "[train]\nclip = nan\n", "train.clip is nan; it takes numbers from 0 on"),
        (TEACHER + "[prompts]\ncount = 3\n", "must be a list of tables"),
        ("prompts = 3\n" + TEACHER, "must be a list of tables"),
        (TEACHER + "[collect]\ntop_p = 0.0\n", "collect.top_p takes more than 0"),
        (TEACHER + "[collect]\nmax_tokens = 0\n", "collect.max_tokens is 0"),
        (TEACHER + '[[prompts]]\nkind = "self"\ncount = 1\nmax_tokens = 0\n', "prompts[0] asks"),
        (
            TEACHER + 'api = "openai"\nurl = "http://x:b@127.0.0.1"\n[train]\nloss = "sft"\n',
            "password",
        ),
        (TEACHER + "[train]\nsequence = 0\n", "train.sequence is 0; it takes at least 1"),
        (TEACHER + "[students]\n", "students is no key of a recipe; did you mean 'student'?"),
        (TEACHER + "student = 3\n[train]\n", "is no key of a recipe"),
        (TEACHER + '[[prompts]]\nkind = "psychic"\n', "prompts[0].kind is 'psychic'; it takes"),
        (TEACHER + '[[prompts]]\nkind = "self"\n', "lacks prompts[0].count"),
        (TEACHER + '[student]\nshape = "model"\n', "student.model is missing"),
        (TEACHER + 'top_k = 0\n[train]\nloss = "js"\n', "this teacher gives text only"),
        (TEACHER + 'api = "messages"\n', "teacher.url is missing"),
    ],
)
def test_a_wrong_recipe_is_refused_with_one_sentence(text: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(RecipeError) as refused:
        read_recipe(recipe(tmp_path, text))
    assert words in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_recipe_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"There is no recipe .*nowhere\.toml"):
        read_recipe(tmp_path / "nowhere.toml")
