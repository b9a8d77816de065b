"""A package by this file: without it, one that a wheel leaves in site-packages (torch-fidelity's) is taken for ours."""
