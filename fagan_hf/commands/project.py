"""To be written."""


def describe(parser):
    """Add the flags."""


def run(options):
    """Do the work."""
    raise ValueError("not written yet")
