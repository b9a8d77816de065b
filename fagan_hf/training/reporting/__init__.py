"""Reporting of a run: log lines, sample grids, plots, trackers, evaluation, pushes to the Hub."""
