"""Evaluation of sample sets, and during training."""
