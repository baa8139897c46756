"""Seals thinking blocks, so that what comes back in a history is known to be this server's.

The signature of a shown thought proves its text; that of a hidden one also carries it, encrypted,
so that the model can be shown it again. AES-GCM (RFC 5116) does both: what is shown is
authenticated data, what is hidden is plaintext.
"""

import base64
import hashlib
import os

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

_NONCE_BYTES = 12
_ID_BYTES = 4


class Signer:
    """Signs with one key. Signatures of another key, or of another service, do not verify."""

    def __init__(self, key: bytes) -> None:
        digest = hashlib.sha256(b"senryu thinking\0" + key).digest()
        self._cipher = AESGCM(digest)
        self._key_id = hashlib.sha256(digest).digest()[:_ID_BYTES]

    def sign(self, thinking: str, *, model: str, shown: bool) -> str:
        """The signature of a thought of `model`, in base64."""
        nonce = os.urandom(_NONCE_BYTES)
        hidden, visible = ("", thinking) if shown else (thinking, "")
        sealed = self._cipher.encrypt(nonce, hidden.encode(), _stated(model, visible))
        return base64.b64encode(self._issuer(model) + nonce + sealed).decode()

    def issued(self, signature: str, *, model: str | None = None) -> bool:
        """Whether a signature names this key, and `model` where one is given: what it does not
        prove was changed since."""
        issuer = self._key_id if model is None else self._issuer(model)
        try:
            return base64.b64decode(signature, validate=True).startswith(issuer)
        except ValueError:
            return False

    def read(self, thinking: str, signature: str, *, model: str) -> str | None:
        """The thought that was signed, or None when this server did not sign it for `model`.
        What a client wrote into a hidden thought's empty text is passed over (contract 1.7.4)."""
        try:
            packed = base64.b64decode(signature, validate=True)
        except ValueError:
            return None
        issuer = self._issuer(model)
        sealed = packed.removeprefix(issuer)
        nonce, sealed = sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:]
        if not packed.startswith(issuer) or len(nonce) < _NONCE_BYTES:
            return None
        for visible in (thinking, ""):
            try:
                hidden = self._cipher.decrypt(nonce, sealed, _stated(model, visible)).decode()
            except InvalidTag:
                continue
            return hidden or visible
        return None

    def _issuer(self, model: str) -> bytes:
        """What stands before a signature: short names of its key and of its model."""
        return self._key_id + hashlib.sha256(model.encode()).digest()[:_ID_BYTES]


def _stated(model: str, visible: str) -> bytes:
    return model.encode() + b"\0" + visible.encode()
