"""Times of this machine: steps, checkpoints, input."""
