"""Typed configuration: schemas of every config group and their validation; imports no torch."""
