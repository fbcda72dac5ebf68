"""The dual-level diffusion transformer (PixelDiT, section 3)."""
