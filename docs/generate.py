"""Writes the pages that are made from the code: `make docs`. A test fails when one is stale."""

from pathlib import Path

from senryu.server.serve import FLAGS
from senryu.server.settings import ServerSettings, as_toml, documented

HERE = Path(__file__).parent


def configuration() -> str:
    """Every setting of the server, with its flag where it has one."""
    defaults = ServerSettings()
    rows = []
    for name, text in documented(ServerSettings).items():
        flag = f"`--{name.replace('_', '-')}`" if name in FLAGS else ""
        shown = getattr(defaults, name)
        default = "" if shown is None else f"`{as_toml(shown)}`"
        rows.append(f"| `{name}` | {default} | {flag} | {text} |")
    return "\n".join(
        [
            "# Configuration",
            "",
            "Made by `make docs` from `server/settings.py`; edit that file.",
            "",
            "A setting is looked for in this order, and the last one found holds: the default,",
            "`[server]` in `senryu.toml`, `SENRYU_NAME` in the environment, the flag.",
            "`senryu serve --print-config` shows each value and its origin. An unknown name",
            "is an error. `SENRYU_CACHE` says where prepared models are kept (`~/.cache/senryu`).",
            "",
            "| setting | default | flag | meaning |",
            "|---|---|---|---|",
            *rows,
            "",
        ]
    )


PAGES = {"configuration.md": configuration}


if __name__ == "__main__":
    for name, page in PAGES.items():
        (HERE / name).write_text(page())
