"""Frozen networks that see images or read text."""
