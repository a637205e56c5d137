"""Sweeps: which jobs there are, where and how they run, what is measured at the end.

The command line composes; a sweeper (the grid of Hydra's basic sweeper, or a study of Optuna) says which jobs there
are; a launcher runs them here, in parallel or on a cluster; the ledger lets them know of each other.
"""
