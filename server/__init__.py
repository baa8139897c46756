"""The server room: answers Anthropic Messages API requests with one local model.

A request goes one way through its folders: `wire` (JSON in) -> `conversation` (what was
asked, in our words) -> `turn` (prompt, pieces, blocks) -> `engine` (tokens) and back out
through `turn` and `wire` (server-sent events). `docs/how-a-request-flows.md` draws it.

Importing this package imports nothing else: heavy doors open last.
"""
