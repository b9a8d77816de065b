"""The trainer: a recipe as data, a run in its folder, and the steps of both networks."""
