"""Checkpoints: saving, restoring, integrity and retention."""
