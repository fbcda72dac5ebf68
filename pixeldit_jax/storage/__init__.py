"""Buckets of Google and Amazon: what is there, in and out."""
