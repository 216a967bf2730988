"""Where LoRAs come from: one file per source, each keeping the protocol in base.py."""
