"""Distances and scores of arrays of features."""
