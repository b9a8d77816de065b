"""API endpoints: what the tabs do, by name, for `gradio_client` and plain HTTP.

Labels and strengths are JSON objects, such as ``{"beard": true}``; files are returned as files.
"""

from pathlib import Path
from typing import Any, cast

import gradio as gr
from PIL import Image

from fagan_hf.viz.colors import as_picture
from fagan_space import border
from fagan_space.controls import IN_LINE, LONG, MODELS, UPLOADS
from fagan_space.files import png, request_folder, write_archive, write_pictures
from fagan_space.limits import MAX_IMAGES, MAX_WALK_SEEDS, read_seeds
from fagan_space.models import Model
from fagan_space.moves import strongest
from fagan_space.tabs import compare, dial, generate, look_inside, project, walk
from fagan_space.uploads import take_upload


def add_api(model: Model) -> None:
    """Add the endpoints to the page under construction."""

    def generate_pictures(
        seeds: str = "0-15",
        truncation: float = 1.0,
        labels: dict | None = None,
        alpha: float | None = None,
        strengths: dict | None = None,
    ) -> list[dict]:
        """Generate a PNG for each seed: the same bytes as `fagan-hf generate --out FOLDER` writes, or moved."""
        numbers = read_seeds(seeds, MAX_IMAGES, size=model.size)
        images = generate.draw(model, numbers, truncation=truncation, labels=labels, alpha=alpha, strengths=strengths)
        return [_file(path) for path in write_pictures(images, numbers)]

    def walk_between(
        seeds: str = "0-3", frames_per_step: int = 24, seconds: float = 6.0, suffix: str = ".gif", is_loop: bool = True
    ) -> dict:
        """Interpolate from seed to seed, as a .gif or .mp4."""
        numbers = read_seeds(seeds, MAX_WALK_SEEDS, size=model.size, least=2)
        path = walk.film(
            model, numbers, frames_per_step=frames_per_step, seconds=seconds, suffix=suffix, is_loop=is_loop
        )
        return _file(path)

    def look(seed: int = 0, row: int = 0, column: int = 0, labels: dict | None = None) -> list[dict]:
        """Show where a pixel attends in each layer of the generator: alpha, a description, and three images."""
        _, looks = look_inside.look_at_generator(model, seed, (row, column), labels)
        return [_look(each) for each in looks]

    def judge(picture: dict, row: int = 0, column: int = 0, labels: dict | None = None) -> dict:
        """Score an image: the discriminator's logit, and for each of its layers the same as `/look_inside`."""
        taken = take_upload(cast("Path", picture), model.size, model.channels)
        logit, looks = look_inside.look_at_discriminator(model, taken, (row, column), labels)
        return {"logit": logit, "layers": [_look(each) for each in looks]}

    def turn(seeds: str = "0", layer: str | None = None, is_relative: bool = False, labels: dict | None = None) -> dict:
        """Generate seeds at a range of gate values, of all layers or one, as one image."""
        numbers = read_seeds(seeds, dial.MAX_ROWS, size=model.size)
        strip = dial.strip(model, numbers, layer=layer, is_relative=is_relative, labels=labels)
        return _picture(strip, "dial.png")

    def project_picture(
        picture: dict, steps: int = 100, strengths: dict | None = None, labels: dict | None = None
    ) -> dict:
        """Find an image's latent: latent, distance, comparison image, and the image edited along directions."""
        found = project.find(
            model, take_upload(cast("Path", picture), model.size, model.channels), steps=steps, labels=labels
        )
        edited = as_picture(project.edit(model, found, strengths))
        return {
            "latent": found.latents[0].tolist(),
            "distance": found.distance,
            "comparison": _picture(found.comparison, "comparison.png"),
            "edited": _picture(edited, "edited.png"),
        }

    def compare_models(left: str, right: str, seeds: str = "0-15", truncation: float = 1.0) -> list[dict]:
        """Generate the same seeds with two models: an archive of PNGs from each."""
        sides = [compare.pictures_of(name, model, seeds, truncation) for name in (left, right)]
        return [_file(write_archive(side.paths)) for side in sides]

    def about() -> dict:
        """Describe the model: its name, labels, layers, directions and card."""
        return {
            "model": model.shown,
            "image_size": model.size,
            "labels": dict(model.labels),
            "layers": [*dial.layers_of(model).values()],
            "directions": strongest(model),
            "card": model.card,
        }

    endpoints = {
        "generate": (generate_pictures, border.Generate, IN_LINE),
        "walk": (walk_between, border.Walk, LONG),
        "look_inside": (look, border.LookInside, IN_LINE),
        "judge": (judge, border.Judge, UPLOADS),
        "dial": (turn, border.Dial, IN_LINE),
        "project": (project_picture, border.Project, LONG),
        "compare": (compare_models, border.Compare, MODELS),
        "about": (about, border.Nothing, IN_LINE),
    }
    for name, (function, request, lane) in endpoints.items():
        gr.api(border.takes(request)(function), api_name=name, **lane)


def _file(path: Path) -> dict[str, Any]:
    return gr.FileData(path=str(path), orig_name=path.name).model_dump()


def _picture(image: Image.Image, name: str) -> dict[str, Any]:
    path = request_folder() / name
    path.write_bytes(png(image))
    return _file(path)


def _look(look: look_inside.Look) -> dict[str, Any]:
    return {
        "name": look.name,
        "alpha": look.alpha,
        "times_uniform": look.times_uniform,
        "words": look.words,
        "heat": _picture(look.heat, "heat.png"),
        "convolution": _picture(look.convolution, "convolution.png"),
        "attention": _picture(look.attention, "attention.png"),
    }
