"""Pictures on their way out: PNG bytes become files in Gradio's cache, so that their text chunks survive."""

from __future__ import annotations

import io
import secrets

from gradio.processing_utils import save_bytes_to_cache
from PIL import Image

from core.messages import Raster
from core.studio import Generated


def gallery_items(generated: Generated, cache: str) -> list[tuple[str, str]]:
    """(file, caption) for gr.Gallery; the file's name is the one a download gets.

    What of the request was not heard, and that nothing could be recorded, stands in the captions: clients of the API
    get no other words.
    """
    told = filter(None, [*generated.notes, generated.recorded.why_not])
    behind_seed = "".join(f" · {sentence}" for sentence in told)
    return [
        (
            save_bytes_to_cache(png, f"lora-loom-{recipe.seed}.png", cache),
            f"seed {recipe.seed}{behind_seed}",
        )
        for png, recipe in zip(generated.pictures, generated.recipes, strict=True)
    ]


def early_look(raster: Raster, cache: str) -> str:
    """A preview as a file of its own, without a recipe: it is none that anybody keeps.

    Its name is never used again: a file must not be written anew while somebody downloads it.
    """
    out = io.BytesIO()
    Image.frombytes("RGB", (raster.width, raster.height), raster.data).save(out, "PNG", compress_level=1)
    path: str = save_bytes_to_cache(out.getvalue(), f"look-{secrets.token_hex(8)}.png", cache)
    return path
