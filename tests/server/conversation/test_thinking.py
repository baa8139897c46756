"""How the model is to think, and which of the thoughts that come back are its own (1.7)."""

from typing import Any

import pytest

from senryu.server.conversation.messages import Message, TextBlock, Thinking, ThinkingBlock

USER = {"role": "user", "content": "hi"}
THINKS = {"thinks": True}
STRICT = {"thinks": True, "strict": True}
CANNOT_BE_MODIFIED = (
    "`thinking` or `redacted_thinking` blocks in the latest assistant message cannot be modified. "
    "These blocks must remain as they were in the original response."
)


def enabled(budget: int = 1024, **more: Any) -> dict[str, Any]:
    return {"type": "enabled", "budget_tokens": budget} | more


def assistant(*blocks: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": list(blocks)}


def thought(words: str, signature: str) -> dict[str, Any]:
    return {"type": "thinking", "thinking": words, "signature": signature}


SAID = {"type": "text", "text": "yes"}


@pytest.mark.parametrize(
    ("sent", "meant"),
    [
        (None, None),
        ({"type": "disabled"}, None),
        ({"type": "between_tools"}, None),
        ({"type": "adaptive"}, Thinking()),
        ({"type": "adaptive", "display": "omitted"}, Thinking(shown=False)),
        ({"type": "adaptive", "display": "updates"}, Thinking()),
        (enabled(1500), Thinking(budget=1500)),
        (enabled(1500, display="summarized"), Thinking(budget=1500)),
        (enabled(1500, display="omitted"), Thinking(budget=1500, shown=False)),
    ],
)
def test_each_way_to_think_is_read(read: Any, sent: Any, meant: Thinking | None) -> None:
    asked = read(on=THINKS, thinking=sent, max_tokens=2000)
    assert asked.demands.thinking == meant
    count = read(on=THINKS, thinking=sent, count=True)
    assert count.demands.thinking == meant


@pytest.mark.parametrize("effort", ["low", "medium", "high", "xhigh", "max"])
def test_effort_is_for_thinking(read: Any, effort: str) -> None:
    asked = read(on=THINKS, thinking={"type": "adaptive"}, output_config={"effort": effort})
    assert asked.demands.thinking == Thinking(effort=effort)  # type: ignore[arg-type]


def test_a_model_that_does_not_reason_says_so_or_has_nothing_to_think_about(read: Any) -> None:
    assert read.refusal(thinking=enabled(), max_tokens=2000).startswith(
        '"thinking.type.enabled" is not supported for this model.'
    )
    assert read(thinking={"type": "adaptive"}).demands.thinking is None


def test_a_budget_leaves_room_for_the_answer(read: Any) -> None:
    words = "`max_tokens` must be greater than `thinking.budget_tokens`."
    for most in (1000, 1024):
        assert read.refusal(on=THINKS, thinking=enabled(), max_tokens=most).startswith(words)
    assert read(on=THINKS, thinking=enabled(), max_tokens=1025)
    interleaved = THINKS | {"betas": frozenset({"interleaved-thinking-2025-05-14"})}
    assert read(on=interleaved, thinking=enabled(), max_tokens=1)


def test_strict_reading_refuses_what_no_model_of_the_hosted_service_would_do(read: Any) -> None:
    assert read.refusal(on=STRICT, thinking={"type": "between_tools"}) == (
        '"thinking.type.between_tools" is not supported for this model.'
    )
    updates = {"type": "adaptive", "display": "updates"}
    assert read.refusal(on=STRICT, thinking=updates) == (
        "thinking.adaptive.display: Input should be 'summarized' or 'omitted'"
    )
    beta = {"betas": frozenset({"thinking-display-updates-2026-08-18"})}
    assert read(on=STRICT | beta, thinking=updates).demands.thinking


# --- thoughts that come back -------------------------------------------------------------------


@pytest.mark.parametrize("shown", [True, False])
@pytest.mark.parametrize("on", [THINKS, STRICT])
def test_the_models_own_thought_comes_back_as_it_was(
    read: Any, on: dict[str, Any], shown: bool
) -> None:
    """Of a hidden one too, which the client has never seen; what it wrote there is passed over."""
    signature = read.signer.sign("hm, well", model="m", shown=shown)
    for words in ("hm, well",) if shown else ("", "made up"):
        asked = read(on=on, messages=[USER, assistant(thought(words, signature), SAID), USER])
        assert asked.conversation.messages[1] == Message(
            role="assistant",
            content=(
                ThinkingBlock(thinking="hm, well", signature=signature),
                TextBlock(text="yes"),
            ),
        )
        assert asked.ignored == ()


def foreign(read: Any) -> list[dict[str, Any]]:
    own = read.signer.sign("hm", model="m", shown=True)
    other = read.signer.sign("hm", model="another", shown=True)
    return [
        thought("changed", own),
        thought("hm", other),
        thought("hm", own[:-8] + "AAAAAAA="),
        thought("hm", "EqQBCgIYAhIM"),
        thought("hm", ""),
        thought("hm", "not base64 ä"),
    ]


def test_a_strangers_thought_is_dropped_and_the_client_is_told(read: Any) -> None:
    redacted = {"type": "redacted_thinking", "data": "x"}
    for block in foreign(read):
        asked = read(on=THINKS, messages=[USER, assistant(block, redacted, SAID), USER])
        assert asked.conversation.messages[1].content == (TextBlock(text="yes"),)
        assert asked.ignored == ("messages.thinking", "messages.redacted_thinking")


def test_a_model_that_does_not_think_is_shown_no_thoughts(read: Any) -> None:
    block = thought("hm", read.signer.sign("hm", model="m", shown=True))
    asked = read(messages=[USER, assistant(block, SAID), USER])
    assert asked.conversation.messages[1].content == (TextBlock(text="yes"),)


def test_strict_reading_refuses_a_strangers_thought(read: Any) -> None:
    changed, *strangers = foreign(read)
    for block in strangers[2:]:
        assert read.refusal(on=STRICT, messages=[USER, assistant(block, SAID), USER]) == (
            "messages.1.content.0: Invalid `signature` in `thinking` block"
        )
    assert read.refusal(on=STRICT, messages=[USER, assistant(changed, SAID), USER]) == (
        f"messages.1.content.0: {CANNOT_BE_MODIFIED}"
    )
    older = [USER, assistant(SAID, changed), USER, assistant(SAID), USER]
    assert read.refusal(on=STRICT, messages=older) == (
        "messages.1.content.1: Invalid `signature` in `thinking` block"
    )
    another_models = assistant(strangers[0], SAID)
    assert read(on=STRICT, messages=[USER, another_models, USER]).ignored == ("messages.thinking",)
    redacted = {"type": "redacted_thinking", "data": "x"}
    assert read.refusal(on=STRICT, messages=[USER, assistant(redacted, SAID), USER]) == (
        "messages.1.content.0: Invalid `data` in `redacted_thinking` block"
    )


CALL = {"type": "tool_use", "id": "a", "name": "ls", "input": {}}
RESULT = {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "a"}]}


def test_strict_reading_wants_the_thought_before_a_call_back(read: Any) -> None:
    """Under a budget only; a model that decides itself need not have thought."""
    messages = [USER, assistant(CALL), RESULT]
    words = read.refusal(on=STRICT, thinking=enabled(), max_tokens=2000, messages=messages)
    assert words.startswith(
        "messages.1.content.0.type: Expected `thinking` or `redacted_thinking`, but found "
        "`tool_use`. When `thinking` is enabled, a final `assistant` message must start with a "
        "thinking block"
    )
    own = thought("hm", read.signer.sign("hm", model="m", shown=True))
    for good in (
        [USER, assistant(own, CALL), RESULT],
        [USER, assistant(own), assistant(CALL), RESULT],
    ):
        assert read(on=STRICT, thinking=enabled(), max_tokens=2000, messages=good)
    assert read(on=THINKS, thinking=enabled(), max_tokens=2000, messages=messages)
    assert read(on=STRICT, thinking={"type": "adaptive"}, messages=messages)


def test_a_thought_is_the_models(read: Any) -> None:
    for block in (thought("a", "b"), {"type": "redacted_thinking", "data": ""}):
        assert read.refusal(messages=[{"role": "user", "content": [SAID, block]}]) == (
            f"messages.0.content.1: `{block['type']}` blocks can only be in `assistant` messages"
        )
