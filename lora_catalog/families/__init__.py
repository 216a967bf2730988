"""The layers of every model family that LoRAs are told apart for, and the names that LoRA files give them."""
