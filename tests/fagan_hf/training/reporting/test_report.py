import errno
import io
import json

import numpy as np
import pytest
from PIL import Image

from fagan_hf.training.reporting.report import Report


def line(images):
    return {"images": images, "generator_loss": 1.0, "discriminator_loss": 2.0, "generator.layers.0.alpha": 0.1}


def samples(value):
    return Image.fromarray(np.full((16, 16, 3), value, np.uint8))


def test_a_line_is_written_where_fsync_is_not_supported(tmp_path, monkeypatch):
    """As on some network drives."""

    def refuse(descriptor):
        raise OSError(errno.EINVAL, "Invalid argument")

    monkeypatch.setattr("os.fsync", refuse)
    report = Report(tmp_path)
    report.add_line(line(32))
    assert [each["images"] for each in report.lines()] == [32]


def test_rewind_forgets_what_came_after_and_a_line_cut_off(tmp_path):
    report = Report(tmp_path)
    for images in (32, 64, 96):
        report.add_line(line(images))
        report.add_samples(images, samples(images))
    with report.metrics_path.open("a") as file:
        file.write('{"images": 128, "gener')
    report.rewind(64)
    assert [json.loads(text)["images"] for text in report.metrics_path.read_text().splitlines()] == [32, 64]
    assert sorted(path.name for path in report.samples_folder.iterdir()) == [
        "images-00000032.png",
        "images-00000064.png",
    ]
    report.add_line(line(96))
    assert [each["images"] for each in report.lines()] == [32, 64, 96]


def test_plots_are_pictures_with_lines(tmp_path):
    report = Report(tmp_path)
    report.draw_plots()  # nothing to plot is not an error
    for images in (32, 64):
        report.add_line(line(images))
    report.draw_plots()
    for name in ("loss.png", "alpha.png"):
        with Image.open(tmp_path / name) as image:
            colors = np.unique(np.asarray(image.convert("RGB")).reshape(-1, 3), axis=0)
        assert len(colors) > 20


def test_the_film_shows_the_whole_run_and_ends_with_its_end(tmp_path):
    report = Report(tmp_path)
    assert report.make_gif(10) is None
    for images in range(20):
        report.add_samples(images, samples(10 * images))
    with Image.open(report.make_gif(5)) as film:
        assert film.n_frames == 5
        levels = []
        for frame in range(5):
            film.seek(frame)
            levels.append(np.asarray(film.convert("RGB")).mean())
        assert film.info["duration"] == 3000
    assert levels == sorted(levels)
    assert levels[0] < 5
    assert abs(levels[-1] - 190) < 5


def test_lines_are_counted_where_images_do_not_tell(tmp_path):
    """Two lines at the same number of images, for example one before a rollback and one at the end of a session."""
    report = Report(tmp_path)
    for images in (32, 64, 64, 96):
        report.add_line(line(images))
    report.rewind(64, 2)
    assert [each["images"] for each in report.lines()] == [32, 64]
    report.rewind(64, 9)  # somebody has shortened it
    assert [each["images"] for each in report.lines()] == [32, 64]
    report.rewind(0, 0)
    assert report.metrics_path.read_text() == ""


def test_rewinding_forgets_samples_of_later_images(tmp_path):
    report = Report(tmp_path)
    for images in (8, 99_999_999, 100_000_000):
        report.add_samples(images, samples(1))
    report.rewind(99_999_999, 0)
    assert len(list(report.samples_folder.iterdir())) == 2


class Narrow(io.FileIO):
    """A file on a disk with ten bytes left."""

    def write(self, data):
        return super().write(bytes(data)[:10])


class Full(Narrow):
    def write(self, data):
        super().write(data)
        raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("kind", [Narrow, Full])
def test_a_line_that_does_not_fit_is_not_written_in_part(tmp_path, monkeypatch, kind):
    report = Report(tmp_path)
    report.add_line(line(32))
    before = report.metrics_path.read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(type(report.metrics_path), "open", lambda path, mode, buffering: kind(path, mode))
        with pytest.raises(OSError, match="No space left") as caught:
            report.add_line(line(64))
    assert caught.value.errno == errno.ENOSPC
    assert report.metrics_path.read_bytes() == before
    report.add_line(line(64))
    assert [each["images"] for each in report.lines()] == [32, 64]


def test_plots_have_gaps_where_no_step_was_finite(tmp_path):
    report = Report(tmp_path)
    report.add_line(line(32))
    report.add_line({"images": 64, "generator.layers.0.alpha": 0.1})
    report.draw_plots()
    report.add_line(line(96))
    report.draw_plots()
    assert (tmp_path / "loss.png").exists()


def test_an_adaptive_probability_has_a_plot_and_a_run_without_has_none(tmp_path):
    report = Report(tmp_path)
    report.add_line(line(32))
    report.draw_plots()
    assert not (tmp_path / "augment.png").exists()
    report.add_line(line(64) | {"augment_probability": 0.1, "overfitting": 0.7})
    report.add_line(line(96))  # a line without a finite step
    report.draw_plots()
    with Image.open(tmp_path / "augment.png") as image:
        assert image.format == "PNG"
