"""The Space's entry: loads the model and serves the page."""

from fagan_space.models import load_own
from fagan_space.page import build, launch

page = build(load_own())

if __name__ == "__main__":
    launch(page)
