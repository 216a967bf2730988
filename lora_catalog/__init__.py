"""Finds, identifies and fetches LoRAs, without torch, gradio or diffusers: `catalog.Catalog` is the one door."""
