"""Pictures on their way out: PNG bytes become files in Gradio's cache, so that their text chunks survive."""

from __future__ import annotations

from gradio.processing_utils import save_bytes_to_cache
from PIL import Image

from core.messages import Raster
from core.studio import Generated


def gallery_items(generated: Generated, cache: str) -> list[tuple[str, str]]:
    """(file, caption) for gr.Gallery; the file's name is the one a download gets."""
    return [
        (save_bytes_to_cache(png, f"lora-loom-{recipe.seed}.png", cache), f"seed {recipe.seed}")
        for png, recipe in zip(generated.pictures, generated.recipes, strict=True)
    ]


def early_look(raster: Raster) -> Image.Image:
    """A preview as a picture of its own, without a recipe: it is none that anybody keeps."""
    return Image.frombytes("RGB", (raster.width, raster.height), raster.data)
