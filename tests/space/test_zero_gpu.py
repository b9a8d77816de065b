"""On ZeroGPU, the package `spaces` runs calls in other processes: arguments and results are pickled."""

import textwrap

import pytest
from gradio_client import Client, handle_file

from benchmarks.serving import ROOT, serving

# A stand-in for the relevant part of the real package, which works only on ZeroGPU.
STAND_IN = """
    import functools, inspect, pathlib, pickle, sys

    assert "torch" not in sys.modules, "spaces must be imported before torch"
    log = pathlib.Path(__file__).with_name("log")

    def over(thing):
        return pickle.loads(pickle.dumps(thing))

    def GPU(duration):
        def lent(function):
            @functools.wraps(function)
            def call(*args, **kwargs):
                with log.open("a") as lines:
                    lines.write(f"{function.__module__}.{function.__name__} {duration}\\n")
                args, kwargs = over((args, kwargs))
                result = function(*args, **kwargs)
                return (over(each) for each in result) if inspect.isgenerator(result) else over(result)

            return call

        return lent
"""


@pytest.fixture
def stand_in(tmp_path):
    folder = tmp_path / "packages"
    folder.mkdir()
    (folder / "spaces.py").write_text(textwrap.dedent(STAND_IN))
    return folder


def test_every_computation_is_handed_over(folder, stand_in, tmp_path):
    picture = handle_file(next((ROOT / "space/examples").glob("*.png")))
    path = f"{stand_in}:{ROOT}"
    with serving(folder, tmp_path / "uploads", PYTHONPATH=path) as page:
        client = Client(page.url, verbose=False, download_files=str(tmp_path / "downloads"))
        for request in (
            {"api_name": "/generate", "seeds": "1"},
            {"api_name": "/walk", "seeds": "0-1", "frames_per_step": 2, "seconds": 1.0},
            {"api_name": "/look_inside"},
            {"api_name": "/judge", "picture": picture},
            {"api_name": "/dial"},
            {"api_name": "/project", "picture": picture, "steps": 2},
        ):
            assert client.predict(**request)
        client.close()
    called = (stand_in / "log").read_text().splitlines()
    names = ("generate.draw", "walk._draw", "look_inside.look_at_generator", "look_inside.look_at_discriminator")
    names += ("dial.strip", "project.find", "project.edit")
    assert called == [f"fagan_space.tabs.{name} 60" for name in names]
