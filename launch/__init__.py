"""Commands, one file for each, and the scripts that start them."""
