"""Fewer heads, neurons, layers and vocabulary entries, with weights that really are smaller."""
