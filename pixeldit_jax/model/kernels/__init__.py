"""Attention kernels: each file is one way to compute the same function."""

# The residuals of a kernel for long sequences, apart from q, k and v, have this
# name: remat that keeps it does not run attention twice. XLA's has
# none, since its backward pass needs the scores.
RESIDUALS = 'attention'

# From KEPT x KEPT scores on, remat may keep a kernel's output. That of shorter
# sequences is better computed again: XL-256 then takes 1% more operations, and
# 17 MB less for each image.
KEPT = 1024

# The score of a key that is not seen. Finite, since inf - inf is NaN.
LOWEST = -1e30
