"""The Space's entry: loads the model and serves the page."""

from fagan_space.models import load, wanted_model
from fagan_space.page import build, launch

page = build(load(wanted_model()))

if __name__ == "__main__":
    launch(page)
