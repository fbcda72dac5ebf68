"""The folder of a run: its settings, lock, log and signals."""
