"""Flow matching: path, time, loss (PixelDiT, section 3.4)."""
