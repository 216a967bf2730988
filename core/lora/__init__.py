"""The blend engine: LoRA files to factors, factors into weights, and a receipt for each."""
