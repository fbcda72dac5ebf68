"""PixelDiT: pixel-space diffusion transformers in JAX and Flax NNX."""
