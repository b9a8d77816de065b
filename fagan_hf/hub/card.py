"""The model card, written from the facts of a folder: metadata (YAML between two ``---``) and Markdown."""

import json
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any, Self

from huggingface_hub import EvalResult, ModelCardData
from jinja2 import Environment, StrictUndefined, Template

from fagan_hf.hub.card_merge import license_of_a_person, merge_card, published_as
from fagan_hf.hub.licenses import kind_of, terms
from fagan_hf.hub.measurements import Measurement, read_measurements
from fagan_hf.hub.repository import (
    ARCHITECTURE,
    ARCHITECTURE_SUFFIXES,
    AUGMENTATION,
    CARD,
    CONFIG,
    DISCRIMINATOR,
    EXPORTS,
    FACTS,
    GATES,
    GENERATOR,
    LOSSES,
    NEIGHBORS,
    PROGRESS,
    RECIPE,
    SAMPLES,
    WEB,
    WEB_DESCRIPTION,
    WEIGHTS,
    published_files,
    read_json,
    read_recipe,
    weights_hash,
)
from fagan_hf.utils.label_names import label_values
from fagan_hf.utils.redaction import redact

TASK = "unconditional-image-generation"
LIBRARY = "fagan_hf"
_MOST_ROWS = 16  # in the grid of a run: with more label values it shows some of them
_ATTENTION = {"full_attention", "full_attention_block", "self_attention"}
_BETWEEN = {"activation", "batch_norm", "dropout", "rms_norm"}  # layers that only transform the output of others
# In a wheel the template is next to this file, in a clone in the folder of cards.
_TEMPLATES = (Path(__file__).with_name("card.md"), Path(__file__).parents[2] / "model_cards/template.md")
# Read at import time, together with the code that fills it: a long training must not pick up a newer template.
_TEMPLATE = next(path for path in _TEMPLATES if path.is_file()).read_text(encoding="utf-8")
_FAGAN = (
    "blended by one trained scalar for each layer (FAGAN, Animesh Karnewar 2018, which grew out of "
    "[SAGAN](https://arxiv.org/abs/1805.08318))"
)


@dataclass(frozen=True)
class _Generator:
    """The generator's facts for a card, read from its ``config.json``: this package does not import networks."""

    image_size: int
    latent_dim: int
    label_names: tuple[str, ...]
    layer_types: tuple[str, ...]
    channels: int

    @classmethod
    def read(cls, path: Path) -> Self:
        config = read_json(path)
        try:
            types = tuple(str(layer["type"]) for layer in config["layers"])
            labels = tuple(map(str, config.get("label_names", ())))
            channels = next((int(each["out_channels"]) for each in config["layers"][::-1] if "out_channels" in each), 3)
            return cls(int(config["image_size"]), int(config["latent_dim"]), labels, types, channels)
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{path} is not a generator config: {type(error).__name__} {error}") from error


def write_card(
    folder: Path,
    repo_id: str | None = None,
    existing: str | None = None,
    files: Collection[str] | None = None,
    measurements: Sequence[Measurement] | None = None,
) -> str:
    """Write the card of a model folder.

    Args:
        folder: Has the layout of a repository; the card mentions only what it contains.
        repo_id: Where it is published; ``None`` for the repository of the existing card, or else the folder.
        existing: The existing card: its metadata and the text outside our marks are kept.
        files: Files next to the card; by default those of the folder.
        measurements: Metrics of these weights, and perhaps of others; by default those of the folder.

    Returns:
        The text of ``README.md``.

    Raises:
        ValueError: The existing card's metadata is not YAML, its marks are broken, or a file of the folder is invalid.
    """
    repo_id = repo_id or published_as(existing or "")
    facts = _tame(read_json(folder / FACTS))
    generator = _Generator.read(folder / GENERATOR / CONFIG)
    measured = read_measurements(folder) if measurements is None else measurements
    weights = weights_hash(folder)
    measurements = [Measurement(**_tame(asdict(each))) for each in measured if each.generator == weights]
    name = _tame((repo_id or folder.resolve().name).rpartition("/")[2])
    wanted = _metadata(name, facts, generator, measurements)
    if (chosen := license_of_a_person(existing or "")) is not None:
        facts["weights_license"] = chosen  # for the text; in the metadata it remains the user's
    if files is None:
        files = published_files(folder)
    body = _render(_context(folder, name, repo_id, facts, generator, measurements, files))
    return redact(merge_card(existing or "", wanted, body, repo_id))


def page_facts(folder: Path) -> dict[str, Any]:
    """Return what a web page says about a model: the known ones of title, license, dataset, attribution, images seen.

    Raises:
        ValueError: A file of the folder is invalid.
    """
    facts = _tame(read_json(folder / FACTS))
    text = (folder / CARD).read_text(encoding="utf-8", errors="replace") if (folder / CARD).is_file() else ""
    data = facts.get("data") or {}
    license_terms = terms(_all_data(facts), license_of_a_person(text) or facts.get("weights_license"))
    known = {
        "title": _tame((published_as(text) or "").rpartition("/")[2]),
        "license": license_terms.metadata.get("license_name") or license_terms.metadata.get("license"),
        "dataset": data.get("dataset"),
        "attribution": data.get("attribution"),
        "images_seen": facts.get("training", {}).get("images_seen"),
    }
    return {key: value for key, value in known.items() if value}


def _metadata(
    name: str, facts: Mapping[str, Any], generator: _Generator, measurements: list[Measurement]
) -> dict[str, Any]:
    data, training = facts.get("data"), facts.get("training", {})
    attending, _, _ = _layers(generator, facts)
    is_full = "full_attention" in attending
    tags = ["gan", "attention", *(["full-attention"] if is_full else []), "safetensors"]
    tags += [{"avatars": "cartoon", "celeba": "faces"}[kind]] if (kind := _kind(data)) in ("avatars", "celeba") else []
    card = ModelCardData(
        library_name=LIBRARY,
        pipeline_tag=TASK,
        tags=tags,
        datasets=[data["dataset"]] if data and data.get("source") == "hub" else None,
        base_model=_base_model(training),
        model_name=name if measurements else None,
        eval_results=[_eval_result(each, data) for each in measurements] or None,
        **terms(_all_data(facts), facts.get("weights_license")).metadata,
    )
    return card.to_dict()


def _tame(value: Any) -> Any:
    """Put foreign text on one line and neutralize HTML, so that it can't break tables or our marks."""
    if isinstance(value, str):
        return re.sub(r"<(?=[!/?a-zA-Z])", "< ", " ".join(value.split()))
    if isinstance(value, Mapping):
        return {key: _tame(each) for key, each in value.items()}
    return [_tame(each) for each in value] if isinstance(value, list | tuple) else value


def _code(text: str) -> str:
    """Format a text as inline code, whatever backticks it contains."""
    fence = "`" * (1 + max(map(len, re.findall("`+", text)), default=0))
    return f"`{text}`" if fence == "`" else f"{fence} {text} {fence}"


def _cell(text: Any) -> str:
    return str(text).replace("|", "\\|")


def published_model(model: str) -> str:
    """Return the architecture in a published recipe: a local file or folder is published next to it."""
    path = Path(model)
    is_here = path.is_absolute() or model.startswith(("~", ".")) or (path.is_dir() and len(path.parts) > 1)
    return ARCHITECTURE if is_here or path.suffix in ARCHITECTURE_SUFFIXES else model


def _all_data(facts: Mapping[str, Any]) -> list[Mapping[str, Any] | None]:
    """List what the weights were trained on: the run's own data, and that of the models that it started from."""
    return [facts.get("data"), *facts.get("earlier_data", [])]


def _kind(data: Mapping[str, Any] | None) -> str | None:
    return kind_of(data["dataset"]) if data else None


def _base_model(training: Mapping[str, Any]) -> str | None:
    """Return the Hub id of the model that was fine-tuned; a local folder does not count as a base model."""
    origin = re.fullmatch(r"((?:[\w.-]+/)?[\w.-]+)@[0-9a-f]{40}", str(training.get("finetuned_from", "")))
    return origin[1] if origin else None


def _eval_result(each: Measurement, data: Mapping[str, Any] | None) -> EvalResult:
    extras = ("features", "num_images", "reference", "floor", "error", "command")
    return EvalResult(
        task_type=TASK,
        task_name="Unconditional image generation",
        dataset_type=each.dataset,
        dataset_name=each.dataset,
        dataset_split=each.split,
        dataset_revision=data.get("revision") if data and data["dataset"] == each.dataset else None,
        metric_type=each.type,
        metric_name=each.name,
        metric_value=each.value,
        metric_args={name: value for name, value in asdict(each).items() if name in extras and value is not None},
    )


def _context(
    folder: Path,
    name: str,
    repo_id: str | None,
    facts: Mapping[str, Any],
    generator: _Generator,
    measurements: list[Measurement],
    there: Collection[str],
) -> dict[str, Any]:
    data, training = facts.get("data"), facts.get("training", {})
    label_names: list[str] = _tame(generator.label_names)
    values = label_values(label_names) if label_names else []
    recipe = _tame(read_recipe(folder))
    if "model" in recipe:
        recipe["model"] = published_model(str(recipe["model"]))
    files = {
        "samples": SAMPLES,
        "progress": PROGRESS,
        "losses": LOSSES,
        "gates": GATES,
        "augmentation": AUGMENTATION,
        "nearest": NEIGHBORS,
        "recipe": RECIPE,
        "discriminator": f"{DISCRIMINATOR}/{WEIGHTS}",
        "onnx": EXPORTS["onnx"],
        "torch_export": EXPORTS["torch"],
        "web": f"{WEB}/{WEB_DESCRIPTION}",
    }
    pictures = {key: path in there for key, path in files.items()}
    is_of_several = len({_measured_on(each) for each in measurements}) > 1
    pictures["needs_architecture"] = recipe.get("model") == ARCHITECTURE
    return {
        "name": name,
        "repo_id": repo_id,
        "address": repo_id or folder.as_posix(),
        "size": generator.image_size,
        "form": {1: " grayscale", 4: " transparent"}.get(generator.channels, ""),
        "latent_dim": generator.latent_dim,
        "label_names": label_names,
        "labels_example": _example(values),
        "labels_list": ", ".join(map(_code, label_names)),
        "attention": _attention(generator, facts),
        "imports": _imports(facts),
        "data": {**data, "kind": _kind(data), "subject": _subject(data, training.get("images_seen"))} if data else None,
        "kinds": list({_kind(each): None for each in _all_data(facts)}),
        "earlier_data": [_subject(each) if each else "data that is not recorded" for each in _all_data(facts)[1:]],
        "again": _again(data, training, recipe),
        "terms": terms(_all_data(facts), facts.get("weights_license")),
        "measurements": [
            {
                "name": _cell(each.name),
                "type": _cell(each.type),
                "data": _cell(_measured_on(each)) if is_of_several else None,
                "lower_is_better": each.lower_is_better,
                "shown": _with_error(each),
                "shown_floor": f"{each.floor:.4g}" if each.floor is not None else "not measured",
            }
            for each in measurements
        ],
        "protocols": _protocols(measurements),
        "pictures": pictures,
        "samples_caption": _samples_caption(generator, training),
        "training_table": _training_table(folder, facts, recipe),
        "command": training.get("command"),
        "commit": training.get("commit"),
        "commit_modified": training.get("commit_modified", False),
        "longer": _longer(training, recipe),
        "grid_width": min(800, 8 * max(generator.image_size, 64)),  # small images are shown enlarged [pixels]
        "code": _code,
    }


def _measured_on(each: Measurement) -> str:
    return f"`{each.dataset}`" + (f", {each.split}" if each.split else "")


def _protocols(measurements: Sequence[Measurement]) -> list[dict[str, Any]]:
    """Describe how metrics were measured, once for all that share a protocol."""
    alike: dict[tuple[Any, ...], list[str]] = {}
    for each in measurements:
        protocol = each.features, each.num_images, each.reference, each.command
        alike.setdefault(protocol, []).append(f"`{_cell(each.type)}`")
    return [
        {
            "names": ", ".join(names),
            "features": _cell(features),
            "num_images": num_images,
            "reference": _cell(reference),
            "command": command,
        }
        for (features, num_images, reference, command), names in alike.items()
    ]


def _again(data: Mapping[str, Any] | None, training: Mapping[str, Any], recipe: Mapping[str, Any]) -> str | None:
    """Return the flags that reproduce the training from its recipe; ``None`` if its origin is not on the Hub."""
    flags = []
    if "resumed_from" in training:  # at an unknown moment
        return None
    if data and data.get("source") == "folder":
        flags.append(" --dataset path/to/images")
    if "finetuned_from" in training:
        if _base_model(training) is None:
            return None
        flags.append(f" --finetune_from {training['finetuned_from']}")
    if data and data.get("source") == "hub" and data.get("revision") not in (None, recipe.get("revision")):
        flags.append(f" --revision {data['revision']}")
    images = training.get("images_seen")
    if images and images < recipe.get("max_images", 0):  # it was stopped earlier, manually or by the time limit
        flags.append(f" --max_images {images}{' --max_minutes null' if recipe.get('max_minutes') else ''}")
    return "".join(flags)


def _longer(training: Mapping[str, Any], recipe: Mapping[str, Any]) -> str:
    """Return the flag that makes the run twice as long."""
    if recipe.get("max_minutes"):
        return f"--max_minutes {2 * recipe['max_minutes']:g}"
    return f"--max_images {2 * (training.get('images_seen') or recipe.get('max_images', 1_000_000))}"


def _example(values: list[dict[str, Any]]) -> str:
    """Return an example of up to two different labels."""
    labels: dict[str, Any] = {}
    for each in values:
        for label, value in each.items():
            if label not in labels and value is not False and len(labels) < 2:
                labels[label] = value
    pairs = (f"{json.dumps(label, ensure_ascii=False)}: {_literal(value)}" for label, value in labels.items())
    return f"{{{', '.join(pairs)}}}"


def _literal(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False) if isinstance(value, str) else repr(value)


def _with_error(each: Measurement) -> str:
    return f"{each.value:.4g}" + (f" ± {each.error:.2g}" if each.error is not None else "")


def _layers(generator: _Generator, facts: Mapping[str, Any]) -> tuple[list[str], int, bool]:
    """Return the types of the generator's layers that attend, how many compute features, and if all are built in.

    The layers themselves know, and saving records it; older folders have only the types of their specs.
    """
    if recorded := facts.get("layers", {}).get(GENERATOR):
        return recorded["attending"], recorded["features"], not recorded["imports"]
    types = [each for each in generator.layer_types if each not in _BETWEEN]
    return [each for each in types if each in _ATTENTION], len(types), True


def _attention(generator: _Generator, facts: Mapping[str, Any]) -> str:
    attending, count, is_built_in = _layers(generator, facts)
    if not attending:
        of = " of convolutions" if is_built_in else ""
        return f"A generative adversarial network{of}, without attention: a baseline."
    if set(attending) == {"full_attention"} and len(attending) == count:
        return f"Every layer of its generator attends while it convolves: full attention, {_FAGAN}."
    own = [_code(each) for each in dict.fromkeys(attending) if each not in _ATTENTION]
    kinds = f" Custom layers among them: {', '.join(own)}." if own else ""
    return f"{len(attending)} of its generator's {count} layers use attention, {_FAGAN}.{kinds}"


def _imports(facts: Mapping[str, Any]) -> dict[str, list[str]]:
    """Return what must be imported before the networks can be loaded, with the types of layers that it registers."""
    types: dict[str, list[str]] = {}
    for network in facts.get("layers", {}).values():
        for name, source in network["imports"].items():
            known = types.setdefault(source, [])
            known.extend([name] if name not in known else [])
    return types


def _subject(data: Mapping[str, Any], seen: int | None = None) -> str:
    """Name the images; with the number of images seen, if these are not all of them."""
    name, count = data["dataset"], "" if data["count"] is None else f"{data['count']:,} "
    if seen is not None and data["count"] is not None and seen < data["count"]:
        return f"{seen:,} of {_subject(data)}"
    if _kind(data) == "avatars":
        style = name.partition(":")[2]
        return f"{count}cartoon portraits drawn by a program (DiceBear's style {_code(style)})"
    if data.get("source") == "hub":
        return f"the {count}images of [{name}](https://huggingface.co/datasets/{name})"
    return f"{count}images provided by the publisher ({_code(name)})"


def _samples_caption(generator: _Generator, training: Mapping[str, Any]) -> str:
    images = f" after {training['images_seen']:,} images" if "images_seen" in training else ""
    if len(label_values(generator.label_names)) > _MOST_ROWS:
        return f"Each row shares a label, each column a seed; uncurated,{images or ' as generated'}."
    if generator.label_names:
        return f"One row per label value, one column per seed, uncurated,{images or ' as generated'}."
    return f"Samples of seeds 0 to 63, uncurated,{images or ' as generated'}."


def _training_table(folder: Path, facts: Mapping[str, Any], recipe: Mapping[str, Any]) -> list[tuple[str, str]]:
    """List the known facts, one per row."""
    data, training, parameters = facts.get("data") or {}, facts.get("training", {}), facts.get("parameters", {})
    seconds, images = training.get("seconds"), training.get("images_seen")
    speed = f", {images / seconds:.0f} images a second" if seconds and images else ""
    rows = [
        ("data", _data_row(data) if data else None),
        ("preprocessing", data.get("preprocessing")),
        ("left out", _left_out(data)),
        ("images seen", _images_row(images, data) if images is not None else None),
        ("wall time", f"{_duration(seconds)}{speed}" if seconds is not None else None),
        ("hardware", training.get("hardware")),
        ("layers computed in", training.get("precision")),
        ("versions", ", ".join(f"{name} {version}" for name, version in training.get("versions", {}).items())),
        ("continued from", training.get("resumed_from")),
        ("fine-tuned from", training.get("finetuned_from")),
        ("architecture", recipe.get("model")),
        ("parameters", ", ".join(f"{name} {count:,}" for name, count in parameters.items())),
        ("loss", recipe.get("loss")),
        ("penalties", _penalties(recipe)),
        ("augmentation", _augmentation(recipe)),
        ("frozen", _frozen_layers(recipe)),
        ("batch size", recipe.get("batch_size")),
        ("learning rates", _rates(recipe)),
        ("weights", "moving average of the generator, in safetensors" if training else "safetensors"),
    ]
    return [(name, _cell(value)) for name, value in rows if value not in (None, "")]


def _images_row(seen: int, data: Mapping[str, Any]) -> str:
    count = data.get("count")
    return f"{seen:,}, of {count:,} images" if count is not None and seen < count else f"{seen:,}"


def _data_row(data: Mapping[str, Any]) -> str:
    split = f", split {_code(data['split'])}" if data.get("split") else ""
    revision = f", revision {_code(data['revision'])}" if data.get("revision") else ""
    count = "" if data["count"] is None else f", {data['count']:,} images"
    streamed = ", streamed" if data.get("streamed") else ""
    return f"{_code(data['dataset'])}{split}{revision}{count}{streamed}"


def _left_out(data: Mapping[str, Any]) -> str | None:
    """Count the images that could not be used, by reason."""
    reasons = data.get("left_out") or {}
    return ", ".join(f"{count:,} images: {reason}" for reason, count in reasons.items()) or None


def _rates(recipe: Mapping[str, Any]) -> str | None:
    rates = [(name, recipe.get(f"{name}_learning_rate")) for name in (GENERATOR, DISCRIMINATOR)]
    known = [f"{name} {rate:g}" for name, rate in rates if rate is not None]
    return f"Adam, {', '.join(known)}" if known else None


def _penalties(recipe: Mapping[str, Any]) -> str | None:
    names = {"r1_gamma": "R1", "r2_gamma": "R2", "wasserstein_penalty": "WGAN-GP"}
    known = [f"{name} of weight {recipe[field]:g}" for field, name in names.items() if recipe.get(field)]
    steps = recipe.get("penalty_every_steps", 1)
    return ", ".join([*known, *([f"every {steps} steps"] if steps > 1 else [])]) if known else None


def _augmentation(recipe: Mapping[str, Any]) -> str | None:
    if not (names := recipe.get("augment")):
        return None
    target, probability = recipe.get("augment_target"), recipe.get("augment_probability", 1)
    how = f"; adaptive probability, target {target:g}" if target else f"; probability {probability:g} each"
    return ", ".join(names) + (how if target or probability < 1 else "")


def _frozen_layers(recipe: Mapping[str, Any]) -> str | None:
    count = recipe.get("freeze_discriminator_layers")
    return f"the discriminator's first {f'{count} layers' if count > 1 else 'layer'}" if count else None


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} seconds"
    minutes = seconds / 60
    return f"{minutes:.1f} minutes" if minutes < 120 else f"{minutes / 60:.1f} hours"


@cache
def _template() -> Template:
    """Compile the template, once: a run writes its card at every save."""
    # No escaping: the result is Markdown, which HTML escaping would corrupt.
    environment = Environment(
        undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
    )
    return environment.from_string(_TEMPLATE)


def _render(context: Mapping[str, Any]) -> str:
    text = _template().render(context)
    return re.sub(r"\n{3,}", "\n\n", text).lstrip()
