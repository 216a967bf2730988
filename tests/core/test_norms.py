"""The names of normalisations: all that the real models have."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from core.base_models import BASE_MODELS
from core.lora.norms import norm_of
from lora_catalog.card import Family
from lora_catalog.families.table import MODEL_OF
from tests.lora_catalog.test_families import BACKBONES, ENCODERS


def norms(component: str, root: torch.nn.Module) -> Iterator[str]:
    for path, module in root.named_modules():
        if type(module).__name__.endswith("Norm") and isinstance(getattr(module, "weight", None), torch.nn.Parameter):
            yield f"{component}.{path}"


@pytest.mark.parametrize("family", sorted({entry.family for entry in BASE_MODELS.values()}))
def test_every_normalisation_of_the_real_classes_is_known_by_its_name(family: Family) -> None:
    model = MODEL_OF[family]
    kind, config = BACKBONES[model.title]
    with torch.device("meta"):
        found = list(norms(model.backbone, kind(**config)))
        for number, build in enumerate(ENCODERS[family], start=1):
            found += norms("text_encoder" if number == 1 else f"text_encoder_{number}", build())
    assert len(found) > 10
    for name in found:
        target = norm_of(name, model)
        assert target is not None, name
        path = f"{target.component}.{target.paths[0]}"
        assert path.replace(".text_model.", ".") == name.replace(".text_model.", ".")  # transformers 5 dropped some
