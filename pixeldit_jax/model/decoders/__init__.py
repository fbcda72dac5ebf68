"""From patch tokens to pixels, in four ways: PiT blocks, DeCo's, PixNerd's
neural field, and one linear layer."""
