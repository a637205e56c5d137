"""The command line: Hydra composes the config, validation types it, the pipeline runs it."""
