"""Scenes, settings and the judge that make the pocket models."""
