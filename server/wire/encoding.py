"""Bodies as JSON."""

import json
from typing import Any

import orjson


def encoded(body: dict[str, Any]) -> bytes:
    """As JSON, the input of a tool included: a model may write integers of any length there."""
    try:
        return orjson.dumps(body)
    except TypeError:
        return json.dumps(body, ensure_ascii=False).encode()
