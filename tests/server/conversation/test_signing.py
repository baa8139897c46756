"""A signature proves a thought, carries a hidden one, and tells what was changed from what is not
this server's (contract 1.7.4)."""

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from senryu.server.conversation.signing import Signer

SIGNER = Signer(b"key")
thoughts = st.text(st.characters(codec="utf-8"))


@given(thought=thoughts, seen=thoughts)
def test_what_was_signed_is_read_back(thought: str, seen: str) -> None:
    shown = SIGNER.sign(thought, model="m", shown=True)
    assert SIGNER.read(thought, shown, model="m") == thought
    hidden = SIGNER.sign(thought, model="m", shown=False)
    assert SIGNER.read("", hidden, model="m") == thought
    assert SIGNER.read(seen, hidden, model="m") == thought


@pytest.mark.parametrize("shown", [True, False])
def test_a_hidden_thought_cannot_be_read_off_its_signature(shown: bool) -> None:
    signature = base64.b64decode(SIGNER.sign("a secret", model="m", shown=shown))
    assert b"secret" not in signature


def test_another_text_another_model_or_another_key_proves_nothing() -> None:
    signature = SIGNER.sign("hm", model="m", shown=True)
    assert SIGNER.read("hm!", signature, model="m") is None
    assert SIGNER.read("hm", signature, model="n") is None
    assert Signer(b"another").read("hm", signature, model="m") is None


def test_a_signature_cut_or_changed_anywhere_proves_nothing() -> None:
    packed = base64.b64decode(SIGNER.sign("hm", model="m", shown=True))
    for place in range(len(packed)):
        cut = base64.b64encode(packed[:place]).decode()
        changed = bytearray(packed)
        changed[place] ^= 1
        assert SIGNER.read("hm", cut, model="m") is None
        assert SIGNER.read("hm", base64.b64encode(changed).decode(), model="m") is None


@pytest.mark.parametrize("signature", ["", "x", "not base64!", "ä", "EqQBCgIYAhIM"])
def test_what_is_no_signature_was_not_issued_and_does_no_harm(signature: str) -> None:
    assert SIGNER.read("hm", signature, model="m") is None
    assert not SIGNER.issued(signature)


def test_a_signature_of_this_key_was_issued_here_whatever_it_is_put_to() -> None:
    signature = SIGNER.sign("hm", model="m", shown=True)
    assert SIGNER.issued(signature)
    assert not Signer(b"another").issued(signature)
    assert SIGNER.issued(signature, model="m")
    assert not SIGNER.issued(signature, model="n")
