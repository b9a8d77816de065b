"""Grids, films and plots."""
