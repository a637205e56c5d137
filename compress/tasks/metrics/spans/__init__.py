"""Span precision, recall and F1."""
