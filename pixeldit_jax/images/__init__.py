"""Files of images, grids, contact sheets and plots."""
