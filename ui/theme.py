"""Looks: Gradio's theme in the colours of a weaver's shop: paper, ink and one thread of madder red."""

from __future__ import annotations

import base64
import re
from dataclasses import dataclass
from pathlib import Path

from gradio.themes import Base, LocalFont, sizes
from gradio.themes.utils import colors

_HERE = Path(__file__).parent


@dataclass(frozen=True)
class _Dye:
    """One colour in both lights."""

    light: str
    dark: str


_PAPER = _Dye("#f4efe4", "#191613")  # what everything lies on
_CARD = _Dye("#fffdf8", "#221e1a")
_FIELD = _Dye("#ffffff", "#1c1916")
_SEAM = _Dye("#dfd4c0", "#3b342c")
_INK = _Dye("#241f1a", "#efe7d9")
_PENCIL = _Dye("#685d50", "#b3a793")  # 4.5:1 on paper and card, in both lights
_THREAD = _Dye("#a23a2a", "#bb4a36")  # white stands on it with 5:1
_THREAD_DEEP = _Dye("#842c1f", "#a13c2b")
_THREAD_INK = _Dye("#97321f", "#ec9078")  # the thread as text
_THREAD_WASH = _Dye("#f3ddd3", "#3a231c")

# Gradio derives what we leave unset from these two scales.
_NEUTRAL = colors.Color(
    "#fbf8f1", "#f4efe4", "#e9e1d1", "#dfd4c0", "#b3a793", "#8a7e6e", "#685d50", "#4d443a", "#3b342c", "#221e1a",
    "#191613", name="paper",
)  # fmt: skip
_MADDER = colors.Color(
    "#fbf0ea", "#f3ddd3", "#e9bfae", "#dd9a83", "#d0745a", "#bb4a36", "#a23a2a", "#842c1f", "#662217", "#3a231c",
    "#241612", name="madder",
)  # fmt: skip

# Gradio ships these whole; its Lora and its semi-bold Plex hold Cyrillic letters only.
_SANS = (LocalFont("IBM Plex Sans", weights=(400, 700)), "ui-sans-serif", "system-ui", "sans-serif")
_MONO = (LocalFont("IBM Plex Mono"), "ui-monospace", "monospace")

_USES = {
    "body_background_fill": _PAPER,
    "body_text_color": _INK,
    "body_text_color_subdued": _PENCIL,
    "background_fill_primary": _CARD,
    "background_fill_secondary": _PAPER,
    "border_color_primary": _SEAM,
    "border_color_accent": _THREAD,
    "color_accent_soft": _THREAD_WASH,
    "link_text_color": _THREAD_INK,
    "link_text_color_active": _THREAD_INK,
    "link_text_color_hover": _INK,
    "link_text_color_visited": _THREAD_INK,
    "code_background_fill": _PAPER,
    "block_background_fill": _CARD,
    "block_border_color": _SEAM,
    "block_info_text_color": _PENCIL,
    "block_label_background_fill": _CARD,
    "block_label_border_color": _SEAM,
    "block_label_text_color": _PENCIL,
    "block_title_text_color": _INK,
    "panel_background_fill": _CARD,
    "input_background_fill": _FIELD,
    "input_background_fill_focus": _FIELD,
    "input_border_color": _SEAM,
    "input_border_color_focus": _THREAD,
    "input_border_color_hover": _PENCIL,
    "input_placeholder_color": _PENCIL,
    "accordion_text_color": _INK,
    "slider_color": _THREAD,
    "loader_color": _THREAD,
    "checkbox_background_color_selected": _THREAD,
    "checkbox_border_color_selected": _THREAD,
    "checkbox_border_color_focus": _THREAD,
    "button_primary_background_fill": _THREAD,
    "button_primary_background_fill_hover": _THREAD_DEEP,
    "button_primary_border_color": _THREAD,
    "button_primary_border_color_hover": _THREAD_DEEP,
    "button_secondary_background_fill": _CARD,
    "button_secondary_background_fill_hover": _PAPER,
    "button_secondary_border_color": _SEAM,
    "button_secondary_border_color_hover": _PENCIL,
    "button_secondary_text_color": _INK,
    "button_secondary_text_color_hover": _INK,
    "button_cancel_background_fill": _CARD,
    "button_cancel_background_fill_hover": _THREAD_WASH,
    "button_cancel_border_color": _THREAD,
    "button_cancel_border_color_hover": _THREAD,
    "button_cancel_text_color": _THREAD_INK,
    "button_cancel_text_color_hover": _THREAD_INK,
    "error_background_fill": _CARD,
    "error_border_color": _THREAD,
    "error_text_color": _THREAD_INK,
    "error_icon_color": _THREAD_INK,
}


def theme() -> Base:
    """The theme that `launch` takes; every font of it is on this machine."""
    loom = Base(
        primary_hue=_MADDER, secondary_hue=_MADDER, neutral_hue=_NEUTRAL, font=_SANS, font_mono=_MONO,
        spacing_size=sizes.spacing_md, radius_size=sizes.radius_sm, text_size=sizes.text_md,
    )  # fmt: skip
    in_both_lights = {
        name + suffix: value for name, dye in _USES.items() for suffix, value in (("", dye.light), ("_dark", dye.dark))
    }
    return loom.set(
        **in_both_lights,
        color_accent=_THREAD.light,
        button_primary_text_color="#ffffff",
        button_primary_text_color_dark="#ffffff",
        button_primary_text_color_hover="#ffffff",
        button_primary_text_color_hover_dark="#ffffff",
        block_border_width="0px",
        block_border_width_dark="0px",
        block_shadow="none",
        block_shadow_dark="none",
        block_label_text_weight="500",
        block_title_text_weight="500",
        block_title_text_size="*text_sm",
        block_padding="0",
        form_gap_width="0px",
        layout_gap="*spacing_xl",
        input_border_width="1px",
        input_shadow="none",
        input_shadow_focus="0 0 0 3px *color_accent_soft",
        input_shadow_focus_dark="0 0 0 3px *color_accent_soft",
        button_large_text_weight="700",
        button_border_width="1px",
        button_transition="background-color 120ms ease, border-color 120ms ease",
        checkbox_shadow="none",
    )


def css() -> str:
    """The style sheets with their fonts inside: an address of ours would tell a folder of the server."""
    names = ("loom", "create", "loras", "overlap", "reuse", "history", "compare")
    sheets = "\n".join((_HERE / f"{name}.css").read_text("utf-8") for name in names)
    return re.sub(r"fonts/[\w-]+\.woff2", _as_data, sheets)


def js() -> str:
    """What the page runs once, when it has loaded: a function, with what it uses inside it."""
    parts = "\n".join(
        (_HERE / f"{name}.js").read_text("utf-8") for name in ("dom", "form", "faults", "completion", "keys")
    )
    return f"() => {{\n{parts}\nreturn ({(_HERE / 'loom.js').read_text('utf-8').rstrip()})();\n}}"


def _as_data(address: re.Match[str]) -> str:
    return "data:font/woff2;base64," + base64.b64encode((_HERE / address[0]).read_bytes()).decode()
