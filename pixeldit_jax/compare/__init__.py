"""Networks trained at one budget on the same data, and measured alike."""
