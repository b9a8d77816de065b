import base64
import importlib.util
import json
import sys
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO

import pytest
import torch
from PIL import Image

from fagan_hf import FAGANPipeline, cli, serving
from fagan_hf.architectures.conditioning import with_labels
from fagan_hf.models import Generator
from fagan_hf.utils.devices import find_device
from tests.small import DISCRIMINATOR, GENERATOR, with_gates

NAMES = ("beard", "hair=red", "hair=black")


def load_handler(folder):
    """As the inference toolkit loads a repository's `handler.py`."""
    spec = importlib.util.spec_from_file_location("handler.EndpointHandler", folder / "handler.py")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder))
        module = importlib.util.module_from_spec(spec)
        patch.setitem(sys.modules, "handler.EndpointHandler", module)
        spec.loader.exec_module(module)
        return module.EndpointHandler(str(folder))


def post(handler, body):
    """Return the web service's response to a request: status, and the JSON's content."""
    try:
        data = json.loads(body if isinstance(body, str) else json.dumps(body))
        answer = (200, handler(data))
    except Exception as error:
        answer = (400, {"error": str(error)})
    return answer[0], json.loads(json.dumps(answer[1]))


def pictures(handler, body):
    status, answer = post(handler, body)
    assert status == 200, answer
    return [base64.b64decode(text, validate=True) for text in answer["images"]]


def png_files(images):
    files = [BytesIO() for _ in images]
    for image, file in zip(images, files, strict=True):
        image.save(file, format="PNG")
    return [file.getvalue() for file in files]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("unconditional")
    torch.manual_seed(0)
    FAGANPipeline(with_gates(Generator(GENERATOR))).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def handler(folder):
    return load_handler(folder)


@pytest.fixture(scope="module")
def pipe(folder):
    """The pipeline to compare the handler with, on the same device."""
    return FAGANPipeline.from_pretrained(folder).to(find_device(None))


@pytest.fixture(scope="module")
def conditional_folder(tmp_path_factory):
    """A model whose images depend on labels; conditional batch norm has no effect at first."""
    folder = tmp_path_factory.mktemp("conditional")
    torch.manual_seed(0)
    generator = Generator(with_labels((GENERATOR, DISCRIMINATOR), NAMES, "projection")[0]).eval()
    torch.nn.init.normal_(generator.layers[0].batch_norm.scale.weight)
    torch.nn.init.normal_(generator.layers[0].batch_norm.shift.weight)
    FAGANPipeline(generator).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def conditional(conditional_folder):
    return load_handler(conditional_folder)


def test_the_pictures_are_those_of_the_pipeline_and_of_the_command(handler, pipe, folder, tmp_path):
    status, answer = post(handler, {"inputs": "3-4, 42"})
    assert (status, answer["seeds"]) == (200, [3, 4, 42])
    drawn = pictures(handler, {"inputs": "3-4, 42"})
    assert drawn == png_files(pipe(seeds=[3, 4, 42]).images)
    cli.main(["generate", "--model", str(folder), "--seeds", "3-4, 42", "--out", str(tmp_path / "out")])
    assert drawn == [(tmp_path / f"out/seed-{seed:08d}.png").read_bytes() for seed in (3, 4, 42)]
    assert len(set(drawn)) == 3


@pytest.mark.parametrize(
    "body",
    [
        {"inputs": {"seeds": [7, 8, 7]}},
        {"inputs": {"seeds": "7-8, 7"}},
        {"inputs": None, "parameters": {"seeds": [7, 8, 7]}},
        {"inputs": "", "parameters": {"seeds": "7, 8, 7"}},
        {"inputs": " ", "parameters": {"seeds": [7, 8, 7], "num_images": None, "labels": None, "alpha": None}},
        {"inputs": "7,8,7", "parameters": None},
        {"inputs": {"seeds": [7, 8, 7]}, "parameters": {"truncation": 1, "labels": {}}},
    ],
)
def test_ways_to_write_a_request(handler, pipe, body):
    assert pictures(handler, body) == png_files(pipe(seeds=[7, 8, 7]).images)


def test_new_seeds_come_back_and_draw_the_same_pictures(handler):
    drawn = []
    for _ in range(2):
        torch.manual_seed(1)  # the global seed must not matter: torch starts with the same one on every server
        status, answer = post(handler, {"inputs": None, "parameters": {"num_images": 3}})
        assert (status, len(set(answer["seeds"])), len(answer["images"])) == (200, 3, 3)
        assert post(handler, {"inputs": {"seeds": answer["seeds"]}})[1] == answer
        drawn += answer["seeds"]
    assert len(set(drawn)) == 6
    assert len(pictures(handler, {"inputs": None})) == 1


@pytest.mark.parametrize(
    "parameters",
    [{"truncation": 0.6}, {"alpha": 0.0}, {"alpha": {"layers.2": 1.0}}, {"truncation": 0.6, "alpha": -0.5}],
)
def test_truncation_and_gates(handler, pipe, parameters):
    body = {"inputs": "1-2", "parameters": parameters}
    assert pictures(handler, body) == png_files(pipe(seeds=[1, 2], **parameters).images)
    assert pictures(handler, body) != pictures(handler, {"inputs": "1-2"})


def test_whole_numbers_are_numbers(handler):
    numbers = [{"truncation": 1, "alpha": 0}, {"truncation": 1.0, "alpha": 0.0}]
    first, second = (pictures(handler, {"inputs": "1", "parameters": each}) for each in numbers)
    assert first == second


@pytest.mark.parametrize(
    "labels",
    [
        {"beard": True, "hair": "black"},
        {"hair=red": 0.5, "hair=black": 0.5},
        [{"beard": 1, "hair": "red"}, {"beard": False}],
    ],
)
def test_labels(conditional, conditional_folder, labels):
    pipe = FAGANPipeline.from_pretrained(conditional_folder).to(find_device(None))
    drawn = pictures(conditional, {"inputs": "1-2", "parameters": {"labels": labels}})
    assert drawn == png_files(pipe(seeds=[1, 2], labels=labels).images)
    assert drawn != pictures(conditional, {"inputs": "1-2"})


def test_one_picture_as_it_is(handler, pipe):
    """The toolkit serializes it, as a PNG if the request accepts one."""
    image = handler({"inputs": "5", "parameters": {"as_image": True}})
    assert isinstance(image, Image.Image)
    assert image.tobytes() == pipe(seeds=[5]).images[0].tobytes()
    assert len(pictures(handler, {"inputs": "5-6", "parameters": {"as_image": False}})) == 2


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ([{"inputs": "1"}], r'the request is \[\{"inputs": "1"\}\]; it must be a JSON object; send it like \{'),
        ("null", "the request is null; it must be a JSON object"),
        ('"inputs"', 'the request is "inputs"; it must be a JSON object'),
        ("7", "the request is 7; it must be a JSON object"),
        ({}, 'inputs is missing; send it like {"inputs": "0-15, 42"'),
        ({"parameters": {"seeds": [1]}}, "inputs is missing"),
        ({"input": "1"}, 'unknown parameter "input"; did you mean .inputs.?'),
        ({"inputs": "1", "truncation": 0.5}, 'unknown parameter "truncation".*; truncation belongs in "parameters"'),
        ({"inputs": "1", "x" * 9999: 1}, 'unknown parameter "xxx.*…; There are: inputs, parameters'),
        (
            {"inputs": [1, 2]},
            r"inputs is \[1, 2\]; it must be a JSON object, text with seeds like \"0-15, 42\", or null",
        ),
        ({"inputs": 42}, "inputs is 42; it must be"),
        ({"inputs": True}, "inputs is true; it must be"),
        ({"inputs": "a cat"}, "seeds are 'a cat', but 'a' is not a seed or range; write them like '0-15, 42'"),
        ({"inputs": "1", "parameters": [0.5]}, r"parameters is \[0.5\]; it must be a JSON object; send"),
        (
            {"inputs": "1", "parameters": {"truncatoin": 0.5}},
            'unknown parameter "truncatoin"; did you mean .truncation.?',
        ),
        ({"inputs": {"seed": [1]}}, 'unknown parameter "seed"; did you mean .seeds.?'),
        ({"inputs": {"latents": [[0.0]]}}, 'unknown parameter "latents".*There are: alpha, as_image, labels'),
        ({"inputs": "1", "parameters": {"seeds": [1]}}, 'seeds is in "inputs" and in "parameters"; give it once'),
        ({"inputs": {"seeds": [1], "num_images": 1}}, "seeds and num_images are mutually exclusive"),
        ({"inputs": {"seeds": []}}, r"seeds is \[\]; it must be a list like \[0, 42\], or text like"),
        ({"inputs": {"seeds": ""}}, "seeds are ''; write them like"),
        ({"inputs": {"seeds": 5}}, "seeds is 5; it must be a list"),
        ({"inputs": {"seeds": {"0": 1}}}, 'seeds is {"0": 1}; it must be a list'),
        (
            {"inputs": {"seeds": [1, True]}},
            r"seeds\[1\] is true; it must be a whole number from 0 to 9223372036854775807",
        ),
        ({"inputs": {"seeds": [1.0]}}, r"seeds\[0\] is 1.0; it must be a whole number"),
        ({"inputs": {"seeds": ["1"]}}, r'seeds\[0\] is "1"; it must be a whole number'),
        ({"inputs": {"seeds": [-1]}}, r"seeds\[0\] is -1; it must be"),
        ({"inputs": {"seeds": [2**63]}}, r"seeds\[0\] is 9223372036854775808; it must be"),
        ({"inputs": {"seeds": [10**4000]}}, r"seeds\[0\] is 1000+…; it must be"),
        ('{"inputs": {"seeds": [NaN]}}', r"seeds\[0\] is NaN; it must be"),
        ({"inputs": {"seeds": [None]}}, r"seeds\[0\] is null; it must be"),
        ({"inputs": "-1"}, "seeds are '-1'; write them like"),
        ({"inputs": "5-1"}, "seeds are '5-1'; write them like"),
        ({"inputs": str(2**63)}, "seed is 9223372036854775808; it must be at most"),
        ({"inputs": "1,x" + "1" * 1900}, r'seeds are "1,x1+…; write them like .0-15, 42., each at most 9'),
        ({"inputs": "1," * 5000}, 'seeds is "1,1,.*…; it must be a list .* or text .* of at most 2,000 characters'),
        (
            {"inputs": "0-64"},
            "65 pictures of 8 x 8 pixels are too many for a request: MAX_IMAGES is 64; ask for at most 64",
        ),
        ({"inputs": {"seeds": [0] * 65}}, "65 pictures .* MAX_IMAGES is 64"),
        ({"inputs": {"num_images": 10**30}}, "10+ pictures .* MAX_IMAGES is 64"),
        ({"inputs": {"num_images": 0}}, "num_images is 0; it must be a whole number of at least 1"),
        ({"inputs": {"num_images": True}}, "num_images is true; it must be"),
        ({"inputs": {"num_images": 2.0}}, "num_images is 2.0; it must be"),
        ({"inputs": {"num_images": "2"}}, 'num_images is "2"; it must be'),
        ('{"inputs": {"num_images": Infinity}}', "num_images is Infinity; it must be"),
        ({"inputs": {"truncation": 0}}, "truncation is 0; it must be a number from 0.01 to 2$"),
        ({"inputs": {"truncation": 2.5}}, "truncation is 2.5; it must be a number from 0.01 to 2"),
        ({"inputs": {"truncation": "0.7"}}, 'truncation is "0.7"; it must be a number'),
        ({"inputs": {"truncation": True}}, "truncation is true; it must be a number"),
        ({"inputs": {"truncation": 10**400}}, "truncation is 10+.*; it must be a number"),
        ('{"inputs": {"truncation": NaN}}', "truncation is NaN; it must be a number"),
        (
            {"inputs": {"alpha": 11}},
            r"alpha is 11; it must be a number from -10 to 10 or an object like \{\"layers.2\": 0.5\}",
        ),
        ({"inputs": {"alpha": True}}, "alpha is true; it must be"),
        ({"inputs": {"alpha": [0.5]}}, r"alpha is \[0.5\]; it must be"),
        ('{"inputs": {"alpha": -Infinity}}', "alpha is -Infinity; it must be"),
        ({"inputs": {"alpha": {"layers.2": "1"}}}, 'alpha of "layers.2" is "1"; it must be a number from -10 to 10$'),
        ({"inputs": {"alpha": {"layers.9": 1}}}, "unknown attention layer 'layers.9'; did you mean"),
        (
            {"inputs": {"alpha": {"x" * 201: 1}}},
            'alpha of "xxx.*… is "xxx.*…; it must be text of at most 200 characters',
        ),
        ({"inputs": {"labels": {"beard": True}}}, 'labels are {"beard": true}, but this model is unconditional'),
        ({"inputs": {"labels": [{"beard": "x" * 199}]}}, "labels are .*but this model is unconditional"),
        ({"inputs": {f"k{number}": 1 for number in range(300_000)}}, "the request has more than 12,000 values"),
        ({"inputs": {"labels": [{}] * 1_000_000}}, "the request has more than 12,000 values"),
        ({"inputs": {"labels": [{}] * 65}}, "labels is .*; it must be a JSON object of names and values, or a list"),
        ({"inputs": {"as_image": "yes"}}, 'as_image is "yes"; it must be true or false'),
        ({"inputs": {"as_image": True, "num_images": 2}}, "as_image is true for 2 pictures; ask for one"),
    ],
)
def test_bad_requests(handler, folder, body, message):
    check_refused(handler, folder, body, message)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ("beard", 'labels is "beard"; it must be a JSON object of names and values, like'),
        (True, "labels is true; it must be a JSON object"),
        (["beard"], r'labels\[0\] is "beard"; it must be a JSON object'),
        ([{"beard": 1}], "1 label objects for 2 pictures; give one for all"),
        ([{}] * 3, "3 label objects for 2 pictures"),
        ({"moustache": 1}, r"unknown label 'moustache'; .*There are: beard, hair; hair is one of red, black"),
        ({"hair": "rde"}, "label hair is 'rde'; did you mean 'red'?"),
        ({"hair": "x" * 201}, 'labels of "hair" is "xxx.*…; it must be true, false'),
        ({"x" * 201: 1}, 'labels of "xxx.*… is "xxx.*…; it must be text of at most 200'),
        (
            {"beard": None},
            'labels of "beard" is null; it must be true, false, a number from 0 to 1, or the name of a class',
        ),
        ({"beard": [1]}, r'labels of "beard" is \[1\]; it must be true'),
        ({"hair": {"red": 0.5}}, 'labels of "hair" is {"red": 0.5}; it must be'),
        ({"beard": 10**400}, 'labels of "beard" is 10+…; it must be'),
        ({"beard": 1.5}, "label beard is 1.5; it must be"),
        ({"beard": float("nan")}, 'labels of "beard" is NaN; it must be'),
        ({"bad\nname": None}, r'labels of "bad\\nname" is null'),
    ],
)
def test_bad_labels(conditional, conditional_folder, labels, message):
    body = {"inputs": "1-2", "parameters": {"labels": labels}}
    check_refused(conditional, conditional_folder, body, message)


def check_refused(handler, folder, body, message):
    data = json.loads(body if isinstance(body, str) else json.dumps(body))
    with pytest.raises(ValueError, match=message) as caught:
        handler(data)
    assert len(str(caught.value)) < 400
    assert str(folder.parent) not in str(caught.value)
    assert post(handler, body)[0] == 400
    assert len(pictures(handler, {"inputs": "1"})) == 1  # it still works


def test_media_instead_of_json(handler):
    """As the toolkit decodes a body of type image/png."""
    with pytest.raises(ValueError, match="inputs is of type Image; it must be a JSON object"):
        handler({"inputs": Image.new("RGB", (4, 4))})


def test_pixels_are_limited_all_together(handler, monkeypatch):
    monkeypatch.setattr(serving, "MAX_PIXELS", 2 * 8 * 8 + 1)
    assert len(pictures(handler, {"inputs": "1-2"})) == 2
    with pytest.raises(
        ValueError, match=r"3 pictures of 8 x 8 pixels .* MAX_PIXELS is 129; ask for at most 2 at a time"
    ):
        handler({"inputs": "1-3"})
    monkeypatch.setattr(serving, "MAX_PIXELS", 1)
    assert len(pictures(handler, {"inputs": None})) == 1


def test_batches_are_small(handler):
    sizes = []
    hook = handler._pipe.generator.register_forward_pre_hook(lambda _, inputs: sizes.append(len(inputs[0])))
    with hook:
        assert len(pictures(handler, {"inputs": "0-32"})) == 33
    assert sizes == [16, 16, 1]


def test_a_request_stays_as_it_is(handler):
    body = {"inputs": {"seeds": [1]}, "parameters": {"truncation": 0.6, "alpha": {"layers.2": 1.0}}}
    before = json.dumps(body)
    handler(body)
    assert json.dumps(body) == before


def test_threads_do_not_disturb_each_other(handler):
    """Each with different truncations and gates, and the handler measures batch statistics meanwhile."""
    bodies = [
        {"inputs": "1-3", "parameters": {"truncation": truncation, "alpha": alpha}}
        for truncation in (0.5, 1.0)
        for alpha in (None, 0.0, {"layers.2": 1.0})
    ]
    expected = [handler(body) for body in bodies]
    with ThreadPoolExecutor(6) as pool:
        assert list(pool.map(handler, bodies * 3)) == expected * 3
    assert len({answer["images"][0] for answer in expected}) == len(bodies)


def test_one_request_draws_at_a_time(handler, monkeypatch):
    """So that a server needs memory for only one."""
    running, most = [], []
    draw = handler._pipe.generator.forward

    def watched(*inputs):
        running.append(1)
        most.append(len(running))
        try:
            return draw(*inputs)
        finally:
            running.pop()

    monkeypatch.setattr(handler._pipe.generator, "forward", watched)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(handler, [{"inputs": "0-31"}] * 8))
    assert max(most) == 1


def test_nothing_but_a_folder_is_loaded(tmp_path):
    with pytest.raises(FileNotFoundError, match="'user/name' is not a folder; give the folder of a downloaded"):
        serving.EndpointHandler("user/name")
    with pytest.raises(FileNotFoundError):
        serving.EndpointHandler(tmp_path)


def test_code_for_custom_layers_is_imported_first(folder, tmp_path, monkeypatch):
    path = tmp_path / "layers.py"
    path.write_text("raise RuntimeError('on purpose')\n")
    for name, message in (
        (str(path), r"FAGAN_IMPORT: .*layers.py can't be run: RuntimeError: on purpose"),
        ("json, no_such_module", r"FAGAN_IMPORT: 'no_such_module' is not a .py file and can't be imported"),
    ):
        monkeypatch.setenv("FAGAN_IMPORT", name)
        with pytest.raises(ValueError, match=message):
            serving.EndpointHandler(folder)
    path.write_text("import sys\nsys.modules['test_serving_imported'] = sys\n")
    monkeypatch.setitem(sys.modules, "test_serving_imported", None)
    monkeypatch.setenv("FAGAN_IMPORT", str(path))
    serving.EndpointHandler(folder)
    assert sys.modules["test_serving_imported"] is sys
