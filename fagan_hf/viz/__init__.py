"""Image grids, videos and plots."""
