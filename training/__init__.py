"""Trainers for any BASE_MODELS entry and a captioned folder."""
