"""Resumable jobs that write shards and precomputed arrays."""
