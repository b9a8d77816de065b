"""Utilities for the whole package: atomic file writes, suggestions, redaction, devices."""
