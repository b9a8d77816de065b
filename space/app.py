"""The Space's entry: loads the model and serves the page."""

from fagan_space.storage import open_storage

from fagan_hf.utils.allocator import share_memory_between_threads

share_memory_between_threads()  # before any thread is started
open_storage()  # before Gradio and torch are imported

from fagan_space.models import load_own  # noqa: E402
from fagan_space.page import build, launch  # noqa: E402

page = build(load_own())

if __name__ == "__main__":
    launch(page)
