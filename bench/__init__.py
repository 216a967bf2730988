"""Measures LoRA Loom: each script prints its figures and asserts none."""
