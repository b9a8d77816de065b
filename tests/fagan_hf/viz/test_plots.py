import sys

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from PIL import Image

from fagan_hf.viz.plots import plot_gates, plot_lines, read_metrics

LINES = [
    {"images": 32, "generator_loss": 1.0, "generator.layers.0.alpha": 0.0, "discriminator.layers.1.gamma": 0.0},
    {"images": 64, "generator_loss": 2.0, "generator.layers.0.alpha": 0.4, "discriminator.layers.1.gamma": -0.3},
]


def colors(path):
    with Image.open(path) as image:
        assert image.format == "PNG"
        return {tuple(color) for color in np.asarray(image.convert("RGB")).reshape(-1, 3).tolist()}


def color(number):
    """Return one of matplotlib's default colors, by index."""
    return tuple(round(255 * channel) for channel in to_rgb(f"C{number}"))


def test_a_line_for_each_name(tmp_path):
    seen = []
    plot_lines(tmp_path / "one.png", LINES, ["generator_loss"], "loss", lambda name: seen.append(name) or "x")
    assert color(0) in colors(tmp_path / "one.png")
    assert color(1) not in colors(tmp_path / "one.png")
    assert seen == ["generator_loss"]


def test_gates_are_found_by_their_names(tmp_path):
    plot_gates(tmp_path / "new" / "alpha.png", LINES)
    assert {color(0), color(1)} <= colors(tmp_path / "new" / "alpha.png")
    assert color(2) not in colors(tmp_path / "new" / "alpha.png")


def test_a_run_without_gates_has_an_empty_plot(tmp_path):
    plot_gates(tmp_path / "alpha.png", [{"images": 32, "generator_loss": 1.0}])
    assert color(0) not in colors(tmp_path / "alpha.png")


@pytest.mark.parametrize("draw", [plot_gates, lambda path, lines: plot_lines(path, lines, ["x"], "x", str)])
def test_no_lines_are_refused(tmp_path, draw):
    with pytest.raises(ValueError, match="no lines"):
        draw(tmp_path / "x.png", [])


def test_without_matplotlib_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r'pip install "fagan-hf\[train\]"'):
        plot_gates(tmp_path / "alpha.png", LINES)
    assert not list(tmp_path.iterdir())


def test_a_line_that_was_cut_off_is_left_out(tmp_path):
    path = tmp_path / "metrics.jsonl"
    assert read_metrics(path) == []
    path.write_text('{"images": 1}\n{"images": 2}\n{"imag')
    assert read_metrics(path) == [{"images": 1}, {"images": 2}]
