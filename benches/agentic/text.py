"""Words for the replayed session: source files, logs, searches and prose, made of a seed.

Comes in: a random generator, and about how many tokens are wanted. Goes out: text that an
English-trained tokenizer cuts into about so many. It refuses to know messages and requests.
"""

import random
import re
from collections.abc import Callable

_PIECES = re.compile(r"[A-Za-z]+|\d|[^\w\s]|\n")

_THINGS = (
    "order row index page token limit window batch ledger entry queue worker store record "
    "filter column table branch parser cursor header packet signal buffer report price"
)
_DEEDS = "read merge split check count close fetch sort trim load write drop find open build"
_STATES = "open stale empty large late first last broken shared hidden"
_NOUNS, _VERBS, _ADJECTIVES = _THINGS.split(" "), _DEEDS.split(" "), _STATES.split(" ")
_SENTENCES = (
    "{Verb} the {noun} before you {verb2} it, and say which {noun2} you left alone.",
    "A {adjective} {noun} is never a reason to {verb} the whole {noun2}.",
    "When a {noun} is {adjective}, {verb} it once and go on with the next {noun2}.",
    "Do not {verb} more than one {adjective} {noun} at a time unless the user asks for it.",
    "The {noun} is given as a path; a relative path is taken from the {noun2} of the project.",
    "Results come with at most {number} lines, and the rest of the {noun} is cut off.",
    "If the {noun} cannot be found, say so and {verb} the {adjective} {noun2} instead.",
    "Prefer this over a {noun} that would {verb} the same {noun2} {number} times.",
)
_CODE = (
    "def {verb}_{noun}({noun2}, {noun3}):",
    '    """{Verb} the {adjective} {noun} of one {noun2}."""',
    "    {noun} = {verb}_{noun2}({noun3}, limit={number})",
    "    if {noun}.{noun2} > {number}:",
    '        raise ValueError("{noun} is {adjective}")',
    "    for {noun} in {verb}_{noun2}s({noun3}):",
    "        {noun}.{verb}({noun2}, {adjective}=True)",
    "    {noun}s = [each for each in {noun2}s if each.{adjective}]",
    "    return {noun}, {noun2}",
    "",
)


class Pen:
    """Writes; the same seed writes the same."""

    def __init__(self, seed: int | str) -> None:
        self._random = random.Random(seed)  # noqa: S311 - words

    def prose(self, tokens: int) -> str:
        return self._until(tokens, lambda _: self._filled(self._random.choice(_SENTENCES)), " ")

    def file(self, tokens: int) -> str:
        """As a reading tool shows it, with the numbers of its lines."""
        return self._until(tokens, lambda line: f"{line:5}\t{self._filled(_code(line))}", "\n", 1.1)

    def code(self, tokens: int) -> str:
        return self._until(tokens, lambda line: self._filled(_code(line)), "\n")

    def search(self, tokens: int) -> str:
        """What was found, each with its place."""
        return self._until(
            tokens, lambda _: f"{self.path()}:{self.number()}:{self._hit()}", "\n", 1.17
        )

    def log(self, tokens: int) -> str:
        """Of a test run."""

        def line(number: int) -> str:
            return f"{self.path()}::test_{self.name()} PASSED [{number % 100:3}%]"

        return self._until(tokens, line, "\n", 1.31)

    def traceback(self, tokens: int) -> str:
        def line(number: int) -> str:
            return f'  File "{self.path()}", line {self.number()}\n{self._hit()}'

        return self._until(tokens, line, "\n", 1.1)

    def path(self) -> str:
        return self._filled("src/{noun}s/{verb}_{noun2}.py")

    def name(self) -> str:
        return self._filled("{verb}_{noun}_{noun2}")

    def number(self) -> int:
        return self._random.randrange(100, 1000)

    def _hit(self) -> str:
        return self._filled("    {noun} = {verb}_{noun2}({noun3})")

    def _filled(self, pattern: str) -> str:
        choose = self._random.choice
        verb = choose(_VERBS)
        return pattern.format(
            noun=choose(_NOUNS),
            noun2=choose(_NOUNS),
            noun3=choose(_NOUNS),
            verb=verb,
            verb2=choose(_VERBS),
            Verb=verb.capitalize(),
            adjective=choose(_ADJECTIVES),
            number=self.number(),
        )

    def _until(
        self, tokens: int, line: Callable[[int], str], between: str, weight: float = 1.0
    ) -> str:
        """`weight`: how many tokens a piece of such text is, as SmolLM2's tokenizer cuts it."""
        lines: list[str] = []
        written = 0.0
        while written < tokens:
            lines.append(line(len(lines) + 1))
            written += weight * (pieces(lines[-1]) + (between == "\n"))
        return between.join(lines)


def _code(line: int) -> str:
    return _CODE[(line - 1) % len(_CODE)]


def pieces(text: str) -> int:
    """About how many tokens: words, digits, signs and line ends, as today's tokenizers cut them."""
    return len(_PIECES.findall(text))
