"""The scripts of the page's own components, each read together with what it shares with the others."""

from __future__ import annotations

from pathlib import Path

_HERE = Path(__file__).parent


def script(*names: str) -> str:
    """For `js_on_load` of a gr.HTML: `dom.js`, then the named files, in one scope."""
    return "\n".join((_HERE / f"{name}.js").read_text("utf-8") for name in ("dom", *names))
