"""Looking at samples and judging them."""
