import errno
import hashlib
import io
import os
import shutil
import subprocess
import sys
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from PIL import Image

import fagan_hf
from fagan_hf.data import avatars, image_source
from fagan_hf.data import prepare as data
from fagan_hf.data.image_source import ImageSource
from fagan_hf.data.prepare import prepare_images
from fagan_hf.data.sources import list_images

ROOT = Path(fagan_hf.__file__).parent.parent


@pytest.fixture
def cache(tmp_path):
    return tmp_path / "cache"


@pytest.fixture
def prepare(cache):
    """Prepare without a progress bar, in this test's cache."""
    return lambda dataset, resolution=8, **options: prepare_images(
        ImageSource(str(dataset), resolution, **options), cache_dir=cache, progress=False, num_processes=1
    )


@pytest.fixture
def no_work(monkeypatch):
    """Return a function that makes reading or drawing any further image fail."""
    return lambda: monkeypatch.setattr(data, "_prepare", lambda *_: pytest.fail("an image was prepared again"))


def picture(value, size=(16, 16)):
    return Image.new("RGB", size, (value, value, value))


def folder_of(path, values, size=(16, 16)):
    for name, value in values.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        picture(value, size).save(path / name)
    return path


def entries(cache):
    """List the cache entries, without locks and the memory of digests."""
    if not cache.exists():
        return []
    return sorted(entry.name for entry in cache.iterdir() if entry.suffix not in (".lock", ".sqlite"))


# Sources


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"resolution": 0}, "resolution must be a positive number of pixels, got 0"),
        ({"resolution": 8.0}, "resolution must be a positive number"),
        ({"resolution": True}, "resolution must be a positive number"),
        ({"resolution": 8, "crop": -1}, "crop must be a positive number of pixels, got -1"),
        ({"resolution": 8, "crop": 4}, "a crop of 4 is smaller than the resolution of 8"),
        ({"resolution": 8, "label_columns": "beard"}, "label_columns must be a tuple of names, got the string 'beard'"),
        ({"resolution": 8, "dataset": " "}, "dataset is empty"),
    ],
)
def test_source_refuses_nonsense(options, message):
    with pytest.raises(ValueError, match=message):
        ImageSource(**{"dataset": "avatars", **options})


def test_source_takes_a_list_of_columns_and_a_crop_that_is_enlarged():
    source = ImageSource("a", 8, label_columns=["x"], crop=4, upscale=True)
    assert source.label_columns == ("x",)
    assert hash(source)


@pytest.mark.parametrize("dataset", ["./missing", "../missing", "~/missing", "/no/such", "a/b/missing", "a b"])
def test_a_missing_folder(prepare, dataset):
    with pytest.raises(FileNotFoundError, match="The folder /"):
        prepare(dataset)


def test_a_folder_in_the_home(prepare, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    folder_of(tmp_path / "set", {"a.png": 10})
    assert len(prepare("~/set")) == 1


def test_a_file_instead_of_a_folder(prepare, tmp_path):
    picture(0).save(tmp_path / "a.png")
    with pytest.raises(ValueError, match=r"a\.png is a file; give the folder"):
        prepare(tmp_path / "a.png")


def test_num_processes():
    with pytest.raises(ValueError, match="num_processes must be at least 1, got 0"):
        prepare_images(ImageSource("avatars", 8), num_processes=0)


# Folders


def test_a_folder_is_read_in_order_and_recursively(prepare, tmp_path):
    folder = folder_of(tmp_path / "set", {"b.png": 20, "a/z.PNG": 10, "c/d/e.webp": 40, ".x.png": 1, ".h/a.png": 2})
    (folder / "notes.txt").write_text("not listed")
    images = prepare(folder)
    assert images.array.shape == (3, 3, 8, 8)
    assert images.array.dtype == np.uint8
    assert images.array[:, 0, 4, 4].tolist() == pytest.approx([10, 20, 40], abs=2)
    assert images.labels.shape == (3, 0)
    assert images.description["dataset"] == "set"
    assert images.description["count"] == 3
    assert "largest center square" in images.description["preprocessing"]


def test_the_second_call_reads_no_image(prepare, tmp_path, no_work, monkeypatch):
    folder = folder_of(tmp_path / "set", {"a.png": 10})
    first = prepare(folder)
    no_work()
    monkeypatch.setattr(data, "only_one_process", lambda *_, **__: pytest.fail("a read-only cache has no locks"))
    second = prepare(folder)
    assert second.folder == first.folder
    assert second.content == first.content
    assert np.array_equal(first.array, second.array)
    assert isinstance(second.array, np.memmap)


def test_whatever_changes_the_pixels_names_another_cache(prepare, tmp_path, monkeypatch):
    folder = folder_of(tmp_path / "set", {"c/a.png": 10, "d/b.png": 20})
    seen = [prepare(folder).folder]

    def changed(**options):
        seen.append(prepare(folder, **options).folder)

    changed(resolution=4)
    changed(crop=12)
    changed(fit="pad")
    changed(background="black")
    changed(channels=1)
    changed(upscale=True)
    picture(21, (17, 16)).save(folder / "d" / "b.png")
    changed()
    (folder / "c" / "a.png").rename(folder / "e.png")  # now the second one
    changed()
    picture(30).save(folder / "f.png")
    changed()
    monkeypatch.setattr(image_source, "PREPROCESSING_VERSION", 0)
    changed()
    monkeypatch.setattr(image_source.PIL, "__version__", "0")
    changed()
    assert len(set(seen)) == len(seen)


def test_whatever_does_not_change_the_pixels_decodes_nothing(prepare, tmp_path, no_work, cache):
    folder = folder_of(tmp_path / "set", {"c/a.png": 10, "d/b.png": 20})
    first = prepare(folder)
    no_work()
    assert prepare(folder, label_columns=("class",)).label_names == ("class=c", "class=d")
    os.utime(folder / "c" / "a.png", (1e9, 1e9))
    assert prepare(folder).folder == first.folder
    shutil.move(folder, tmp_path / "elsewhere" / "another name")
    moved = prepare(tmp_path / "elsewhere" / "another name")
    assert (moved.folder, moved.description["dataset"]) == (first.folder, "another name")
    assert len(entries(cache)) == 1
    (cache / "files.sqlite").write_bytes(b"damaged")
    assert prepare(tmp_path / "elsewhere" / "another name").folder == first.folder
    shutil.move(tmp_path / "elsewhere" / "another name", tmp_path / "back")
    shutil.make_archive(str(tmp_path / "packed"), "zip", tmp_path / "back")
    assert prepare(tmp_path / "packed.zip").folder == first.folder


def test_only_new_images_are_decoded(prepare, tmp_path, monkeypatch):
    folder = folder_of(tmp_path / "set", {"b.png": 10, "c.png": 20})
    prepare(folder)
    folder_of(folder, {"a.png": 5, "d.png": 30})
    decode, calls = data._prepare, []
    monkeypatch.setattr(data, "_prepare", lambda source, content: calls.append(content.name) or decode(source, content))
    assert prepare(folder).array[:, 0, 4, 4].tolist() == [5, 10, 20, 30]
    assert calls == ["a.png", "d.png"]


def test_what_was_decoded_before_an_interruption_is_not_decoded_again(prepare, tmp_path, monkeypatch, cache):
    folder = folder_of(tmp_path / "set", {f"{i:03}.png": i for i in range(150)})
    decode, calls = data._prepare, []

    def interrupted(source, content):
        calls.append(content.name)
        if len(calls) == 100:
            raise KeyboardInterrupt
        return decode(source, content)

    monkeypatch.setattr(data, "_prepare", interrupted)
    with pytest.raises(KeyboardInterrupt):
        prepare(folder)
    calls.append("one more")
    assert prepare(folder).array[:, 0, 4, 4].tolist() == list(range(150))
    assert calls[101:] == [f"{i:03}.png" for i in range(64, 150)], "a chunk of 64 was written"
    assert len(entries(cache)) == 1


def test_folders_are_classes(prepare, tmp_path):
    folder = folder_of(tmp_path / "set", {"cat/1.png": 1, "dog/1.png": 2, "cat/2.png": 3})
    images = prepare(folder, label_columns=("class",))
    assert images.label_names == ("class=cat", "class=dog")
    assert images.labels.tolist() == [[1, 0], [1, 0], [0, 1]]
    assert images.batch([2])[1].tolist() == [[0, 1]]


def test_an_image_without_a_class(prepare, tmp_path):
    folder = folder_of(tmp_path / "set", {"cat/1.png": 1, "stray.png": 2})
    with pytest.raises(ValueError, match=r"(?s)stray\.png has no class.*Move it into a subfolder"):
        prepare(folder, label_columns=("class",))


def test_unknown_label_column_of_a_folder(prepare, tmp_path):
    with pytest.raises(ValueError, match=r"no label column 'klass': did you mean 'class'\? There are: class"):
        prepare(folder_of(tmp_path / "set", {"cat/1.png": 1}), label_columns=("klass",))
    with pytest.raises(ValueError, match=r"no label column 'class': There are: none"):
        prepare(folder_of(tmp_path / "flat", {"1.png": 1}), label_columns=("class",))


def test_an_empty_folder(prepare, tmp_path, cache):
    (tmp_path / "set").mkdir()
    with pytest.raises(ValueError, match="set contains no images: it is empty"):
        prepare(tmp_path / "set")
    (tmp_path / "set" / "a.txt").touch()
    with pytest.raises(ValueError, match="set contains no images: only tables"):
        prepare(tmp_path / "set")
    (tmp_path / "set" / "b.svg").touch()
    with pytest.raises(ValueError, match=r"set contains no images: 1 file not read: 1 \.svg \(a drawing: save it"):
        prepare(tmp_path / "set")
    assert entries(cache) == []


def test_a_folder_without_splits_or_revisions(prepare, tmp_path):
    folder = folder_of(tmp_path / "set", {"cats/1.png": 1})
    with pytest.raises(ValueError, match=r"set: it has no splits, got split 'test'; leave split out"):
        prepare(folder, split="test")
    with pytest.raises(ValueError, match="revision is 'main', but it applies to datasets on the Hub only"):
        prepare(folder, revision="main")
    with pytest.raises(ValueError, match="config_name is 'x', but it applies to datasets on the Hub only"):
        prepare(folder, config_name="x")


def test_bad_files_are_named(prepare, tmp_path, cache):
    folder = folder_of(tmp_path / "set", {"good.png": 1, "tiny.png": 1, "half.jpg": 1})
    picture(1, (5, 7)).save(folder / "tiny.png")
    (folder / "text.jpg").write_text("not a picture")
    Image.effect_noise((64, 64), 50).save(folder / "half.jpg")
    (folder / "half.jpg").write_bytes((folder / "half.jpg").read_bytes()[:1200])
    with pytest.raises(ValueError, match="3 of 4 images can't be used") as caught:
        prepare(folder)
    message = str(caught.value)
    assert f"{folder / 'half.jpg'} can't be decoded (OSError: image file is truncated" in message
    assert f"{folder / 'text.jpg'} is not an image" in message
    assert f"{folder / 'tiny.png'} has 5x7 pixels, fewer than the target of 8x8" in message
    assert "--upscale true" in message
    assert "good.png" not in message
    assert "--skip-broken" in message
    assert caught.value.__cause__ is not None


def test_a_call_killed_before_it_named_its_cache_leaves_no_wrong_one(prepare, tmp_path, monkeypatch):
    folder = tmp_path / "pictures"
    folder.mkdir()
    Image.new("L", (8, 8), 10).save(folder / "a.png")
    (folder / "b.png").write_bytes(b"broken")
    with monkeypatch.context() as patch:
        patch.setattr(data, "remember_facts", interrupt)
        with pytest.raises(KeyboardInterrupt):
            prepare(folder, skip_broken=True)
    assert len(prepare(folder, skip_broken=True)) == 1
    with pytest.raises(ValueError, match="1 of 2 images can't be used"):
        prepare(folder)


def interrupt(*_):
    raise KeyboardInterrupt


def test_broken_images_are_left_out_on_request(prepare, tmp_path, no_work, capfd, cache, monkeypatch):
    folder = folder_of(tmp_path / "set", {"a.png": 10, "b.png": 20, "c/d.png": 30})
    (folder / "text.jpg").write_text("not a picture")
    (folder / "b.png").write_bytes((folder / "b.png").read_bytes()[:50])
    with pytest.raises(ValueError, match="2 of 4 images can't be used"):
        prepare(folder)
    no_work()  # what was decoded before the error is not decoded again, nor is what can't be
    with pytest.raises(ValueError, match=r"(?s)2 of 4 images.*b\.png can't be decoded.*text\.jpg is not an image"):
        prepare(folder)
    images = prepare(folder, skip_broken=True)
    assert images.array[:, 0, 4, 4].tolist() == [10, 30]
    assert images.description["count"] == 2
    assert images.description["left_out"] == {"can't be decoded": 1, "is not an image": 1}
    labeled = prepare(folder, skip_broken=True, label_columns=("class",))
    assert (len(labeled), labeled.description["left_out"]) == (1, {"has no class": 3})
    capfd.readouterr()
    monkeypatch.setattr(data, "_told", set())
    prepare_images(ImageSource(str(folder), 8, skip_broken=True), cache_dir=cache, num_processes=1)
    assert capfd.readouterr().err == "4 images; 2 of them can't be used\n"


def test_a_file_that_can_not_be_read_now_is_tried_again(prepare, tmp_path, monkeypatch):
    folder = folder_of(tmp_path / "set", {"a.png": 10, "b.png": 20})
    read, opened = Path.read_bytes, Image.open

    def refuse(path):
        if path.name == "b.png":
            raise PermissionError(13, "Permission denied")
        return read(path)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "read_bytes", refuse)
        patch.setattr(Image, "open", lambda file, **_: opened(io.BytesIO(refuse(Path(file)))))
        with pytest.raises(ValueError, match=r"b\.png can't be decoded \(PermissionError"):
            prepare(folder)
    assert len(prepare(folder)) == 2


def test_nothing_can_be_used(prepare, tmp_path):
    folder = tmp_path / "set"
    folder.mkdir()
    for name in ("a.png", "b.jpg"):
        (folder / name).write_text("text")
    for _ in range(2):
        with pytest.raises(ValueError, match="2 of 2 images can't be used") as caught:
            prepare(folder, skip_broken=True)
        assert "--skip-broken" not in str(caught.value)


def test_ten_bad_files_are_named_and_all_counted(prepare, tmp_path):
    folder = folder_of(tmp_path / "set", {f"{i:03}.png": i for i in range(75)}, size=(4, 4))
    with pytest.raises(ValueError, match="75 of 75 images can't be used") as caught:
        prepare(folder)
    message = str(caught.value)
    assert "009.png" in message
    assert "010.png" not in message
    assert "and 65 more" in message
    assert message.count("--upscale") == 1


def test_a_decompression_bomb_is_named(prepare, tmp_path, monkeypatch):
    folder = folder_of(tmp_path / "set", {"bomb.png": 1})
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(ValueError, match=r"bomb\.png is too large to be decoded safely"):
        prepare(folder)


def test_small_images_are_enlarged_on_demand(prepare, tmp_path):
    folder = folder_of(tmp_path / "set", {"tiny.png": 9}, size=(4, 4))
    assert prepare(folder, upscale=True).array[0].tolist() == np.full((3, 8, 8), 9).tolist()


def test_crop_is_a_setting(prepare, tmp_path):
    pixels = np.zeros((218, 178, 3), np.uint8)
    pixels[20:198] = 200
    pixels[59:159, 39:139] = 255
    (tmp_path / "set").mkdir()
    Image.fromarray(pixels).save(tmp_path / "set" / "face.png")
    whole = prepare(tmp_path / "set", crop=178)
    part = prepare(tmp_path / "set", crop=100)
    assert whole.array[0, 0, 0].max() <= 201
    assert whole.array[0, 0, 4, 4] == 255
    assert (part.array == 255).all()
    assert "center 100x100" in part.description["preprocessing"]
    with pytest.raises(ValueError, match=r"face\.png has 178x218 pixels, too few to crop 200x200"):
        prepare(tmp_path / "set", crop=200)


# The cache


def test_a_truncated_cache_is_built_again(prepare, tmp_path, cache):
    folder = folder_of(tmp_path / "set", {"a.png": 10, "b.png": 20})
    whole = np.array(prepare(folder).array)
    path = cache / entries(cache)[0] / "pixels.bin"
    os.truncate(path, path.stat().st_size - 100)
    assert np.array_equal(prepare(folder).array, whole)


def test_a_full_disk_leaves_nothing(prepare, tmp_path, cache, monkeypatch):
    folder = folder_of(tmp_path / "set", {f"{i:03}.png": 10 for i in range(130)})
    whole, calls = data._prepare, []

    def fill_the_disk(source, content):
        calls.append(content)
        if len(calls) > 70:
            raise OSError(errno.ENOSPC, "No space left on device")
        return whole(source, content)

    monkeypatch.setattr(data, "_prepare", fill_the_disk)
    with pytest.raises(OSError, match=r"they need 1,076,656 bytes.*FAGAN_CACHE"):
        prepare(folder)
    assert entries(cache) == []
    monkeypatch.setattr(data, "_prepare", whole)
    assert len(prepare(folder)) == 130


def test_caches_lie_where_fagan_cache_says(tmp_path, monkeypatch):
    monkeypatch.setenv("FAGAN_CACHE", str(tmp_path / "elsewhere"))
    folder = folder_of(tmp_path / "my set", {"a.png": 10})
    images = prepare_images(ImageSource(str(folder), 8), progress=False)
    assert images.folder == tmp_path / "elsewhere" / images.folder.name
    assert images.folder.name.startswith("my-set-")


# Many processes


SCRIPT = """
import sys
from pathlib import Path
from fagan_hf.data.image_source import ImageSource
from fagan_hf.data.prepare import prepare_images
from fagan_hf.data.sources import list_images

print("the script runs")
images = prepare_images(ImageSource(sys.argv[1], 8), cache_dir=Path(sys.argv[2]), num_processes=2)
assert not {"torch", "datasets"} & set(sys.modules)
print(len(images), int(images.array[299, 0, 0, 0]))
"""


def start(script, *arguments):
    return subprocess.Popen(
        [sys.executable, str(script), *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_two_scripts_without_a_main_guard_prepare_at_once(tmp_path, cache):
    """Each starts processes, which don't rerun the script, need neither torch nor datasets, and keep the order."""
    folder = folder_of(tmp_path / "set", {f"{i:03}.png": i % 256 for i in range(300)}, size=(8, 8))
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    both = [start(script, folder, cache) for _ in range(2)]
    results = [(*process.communicate(timeout=240), process.returncode) for process in both]
    for out, err, code in results:
        assert code == 0, err
        assert out == f"the script runs\n300 {299 % 256}\n"
    assert sum("Reading images: 100%" in err for _, err, _ in results) == 1, "one of them reads, the other waits"
    assert len(entries(cache)) == 1


def test_processes_and_one_process_agree_and_name_the_same_errors(prepare, tmp_path, cache):
    folder = folder_of(tmp_path / "set", {f"{i:03}.png": i % 256 for i in range(300)})
    alone = np.array(prepare(folder).array)
    shutil.rmtree(cache)
    source = ImageSource(str(folder), 8)
    assert np.array_equal(prepare_images(source, cache_dir=cache, progress=False, num_processes=2).array, alone)
    for name in ("005.png", "130.png"):
        (folder / name).write_text("text")
    with pytest.raises(ValueError, match=r"005\.png is not an image\n.*130\.png is not an image"):
        prepare_images(source, cache_dir=cache, progress=False, num_processes=2)


def test_progress(tmp_path, cache, capfd, monkeypatch):
    monkeypatch.setattr(data, "_told", set())
    folder = folder_of(tmp_path / "set", {"a.png": 10})
    prepare_images(ImageSource(str(folder), 8), cache_dir=cache)
    said = capfd.readouterr().err
    assert "Reading images: 100%" in said
    assert said.endswith("1 image\n")
    monkeypatch.setattr(data, "_told", set())  # as in another process: one line, also when cached
    prepare_images(ImageSource(str(folder), 8), cache_dir=cache)
    assert capfd.readouterr().err == "1 image\n"
    prepare_images(ImageSource(str(folder), 4), cache_dir=cache, progress=False)
    assert capfd.readouterr().err == ""


# Avatars


@pytest.fixture
def few_avatars(monkeypatch):
    monkeypatch.setattr(avatars, "TRAIN_SEEDS", range(6))
    monkeypatch.setattr(avatars, "TEST_SEEDS", range(6, 9))


@pytest.mark.usefixtures("few_avatars")
def test_avatars(prepare, no_work, capfd, cache):
    images = prepare("avatars", 32, label_columns=("beard", "mouth"))
    assert images.array.shape == (6, 3, 32, 32)
    assert images.label_names[0] == "beard"
    assert images.label_names[1:] == tuple(f"mouth={mouth}" for mouth in avatars.label_values()["mouth"])
    shown = [avatars.avatar_labels(seed) for seed in range(6)]
    assert images.labels[:, 0].tolist() == [float(labels["beard"]) for labels in shown]
    assert [images.label_names[1 + row.argmax()] for row in images.labels[:, 1:]] == [
        f"mouth={labels['mouth']}" for labels in shown
    ]
    assert "Johan Melin" in images.description["attribution"]
    assert images.description["license"] == "CC BY 4.0"
    assert images.description["dataset"] == "avatars:toon-head"
    assert np.array_equal(images.array[3].transpose(1, 2, 0), avatars.draw_avatar(3, size=32))
    assert images.description["preprocessing"] == "drawn at 32x32"
    prepare_images(ImageSource("avatars", 8), cache_dir=cache)
    assert "Drawing avatars: 100%" in capfd.readouterr().err
    no_work()
    prepare("avatars", 32, label_columns=("beard", "mouth"))


@pytest.mark.usefixtures("few_avatars")
def test_avatars_of_another_split_and_style(prepare):
    train, test = prepare("avatars"), prepare("avatars", split="test")
    other = prepare("avatars:adventurer", split="test")
    assert (len(train), len(test), len(other)) == (6, 3, 3)
    assert len({train.folder, test.folder, other.folder}) == 3
    assert not np.array_equal(test.array, other.array)
    assert "toon" not in other.description["attribution"].lower()


def test_wrong_avatars(prepare):
    with pytest.raises(ValueError, match=r"no split 'tset': did you mean 'test'\? There are: test, train"):
        prepare("avatars", split="tset")
    with pytest.raises(ValueError, match=r"did you mean 'toon-head'"):
        prepare("avatars:toonhead")
    with pytest.raises(ValueError, match=r"unknown avatar style ''"):
        prepare("avatars:")
    with pytest.raises(ValueError, match=r"no label column 'berd': did you mean 'beard'\? There are: beard, clothes"):
        prepare("avatars", label_columns=("berd",))
    with pytest.raises(ValueError, match=r"crop is 178, but avatars are drawn at the requested size"):
        prepare("avatars", crop=178)
    with pytest.raises(ValueError, match=r"revision is 'main', but it applies to datasets on the Hub only"):
        prepare("avatars", revision="main")


def test_a_folder_named_like_avatars_needs_its_path(tmp_path, monkeypatch, prepare):
    folder_of(tmp_path / "avatars", {"a.png": 7})
    monkeypatch.chdir(tmp_path)
    assert len(prepare("./avatars")) == 1


# The Hub


def png(value):
    file = io.BytesIO()
    picture(value).save(file, "PNG")
    return file.getvalue()


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """Serve one data set by the id `user/faces`, from memory."""
    picture(40).save(tmp_path / "on disk.png")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path)
    rows = {
        "photo": [{"bytes": png(10)}, {"bytes": png(20)}, {"bytes": png(30)}, {"path": str(tmp_path / "on disk.png")}],
        "label": [0, 1, 0, 1],
        "Smiling": [True, False, True, False],
        "Male": [1, -1, -1, 1],
        "score": [0.5, 0.5, 0.5, 0.5],
    }
    features = datasets.Features(
        {
            "photo": datasets.Image(),
            "label": datasets.ClassLabel(names=["cat", "dog"]),
            "Smiling": datasets.Value("bool"),
            "Male": datasets.Value("int64"),
            "score": datasets.Value("float32"),
        }
    )
    served = datasets.Dataset.from_dict(rows, features=features)
    served.info.license = "cc0"
    asked = []

    def load_dataset(name, *, split, revision):
        asked.append((name, split, revision))
        if name != "user/faces":
            raise datasets.exceptions.DatasetNotFoundError(f"Dataset '{name}' doesn't exist on the Hub")
        return served

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    served.asked = asked
    return served


def test_hub(prepare, hub, no_work):
    options = {"image_column": "photo", "label_columns": ("Male", "label", "Smiling"), "revision": "v1"}
    images = prepare("user/faces", split="validation", **options)
    assert hub.asked == [("user/faces", "validation", "v1")]
    assert images.array[:, 1, 4, 4].tolist() == [10, 20, 30, 40]
    assert images.label_names == ("Male", "label=cat", "label=dog", "Smiling")
    assert images.labels.tolist() == [[1, 1, 0, 1], [0, 0, 1, 0], [0, 1, 0, 1], [1, 0, 1, 0]]
    assert images.description["dataset"] == "user/faces"
    assert images.description["split"] == "validation"
    assert images.description["revision"] == "v1"
    assert images.description["license"] == "cc0"
    assert images.folder.name.startswith("user-faces-")
    no_work()
    prepare("user/faces", split="validation", **options)
    assert prepare("user/faces").folder == images.folder, "the only image column needs no name, labels no decoding"


def test_hub_columns(prepare, hub):
    with pytest.raises(ValueError, match=r"no image column 'phot': did you mean 'photo'\?"):
        prepare("user/faces", image_column="phot")
    with pytest.raises(ValueError, match=r"no image column 'label'"):
        prepare("user/faces", image_column="label")
    match = r"no label column 'smiling': did you mean 'Smiling'\? There are: Male, Smiling, label, score"
    with pytest.raises(ValueError, match=match):
        prepare("user/faces", image_column="photo", label_columns=("smiling",))
    with pytest.raises(ValueError, match=r"'score' contains 0\.5 \(float\) in row 0"):
        prepare("user/faces", image_column="photo", label_columns=("score",))


def test_hub_data_set_that_does_not_exist(prepare, hub):
    with pytest.raises(FileNotFoundError, match="'photos/faces' is neither a local folder nor a dataset") as caught:
        prepare("photos/faces")
    assert isinstance(caught.value.__cause__, datasets.exceptions.DatasetNotFoundError)


def test_hub_data_set_without_rows(prepare, hub, monkeypatch):
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: hub.select([]))
    with pytest.raises(ValueError, match=r"user/faces \(train\) contains no images"):
        prepare("user/faces", image_column="photo")


def test_hub_rows_are_named(prepare, monkeypatch):
    rows = {"image": [{"bytes": png(1)}, {"bytes": b"text"}, None, {"path": "/nowhere.png"}]}
    served = datasets.Dataset.from_dict(rows, features=datasets.Features({"image": datasets.Image()}))
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: served)
    with pytest.raises(ValueError, match="3 of 4 images can't be used") as caught:
        prepare("user/faces")
    assert "row 1 is not an image" in str(caught.value)
    assert "row 2 has no image" in str(caught.value)
    assert "row 3 is a file outside of the dataset" in str(caught.value), "a table could name any file"


def test_missing_class_label(prepare, monkeypatch):
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["cat"])})
    served = datasets.Dataset.from_dict({"image": [{"bytes": png(1)}] * 2, "label": [0, -1]}, features=features)
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: served)
    with pytest.raises(ValueError, match=r"row 1 has no label"):
        prepare("user/faces", label_columns=("label",))


@pytest.mark.parametrize("typed", [True, False])
def test_parquet_through_the_real_load_dataset(prepare, tmp_path, monkeypatch, typed):
    """Parquet files as on the Hub, also without the metadata that says which column is an image."""
    rows = {"image": [{"bytes": png(50), "path": None}, {"bytes": png(60), "path": None}]}
    features = datasets.Features({"image": datasets.Image()}) if typed else None
    datasets.Dataset.from_dict(rows, features=features).to_parquet(tmp_path / "rows.parquet")
    load_dataset = datasets.load_dataset

    def load_local(name, *, split, revision):
        files = {"train": str(tmp_path / "rows.parquet")}
        return load_dataset("parquet", data_files=files, split=split, cache_dir=str(tmp_path / "hf"))

    monkeypatch.setattr(datasets, "load_dataset", load_local)
    first, second = prepare("user/faces"), prepare("user/faces")
    assert first.array[:, 0, 4, 4].tolist() == [50, 60]
    assert first.folder == second.folder
    with pytest.raises(ValueError, match="valid"):
        prepare("user/faces", split="valid")


def test_without_datasets(prepare, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ImportError, match=r'pip install "fagan-hf\[train\]"') as caught:
        prepare("user/faces")
    assert caught.value.__cause__ is not None
    assert len(prepare(folder_of(tmp_path / "set", {"a.png": 10}))) == 1


# Golden pixels


def test_golden_pixels(prepare, tmp_path):
    """Increase PREPROCESSING_VERSION when these change."""
    y, x = np.mgrid[0:40, 0:50]
    pixels = np.stack([x * 5, y * 6, (x * y) % 256], axis=-1).astype(np.uint8)
    (tmp_path / "set").mkdir()
    Image.fromarray(pixels).save(tmp_path / "set" / "a.png")
    digest = hashlib.sha256(prepare(tmp_path / "set").array.tobytes()).hexdigest()[:12]
    assert digest == "8cf79164b336"


def test_images_fit_the_training_range(prepare, tmp_path):
    pixels, _ = prepare(folder_of(tmp_path / "set", {"a.png": 0, "b.png": 255})).batch([0, 1])
    reals = pixels.to(torch.float32).div(127.5).sub(1)
    assert (reals.min().item(), reals.max().item()) == (-1, 1)


# How many avatars


def test_more_avatars_leave_out_those_of_the_test_split():
    seeds = avatars.train_seeds(8200)
    assert len(seeds) == 8200
    assert seeds[:8192] == list(avatars.TRAIN_SEEDS)
    assert seeds[8192:] == list(range(10240, 10248))
    assert not set(seeds) & set(avatars.TEST_SEEDS)


def test_fewer_avatars_are_the_first_ones(tmp_path):
    few = prepare_images(ImageSource("avatars", 8, num_avatars=3), cache_dir=tmp_path, progress=False)
    assert (len(few), few.description["count"], few.description["options"]) == (3, 3, {"num_avatars": 3})
    assert np.array_equal(few.batch([2])[0][0].numpy(), avatars.draw_avatar(2, size=8).transpose(2, 0, 1))


def test_a_number_of_avatars_names_another_cache():
    default, same, few = (
        list_images(ImageSource("avatars", 8, num_avatars=n)).digests(False) for n in (None, 8192, 10)
    )
    assert np.array_equal(default, same)
    assert np.array_equal(default[:10], few)


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ({"dataset": "avatars", "num_avatars": 0}, "positive number of images, got 0"),
        ({"dataset": "avatars", "num_avatars": True}, "positive number of images, got True"),
        ({"dataset": "avatars", "split": "test", "num_avatars": 5}, "split 'test' always has the same 2,048"),
        ({"dataset": ".", "num_avatars": 5}, "applies to avatars only"),
    ],
)
def test_a_number_of_avatars_that_means_nothing_is_refused(source, words):
    with pytest.raises(ValueError, match=words):
        list_images(ImageSource(resolution=8, **source))
