"""Comparisons: the same picture with one or two things changed, side by side."""
