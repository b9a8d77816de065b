"""Entry point of the Space: load the model and serve the page."""

from fagan_space.storage import open_storage

from fagan_hf.utils.allocator import share_memory_between_threads

share_memory_between_threads()  # must run before any thread starts
open_storage()  # must run before Gradio and torch are imported

from fagan_space.models import load_own  # noqa: E402
from fagan_space.page import build, launch  # noqa: E402

page = build(load_own())

if __name__ == "__main__":
    launch(page)
