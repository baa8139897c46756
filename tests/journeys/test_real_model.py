"""A real model on the real engine, asked by the official client: what a user gets."""

import asyncio
import contextlib
import json
import subprocess
import time

import anthropic
import httpx
import pytest

from .conftest import Served, cpu_seconds

pytestmark = [pytest.mark.vllm, pytest.mark.slow]

# The current client speaks the API version that refuses sampling parameters; greedy answers
# need the classic one.
GREEDY = {
    "extra_body": {"temperature": 0},
    "extra_headers": {"anthropic-version": "2023-06-01"},
}
MODEL = "claude-haiku-4-5"
FRANCE = [{"role": "user", "content": "What is the capital of France?"}]


@pytest.fixture
def client(served: Served) -> anthropic.Anthropic:
    return anthropic.Anthropic(base_url=served.url, api_key="local", max_retries=0)


def test_the_capital_of_france_is_paris_plain_and_streamed(client: anthropic.Anthropic) -> None:
    plain = client.messages.create(model=MODEL, max_tokens=40, messages=FRANCE, **GREEDY)
    with client.messages.stream(model=MODEL, max_tokens=40, messages=FRANCE, **GREEDY) as stream:
        pieces = list(stream.text_stream)
        streamed = stream.get_final_message()
    assert "Paris" in plain.content[0].text
    assert streamed.content[0].text == plain.content[0].text == "".join(pieces)
    assert len(pieces) > 3, "it streams token by token"
    assert plain.stop_reason == streamed.stop_reason == "end_turn"
    assert plain.usage == streamed.usage
    assert plain.model == "senryu/smollm2-135m"


OLD_CLIENT = """
import json, sys
import anthropic

client = anthropic.Anthropic(base_url=sys.argv[1], api_key="local")
ask = {
    "model": "claude-3-5-haiku-latest",
    "max_tokens": 40,
    "temperature": 0,
    "messages": [{"role": "user", "content": "What is the capital of France?"}],
}
plain = client.messages.create(**ask)
with client.messages.stream(**ask) as stream:
    said = "".join(stream.text_stream)
    final = stream.get_final_message()
assert plain.usage == final.usage, (plain.usage, final.usage)
print(json.dumps([anthropic.__version__, plain.content[0].text, final.content[0].text, said]))
"""


def test_an_old_client_hears_the_same_answer(
    served: Served, client: anthropic.Anthropic, old_python: str
) -> None:
    done = subprocess.run(
        [old_python, "-c", OLD_CLIENT, served.url], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    version, *answers = json.loads(done.stdout)
    new = client.messages.create(model=MODEL, max_tokens=40, messages=FRANCE, **GREEDY)
    assert version.startswith("0.")
    assert set(answers) == {new.content[0].text}


def test_usage_sums_to_what_count_tokens_says(client: anthropic.Anthropic) -> None:
    counted = client.messages.count_tokens(model=MODEL, messages=FRANCE, system="Be brief.")
    answer = client.messages.create(
        model=MODEL, max_tokens=5, messages=FRANCE, system="Be brief.", **GREEDY
    )
    usage = answer.usage
    prompt = usage.input_tokens + usage.cache_creation_input_tokens + usage.cache_read_input_tokens
    assert prompt == counted.input_tokens
    assert usage.output_tokens == 5
    assert answer.stop_reason == "max_tokens"


def test_a_stop_sequence_is_cut_out_across_token_borders(client: anthropic.Anthropic) -> None:
    full = client.messages.create(model=MODEL, max_tokens=40, messages=FRANCE, **GREEDY)
    text = full.content[0].text
    cut = text.index("capital") + 3
    stop = text[cut : cut + 9]  # from the middle of a word into the next ones
    stopped = client.messages.create(
        model=MODEL, max_tokens=40, messages=FRANCE, stop_sequences=[stop], **GREEDY
    )
    assert stopped.stop_reason == "stop_sequence"
    assert stopped.stop_sequence == stop
    assert stopped.content[0].text == text[: text.index(stop)]


def test_earlier_turns_reach_the_model(client: anthropic.Anthropic) -> None:
    """The form of the answer stands in the earlier turns alone."""
    turns = [
        {"role": "user", "content": "red"},
        {"role": "assistant", "content": "colour: red"},
        {"role": "user", "content": "blue"},
        {"role": "assistant", "content": "colour: blue"},
        {"role": "user", "content": "green"},
    ]
    answer = client.messages.create(model=MODEL, max_tokens=10, messages=turns, **GREEDY)
    assert answer.content[0].text.startswith("colour: green")


def test_a_prefilled_answer_is_continued_and_not_repeated(client: anthropic.Anthropic) -> None:
    turns = [*FRANCE, {"role": "assistant", "content": "The capital of France is"}]
    answer = client.messages.create(model=MODEL, max_tokens=10, messages=turns, **GREEDY)
    assert answer.content[0].text.strip().startswith("Paris")


def test_zero_max_tokens_reads_and_writes_nothing(client: anthropic.Anthropic) -> None:
    answer = client.messages.create(model=MODEL, max_tokens=0, messages=FRANCE)
    assert answer.content == []
    assert answer.stop_reason == "max_tokens"
    assert answer.usage.output_tokens == 0
    assert answer.usage.input_tokens > 0


def test_a_prompt_longer_than_the_window_is_refused_in_the_words_clients_know(
    client: anthropic.Anthropic,
) -> None:
    with pytest.raises(anthropic.BadRequestError, match=r"prompt is too long: \d+ tokens > 8192"):
        client.messages.create(
            model=MODEL, max_tokens=10, messages=[{"role": "user", "content": "word " * 9000}]
        )


async def test_eight_streams_at_once_all_answer(served: Served) -> None:
    client = anthropic.AsyncAnthropic(base_url=served.url, api_key="local", max_retries=0)

    async def ask(number: int) -> str:
        answer = await client.messages.create(
            model=MODEL,
            max_tokens=12,
            messages=[{"role": "user", "content": f"Say the number {number}."}],
            **GREEDY,
        )
        return answer.content[0].text

    texts = await asyncio.gather(*(ask(number) for number in range(8)))
    assert all(texts)
    await client.close()


@pytest.mark.parametrize("stream", [True, False])
def test_the_engine_goes_idle_when_the_client_leaves(served: Served, stream: bool) -> None:
    """Judged from outside: the worker's CPU time stops growing, long before 4,000 tokens."""
    body = {
        "model": MODEL,
        "max_tokens": 4000,
        "stream": stream,
        "messages": [{"role": "user", "content": "Write a very long story about the sea."}],
    }
    url = f"{served.url}/v1/messages"
    with (
        contextlib.suppress(httpx.ReadTimeout),
        httpx.stream("POST", url, json=body, timeout=2) as reply,
    ):
        next(reply.iter_bytes())
    worker = served.worker
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        before = cpu_seconds(worker)
        time.sleep(1)
        if cpu_seconds(worker) - before < 0.2:
            break
    else:
        pytest.fail("the engine is still computing for a client that left")
    assert httpx.get(f"{served.url}/health").status_code == 200


def test_the_banner_tells_what_was_chosen_and_what_to_paste(served: Served) -> None:
    for wanted in ("device", "vllm", "senryu/smollm2-135m", "w4a16", "8,192 tokens", "KV memory"):
        assert wanted in served.banner
    for pasted in (
        f"ANTHROPIC_BASE_URL={served.url}",
        "ANTHROPIC_AUTH_TOKEN",
        "api_key=",
        "apiKey",
    ):
        assert pasted in served.banner
    noise = [line for line in served.banner.splitlines() if "WARNING" in line or "INFO" in line]
    assert noise == []
