"""The dataset's card: what it holds, column by column, and under which licence nobody has put it yet."""

from __future__ import annotations

DATASET_CARD = """---
pretty_name: Records of LoRA Loom
tags:
- lora
- text-to-image
- lora-loom
configs:
- config_name: default
  data_files: data/**
---
# Records of LoRA Loom

Pictures that people made with LoRA Loom, one row each, with what it takes to make them again.
Each row is here with the consent of whoever made it: `recipe` (no pixels) or `picture`.

```python
from datasets import load_dataset

rows = load_dataset("{repo}", split="train")
```

| column | type | meaning |
|---|---|---|
| `id` | text | names the record; a row that should ever stand here twice has the same `id` twice |
| `created_at` | timestamp, UTC | when the picture was made |
| `prompt` | text | without LoRA tags |
| `model` | text | the model's key |
| `loras` | JSON text | each LoRA's pinned ref, sha256, weight and receipt |
| `recipe` | JSON text | everything needed to make the same picture again |
| `image` | picture, or null | a PNG with its recipe inside; null where only the recipe was to be kept |

Nothing here says who made a picture. A record that its maker deletes leaves its shard and the repo's history, at most
once a day.

## Licence

None has been chosen. Prompts belong to those who wrote them; pictures fall under the licences of the model and the
LoRAs that their recipes name. The owner of this dataset may name a licence above; this card is never written again.
"""
