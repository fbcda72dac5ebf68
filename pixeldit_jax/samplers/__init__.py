"""From noise to images: time grid, guidance, ODE solvers."""
