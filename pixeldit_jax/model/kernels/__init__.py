"""Attention kernels: each file is one way to compute the same function."""

# What the backward pass of a kernel needs besides q, k and v carries this name:
# `jax.checkpoint_policies.save_only_these_names(RESIDUALS)` keeps it, so that
# rematerialising a block does not run its attention twice.
RESIDUALS = 'attention'
