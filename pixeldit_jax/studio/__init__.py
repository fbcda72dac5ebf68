"""A page to play in: draw, compare and edit in a browser."""
