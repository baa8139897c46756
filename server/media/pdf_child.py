"""Reads one PDF and ends: bytes on stdin, `{"pages": [...]}` or `{"refused": "..."}` on stdout.

Runs as `python -m senryu.server.media.pdf_child MOST_PAGES`. Whatever else happens to it, the
kernel's limits included, ends it with another exit status than 0.
"""

import io
import json
import logging
import os
import resource
import sys
from typing import Any

_CPU_SECONDS = 30
_MEMORY_BYTES = 2**30
_MOST_CHARACTERS = 2**24


def main() -> None:
    os.nice(10)  # answers that are being written go first
    _limit(resource.RLIMIT_CPU, _CPU_SECONDS)
    _limit(resource.RLIMIT_AS, _MEMORY_BYTES)
    _limit(resource.RLIMIT_CORE, 0)
    found = read(sys.stdin.buffer.read(), most_pages=int(sys.argv[1]))
    sys.stdout.write(json.dumps(found))


def read(data: bytes, *, most_pages: int) -> dict[str, Any]:
    """What to say about a PDF. Raises whatever a broken one makes pypdf raise."""
    import pypdf

    logging.disable()  # pypdf tells of every flaw that it gets over
    document = pypdf.PdfReader(io.BytesIO(data))
    # One that only restricts what may be done with it opens with the empty password.
    if document.is_encrypted and not document.decrypt(""):
        return {"refused": "The PDF specified was password protected"}
    if len(document.pages) > most_pages:
        return {"refused": f"A maximum of {most_pages} PDF pages may be provided."}
    pages, characters = [], 0
    for page in document.pages:
        # Half a character of UTF-16 is no text; it would break where the prompt is encoded.
        pages.append(page.extract_text().encode(errors="replace").decode())
        characters += len(pages[-1])
        if characters > _MOST_CHARACTERS:
            return {"refused": "Could not process PDF: it holds more text than any model reads"}
    return {"pages": pages}


def _limit(kind: int, most: int) -> None:
    _, hard = resource.getrlimit(kind)
    if hard != resource.RLIM_INFINITY:
        most = min(most, hard)
    resource.setrlimit(kind, (most, most))


if __name__ == "__main__":
    main()
