"""Identifiers of the contract's form (1.4): a prefix and at least 120 random bits."""

import secrets

_ALPHABET = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
_DIGITS = 22  # of base 58: 128 bits


def new_id(prefix: str) -> str:
    """For example `msg_01…` or `req_01…`."""
    number = secrets.randbits(128)
    digits = []
    for _ in range(_DIGITS):
        number, digit = divmod(number, 58)
        digits.append(_ALPHABET[digit])
    return f"{prefix}_01{''.join(digits)}"
