"""The page's API, used by gradio_client over HTTP."""

import json
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import numpy as np
import pytest
from fagan_space.limits import WAITING
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from PIL import Image

from benchmarks.serving import ROOT, serving
from fagan_hf.cli import main
from fagan_hf.hub.repository import DIRECTIONS
from fagan_hf.latent_space.directions import Directions
from fagan_hf.latent_space.walks import walk
from fagan_hf.models import Discriminator
from fagan_hf.sampling.images import latents_from_seeds


@pytest.fixture(scope="module")
def uploads(tmp_path_factory):
    return tmp_path_factory.mktemp("uploads")


@pytest.fixture(scope="module")
def client(folder, uploads, tmp_path_factory):
    with serving(folder, uploads) as page:
        client = Client(page.url, verbose=False, download_files=str(tmp_path_factory.mktemp("downloads")))
        try:
            yield client
        finally:
            client.close()


@pytest.fixture
def picture(tmp_path):
    path = tmp_path / "picture.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (20, 30, 3), np.uint8)).save(path)
    return path


def refused(client, endpoint, **arguments):
    with pytest.raises(AppError) as error:
        client.predict(api_name=endpoint, **arguments)
    return str(error.value)


def test_every_tab_is_an_endpoint(client):
    endpoints = client.view_api(return_format="dict", print_info=False)["named_endpoints"]
    assert [*endpoints] == [
        f"/{name}" for name in ("generate", "walk", "look_inside", "judge", "dial", "project", "compare", "about")
    ]
    told = re.findall(r"^\| `(/\w+)` \| (.*?) \|", (ROOT / "space/README.md").read_text(), re.MULTILINE)
    assert [name for name, _ in told] == [*endpoints]
    for name, arguments in told:
        wanted = [each["parameter_name"] for each in endpoints[name]["parameters"]]
        assert [word for word in re.findall(r"`(\w+)`", arguments) if word in wanted] == wanted, name


@pytest.mark.parametrize("alpha", [None, 0.0])
def test_pictures_are_those_of_the_command_line_to_the_byte(client, folder, tmp_path, alpha):
    paths = client.predict(seeds="3-5, 9", truncation=0.7, alpha=alpha, api_name="/generate")
    out = tmp_path / "pictures"
    flags = ["generate", "--model", str(folder), "--seeds", "3-5,9", "--truncation", "0.7", "--out", str(out)]
    assert main([*flags, *([] if alpha is None else ["--alpha", str(alpha)])]) == 0
    wanted = sorted(out.iterdir())
    assert [Path(path).name for path in paths] == [path.name for path in wanted]
    assert [Path(path).read_bytes() for path in paths] == [path.read_bytes() for path in wanted]


@pytest.mark.parametrize(
    ("seeds", "words"),
    [
        ("abc", "write them like '0-15, 42'"),
        ("1-", "write them like '0-15, 42'"),
        ("5-1", "write them like '0-15, 42'"),
        ("0-999999", "1,000,000 seeds are too many; at most 64 are allowed"),
        ("9" * 600, "600 characters long"),
    ],
)
def test_seeds_that_are_none_are_told_in_words(client, seeds, words):
    assert words in refused(client, "/generate", seeds=seeds)


def test_a_film_has_the_frames_that_were_asked_for(client):
    path = client.predict(seeds="0-2", frames_per_step=5, seconds=3, api_name="/walk")
    with Image.open(path) as film:
        assert film.n_frames == len(walk(latents_from_seeds([0, 1, 2], 8), 5))
    assert "2 different ones" in refused(client, "/walk", seeds="4")
    assert "more than the limit of 240" in refused(client, "/walk", seeds="0-9", frames_per_step=60)
    assert 'suffix is ".txt"; it must be .gif or .mp4' in refused(client, "/walk", seeds="0-1", suffix=".txt")


def test_every_layer_of_the_generator_can_be_looked_into(client):
    here, there = (client.predict(seed=1, row=row, column=2, api_name="/look_inside") for row in (0, 7))
    assert [look["name"] for look in here] == ["layers.0", "layers.1", "layers.2"]
    assert all(look["alpha"] == pytest.approx(0.3) for look in here)
    heats = [[Path(look["heat"]).read_bytes() for look in looks] for looks in (here, there)]
    assert all(one != other for one, other in zip(*heats, strict=True))
    plain = [[Path(look["convolution"]).read_bytes() for look in looks] for looks in (here, there)]
    assert plain[0] == plain[1]
    assert "position is (8, 2)" in refused(client, "/look_inside", seed=1, row=8, column=2)


def test_an_uploaded_picture_is_judged_and_not_kept(client, model, folder, picture, uploads):
    before = {path for path in uploads.rglob("*.png") if path.name == "picture.png"}
    found = client.predict(picture=handle_file(picture), row=1, column=2, api_name="/judge")
    assert [look["name"] for look in found["layers"]] == ["layers.0"]
    with Image.open(picture) as image:
        square = image.crop((5, 0, 25, 20)).resize((8, 8), Image.Resampling.LANCZOS)
    pixels = np.asarray(square).transpose(2, 0, 1)[None]
    import torch

    logit = Discriminator.from_pretrained(folder)(torch.from_numpy(pixels / 127.5 - 1).float())
    assert found["logit"] == pytest.approx(logit.item(), abs=1e-4)
    assert {path for path in uploads.rglob("*.png") if path.name == "picture.png"} == before == set()


def test_visitors_with_the_same_picture_do_not_lose_it_to_each_other(client, picture):
    jobs = [client.submit(picture=handle_file(picture), api_name="/judge") for _ in range(12)]
    assert len({job.result()["logit"] for job in jobs}) == 1


def saved(path, size=(20, 30), mode="RGB", **options):
    Image.new(mode, size).save(path, **options)
    return path


def test_uploads_of_all_kinds(client, tmp_path):
    for name, mode in (("cmyk.jpg", "CMYK"), ("gray.png", "I;16"), ("see-through.png", "RGBA")):
        path = saved(tmp_path / name, mode=mode)
        assert "logit" in client.predict(picture=handle_file(path), api_name="/judge")
    frames = [Image.new("RGB", (20, 20), color) for color in ("red", "blue")]
    frames[0].save(tmp_path / "animated.gif", save_all=True, append_images=frames[1:])
    assert "logit" in client.predict(picture=handle_file(tmp_path / "animated.gif"), api_name="/judge")


def test_uploads_that_are_refused(client, tmp_path, uploads):
    (tmp_path / "words.png").write_text("no picture")
    assert "can't be read as an image" in refused(client, "/judge", picture=handle_file(tmp_path / "words.png"))
    saved(tmp_path / "huge.png", (20_000, 20_000), "1")
    assert "too many pixels" in refused(client, "/judge", picture=handle_file(tmp_path / "huge.png"))
    saved(tmp_path / "large.png", (8_000, 8_000), "1")
    assert "8,000 x 8,000 pixels" in refused(client, "/judge", picture=handle_file(tmp_path / "large.png"))
    assert not [path for path in uploads.rglob("*.png") if path.stem in ("words", "huge", "large")]


def posted(client, endpoint, *data):
    """Call an endpoint by plain HTTP, without uploading files; return the final response."""
    address = f"{client.src.rstrip('/')}/gradio_api/call/{endpoint}"
    request = Request(address, json.dumps({"data": data}).encode(), {"Content-Type": "application/json"})
    with urlopen(request) as answer:
        event = json.load(answer)["event_id"]
    with urlopen(f"{address}/{event}") as stream:
        return stream.read().decode()


def test_no_other_file_of_the_machine_is_read_or_deleted(client, picture, uploads):
    secret = uploads.parent / "secret.png"
    secret.write_bytes(picture.read_bytes())
    for path in (str(secret), "/etc/hostname", str(uploads / ".." / "secret.png"), str(uploads)):
        for file in ({"path": path, "meta": {"_type": "gradio.FileData"}}, {"path": path}, path):
            said = posted(client, "judge", file, 0, 0, None)
            assert "event: error" in said
            assert "logit" not in said
    assert secret.is_file()
    assert Path("/etc/hostname").is_file()


def test_a_strip_of_turned_gates(client):
    both, one = (client.predict(seeds="0, 3", layer=layer, api_name="/dial") for layer in (None, "layers.1"))
    with Image.open(both) as first, Image.open(one) as second:
        assert first.size == second.size
        assert first.tobytes() != second.tobytes()
    assert "unknown attention layer 'layers.9'" in refused(client, "/dial", layer="layers.9")


def test_a_picture_is_projected_and_moved(client, folder, picture):
    plain = client.predict(picture=handle_file(picture), steps=5, api_name="/project")
    moved = client.predict(picture=handle_file(picture), steps=5, strengths={"hair=red": 3}, api_name="/project")
    assert plain["latent"] == moved["latent"]
    assert len(plain["latent"]) == 8
    assert Path(plain["edited"]).read_bytes() != Path(moved["edited"]).read_bytes()
    assert "unknown direction 'teeth'" in refused(
        client, "/project", picture=handle_file(picture), steps=1, strengths={"teeth": 1}
    )
    assert "a whole number from 1 to 300" in refused(client, "/project", picture=handle_file(picture), steps=1000)
    assert Directions.load(folder / DIRECTIONS).names == ("beard", "hair=red")


def test_models_are_compared_by_their_names_on_the_hub(client, folder, model):
    left, right = client.predict(left=model.shown, right="", seeds="0-1", api_name="/compare")
    assert Path(left).read_bytes() == Path(right).read_bytes()
    assert "is not a model on the Hub" in refused(client, "/compare", left=model.shown, right="/etc")
    assert "is not a model on the Hub" in refused(client, "/compare", left="../x/y", right=model.shown)


def test_what_the_model_is_can_be_asked(client, model):
    about = client.predict(api_name="/about")
    assert about["model"] == model.shown
    assert about["image_size"] == 8
    assert about["layers"] == ["layers.0", "layers.1", "layers.2"]
    assert about["directions"] == ["hair=red", "beard"]


def test_of_two_hundred_requests_at_once_some_are_told_to_come_back_and_all_are_answered(client):
    def ask(seed):
        try:
            return posted(client, "generate", str(seed), 1.0, None, None)
        except HTTPError as error:
            return f"{error.code} {error.read().decode()}"

    with ThreadPoolExecutor(200) as pool:
        said = list(pool.map(ask, range(200)))
    drawn = [each for each in said if "event: complete" in each]
    refused = [each for each in said if each not in drawn]
    assert all("queue is full" in each.lower() for each in refused), refused[:3]
    assert len(drawn) >= WAITING
    assert refused
    assert "event: complete" in ask(7)  # the page still works
