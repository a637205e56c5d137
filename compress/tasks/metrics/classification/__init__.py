"""Accuracy and macro F1."""
