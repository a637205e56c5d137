"""Model families, and reading and writing models; nothing here imports torch at import time."""
