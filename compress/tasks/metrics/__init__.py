"""Metrics as ``evaluate`` modules that ship with the package, so that none is fetched from a network."""
