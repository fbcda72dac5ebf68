"""Flags and start-up that the commands share."""
