"""What a run shows: log lines, sample grids, plots, trackers, evaluation, pushes to the Hub."""
