"""Input: sources of images, transforms, the grain pipeline."""
