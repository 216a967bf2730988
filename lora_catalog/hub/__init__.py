"""The Hub: its HTTP interface, its models as cards, and the index behind a search."""
