import io
import itertools
import json
import logging
import sys
import textwrap
import threading
import time
from collections import Counter
from pathlib import Path

import datasets
import numpy as np
import pytest
from PIL import Image

from fagan_hf.data import stream as streaming
from fagan_hf.data.image_source import ImageSource
from fagan_hf.data.prepare import prepare_images
from fagan_hf.data.stream import open_stream
from tests.hub import forked
from tests.hub.server import Hub

ROOT = Path(streaming.__file__).parents[2]


@pytest.fixture
def open_(request):
    """Open a stream at resolution 8, and close it with the test."""

    def open_one(dataset, seed=0, process=0, processes=1, start=0, resolution=8, **options):
        source = ImageSource(str(dataset), resolution, **options)
        stream = open_stream(source, seed=seed, process=process, processes=processes, start=start)
        request.addfinalizer(stream.close)
        return stream

    return open_one


def png(value, size=(9, 11)):
    file = io.BytesIO()
    Image.new("RGB", size, (value, value, value)).save(file, "PNG")
    return file.getvalue()


def folder_of(path, count, bad=()):
    """Write images of one color each: 0, 1, 2 ..."""
    path.mkdir(parents=True, exist_ok=True)
    for value in range(count):
        (path / f"{value:03d}.png").write_bytes(b"no image" if value in bad else png(value))
    return path


def values(stream, count):
    """Take images, and return their colors."""
    return stream.take(count)[0][:, 0, 0, 0].tolist()


def threads():
    return [thread for thread in threading.enumerate() if thread.name.startswith("image-stream")]


# Order


@pytest.mark.parametrize("processes", [1, 2, 3])
def test_an_epoch_of_a_folder_holds_each_image_once(open_, tmp_path, processes):
    folder = folder_of(tmp_path, 7)
    streams = [open_(folder, process=process, processes=processes) for process in range(processes)]
    # Position 0 is the first process's, 1 the second's ...: three epochs of 7 are 21 positions.
    dealt = itertools.chain(*zip(*(values(stream, 21) for stream in streams), strict=True))
    epochs = [list(itertools.islice(dealt, 7)) for _ in range(3)]
    assert [sorted(epoch) for epoch in epochs] == [list(range(7))] * 3
    assert epochs[0] != epochs[1] != epochs[2]


def test_the_order_of_a_folder_is_that_of_its_seed(open_, tmp_path):
    folder = folder_of(tmp_path, 30)
    first, again, other = (values(open_(folder, seed=seed), 30) for seed in (5, 5, 6))
    assert first == again
    assert first != other
    assert first != sorted(first)


@pytest.mark.parametrize("start", [4, 14, 30])
def test_a_folder_goes_on_exactly_where_it_was(open_, tmp_path, start):
    folder = folder_of(tmp_path, 10)
    whole = values(open_(folder), 50)
    assert values(open_(folder, start=start), 20) == whole[start : start + 20]
    assert values(open_(folder, start=start, process=1, processes=2), 10) == whole[start + 1 : start + 21 : 2]


def test_a_single_image_fills_any_batch(open_, tmp_path):
    assert values(open_(folder_of(tmp_path, 1)), 300) == [0] * 300


def test_shards_are_read_in_turn_and_each_to_its_end():
    shards = ([{shard: row} for row in range(2)] for shard in "abcde")
    rows = [next(iter(row.items())) for row in streaming._in_turn(shards, 2)]
    assert rows[:4] == [("a", 0), ("b", 0), ("a", 1), ("b", 1)]
    assert sorted(rows) == [(shard, row) for shard in "abcde" for row in range(2)]


def test_the_buffer_mixes_all_and_loses_nothing(monkeypatch):
    monkeypatch.setattr(streaming, "BUFFER_IMAGES", 50)
    samples = (streaming._Sample(str(index), b"") for index in range(200))
    names = [int(sample.name) for sample in streaming._shuffled(samples, np.random.default_rng(0))]
    assert sorted(names) == list(range(200))
    assert names != sorted(names)
    assert max(name - place for place, name in enumerate(names)) == 50  # nothing is yielded before it was read
    assert np.corrcoef(names[:50], range(50))[0, 1] < 0.9


def test_the_buffer_counts_bytes(monkeypatch):
    monkeypatch.setattr(streaming, "BUFFER_BYTES", 1000)
    read = []

    def samples():
        for index in range(100):
            read.append(index)
            yield streaming._Sample(str(index), bytes(100 if index else 5000))  # one alone is too large

    for given, _ in enumerate(streaming._shuffled(samples(), np.random.default_rng(0)), 1):
        assert len(read) - given <= 10
    assert given == 100


# Pixels, labels, facts


@pytest.mark.parametrize("options", [{}, {"crop": 10}, {"resolution": 16, "upscale": True}])
def test_pixels_and_labels_are_those_of_the_cache(open_, tmp_path, options):
    random = np.random.default_rng(0)
    folder = tmp_path / "set"
    for index, (height, width) in enumerate([(20, 31), (12, 12), (17, 13), (40, 11), (10, 10)]):
        place = folder / "ba"[index % 2]
        place.mkdir(parents=True, exist_ok=True)
        pixels = random.integers(0, 256, (height, width, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(place / f"{index}.{('png', 'jpg')[index // 3]}")
    options = {"resolution": 8, "label_columns": ("class",), **options}
    cached = prepare_images(ImageSource(str(folder), **options), cache_dir=tmp_path / "cache", progress=False)
    stream = open_(folder, **options)
    images, labels = stream.take(5)
    assert str(images.dtype) == "torch.uint8"
    assert str(labels.dtype) == "torch.float32"
    assert images.shape[1:] == stream.image_shape == cached.array.shape[1:]
    streamed = {image.tobytes(): label.tolist() for image, label in zip(images.numpy(), labels, strict=True)}
    assert len(streamed) == 5
    assert streamed == {
        image.tobytes(): label.tolist() for image, label in zip(cached.array, cached.labels, strict=True)
    }
    assert stream.label_names == cached.label_names == ("class=a", "class=b")
    assert sorted(stream.labels.tolist()) == sorted(cached.labels.tolist())
    assert stream.fingerprint != open_(folder, **{**options, "background": "black"}).fingerprint
    assert stream.description == {**cached.description, "streamed": True}
    assert json.dumps(stream.description)


def test_the_sample_of_labels_is_bounded_and_the_same_everywhere(open_, tmp_path, monkeypatch):
    monkeypatch.setattr(streaming, "SAMPLE_IMAGES", 6)
    folder_of(tmp_path / "a", 10)
    folder_of(tmp_path / "b", 10)
    first = open_(tmp_path, label_columns=("class",)).labels
    other = open_(tmp_path, label_columns=("class",), start=7, process=1, processes=2).labels
    assert first.shape == (6, 2)
    assert first.dtype == np.float32
    assert np.array_equal(first, other)
    assert set(map(tuple, first.tolist())) == {(1, 0), (0, 1)}
    without = open_(tmp_path)
    assert (without.labels.shape, without.label_names, without.take(3)[1].shape) == ((0, 0), (), (3, 0))


# Images that can't be used


def test_bad_images_are_skipped_and_named(open_, tmp_path, caplog):
    folder = folder_of(tmp_path, 20, bad=range(12))
    (folder / "012.png").write_bytes(png(12, size=(4, 4)))
    stream = open_(folder)
    with caplog.at_level(logging.WARNING):
        assert sorted(values(stream, 7)) == list(range(13, 20))
        stream.take(7)
    assert stream.skipped >= 13
    messages = [record.getMessage() for record in caplog.records]
    assert len(messages) == 10  # then it is quiet
    assert all(message.startswith(f"Skipped: {folder}/0") for message in messages)
    assert sum("png is not an image. Remove or replace" in message for message in messages) >= 9
    assert ["won't be listed" in message for message in messages] == [False] * 9 + [True]


def test_nothing_but_bad_images(open_, tmp_path):
    stream = open_(folder_of(tmp_path, 3, bad=range(3)))
    for _ in range(2):
        with pytest.raises(
            ValueError, match=r"10\d images in a row can't be used, the first.*png is not an image. Rem"
        ):
            stream.take(1)


def test_a_hundred_bad_ones_between_good_ones_are_no_failure(open_, tmp_path, monkeypatch):
    monkeypatch.setattr(streaming, "MOST_SKIPPED", 2)  # in a row
    monkeypatch.setattr(streaming, "_epoch_order", lambda seed, epoch, size: np.arange(size))
    stream = open_(folder_of(tmp_path, 9, bad=(0, 1, 3, 4, 6, 7)))
    assert values(stream, 6) == [2, 5, 8, 2, 5, 8]


# Refusals


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        (
            {"dataset": "avatars"},
            ValueError,
            "avatars can't be streamed: avatars are drawn locally.*Leave out --streaming",
        ),
        ({"dataset": "avatars:lorelei"}, ValueError, "avatars:lorelei can't be streamed"),
        ({"dataset": "./missing"}, FileNotFoundError, "The folder /"),
        ({"split": "test"}, ValueError, "it has no splits, got split 'test'"),
        ({"label_columns": ("klass",)}, ValueError, "has no label column 'klass': There are: none"),
        ({"processes": 4}, ValueError, "has 3 images for 4 processes, so some would get none"),
        ({"process": 2, "processes": 2}, ValueError, "process is 2; with 2 processes it must be from 0 to 1"),
        ({"seed": -1}, ValueError, "seed is -1; it must not be negative"),
        ({"start": -1}, ValueError, "start is -1; it must not be negative"),
    ],
)
def test_refused(open_, tmp_path, options, error, message):
    with pytest.raises(error, match=message):
        open_(**{"dataset": folder_of(tmp_path, 3), **options})
    assert threads() == []


def test_an_image_outside_of_a_subfolder_has_no_class_and_is_skipped(open_, tmp_path, caplog):
    folder_of(tmp_path / "cat", 1)
    folder_of(tmp_path, 1)
    stream = open_(tmp_path, label_columns=("class",))
    assert stream.take(3)[1].tolist() == [[1.0]] * 3
    assert stream.labels.tolist() == [[1.0]]
    assert "000.png has no class" in caplog.text
    assert stream.summary == "2 images"


# Threads


def test_what_a_thread_fails_with_arrives(open_, tmp_path, monkeypatch):
    def fail(*_, **__):
        raise ConnectionError("the cable was pulled")

    stream = open_(folder_of(tmp_path / "set", 300))
    stream.take(3)
    monkeypatch.setattr(streaming, "decode_image", fail)
    for _ in range(2):  # and again, instead of waiting for ended threads
        with pytest.raises(OSError, match=r"reading .*set failed after \d+ images .* the cable was pulled") as caught:
            stream.take(1000)
        assert isinstance(caught.value.__cause__, ConnectionError)
    stream.close()
    assert threads() == []


def test_a_reader_that_fails_once_fails_every_call():
    def samples():
        yield streaming._Sample("first", None)
        raise ConnectionError("once")

    ahead = streaming._Ahead(samples(), lambda sample: (np.zeros(1), np.zeros(0)))
    ahead.get()
    for _ in range(3):
        with pytest.raises(ConnectionError, match="once"):
            ahead.get()
    ahead.close()


def test_close_ends_the_threads(open_, tmp_path, monkeypatch):
    monkeypatch.setattr(streaming, "AHEAD_IMAGES", 2)
    folder = folder_of(tmp_path, 3)
    stream = open_(folder)
    stream.take(2)
    while not stream._ahead._promises.full():  # one thread waits for room
        time.sleep(0.01)
    assert threads()
    assert all(thread.daemon for thread in threads())
    stream.close()
    assert threads() == []
    stream.close()
    with pytest.raises(ValueError, match="The stream is closed"):
        stream.take(1)
    with pytest.raises(KeyError), open_(folder):
        raise KeyError
    assert threads() == []


def test_a_thread_that_waits_keeps_nobody_waiting(open_, tmp_path, monkeypatch):
    monkeypatch.setattr(streaming, "_JOIN_SECONDS", 0.1)
    answer, asked = threading.Event(), threading.Event()

    def samples():
        asked.set()
        answer.wait()
        yield streaming._Sample("late", None)

    ahead = streaming._Ahead(samples(), lambda sample: pytest.fail("too late"))
    assert asked.wait(5)
    begun = time.monotonic()
    ahead.close()
    assert time.monotonic() - begun < 5
    answer.set()
    for thread in ahead._threads:
        thread.join(5)
    assert threads() == []


def test_no_more_is_read_ahead_than_the_queue_holds(open_, tmp_path, monkeypatch):
    monkeypatch.setattr(streaming, "AHEAD_IMAGES", 8)
    calls, real = Counter(), streaming.decode_image

    def decode(content, **options):
        calls["decode"] += 1
        return real(content, **options)

    monkeypatch.setattr(streaming, "decode_image", decode)
    stream = open_(folder_of(tmp_path, 40))
    stream.take(1)
    time.sleep(0.3)
    # Nine with the one that was taken. One thread has the next sample and waits for room.
    assert 8 <= calls["decode"] <= 9


# Data sets of the Hub, in separate processes, because the modules imported here are offline.

FACES = 20


def parquet(rows, **features):
    file = io.BytesIO()
    types = datasets.Features(features) if features else None
    datasets.Dataset.from_dict(rows, features=types).to_parquet(file)
    return file.getvalue()


@pytest.fixture(scope="module")
def hub():
    with Hub(tokens={"hf_" + "AliceStreamsFromTheHubOfTestsAAAAA": "alice"}) as hub:
        shards = {}
        for shard in range(4):
            rows = range(5 * shard, 5 * shard + 5)
            cells = [{"bytes": png(row), "path": f"{row}.png"} for row in rows]
            cells[1] = None if shard == 2 else cells[1]  # row 11
            columns = {
                "image": cells,
                "Smiling": [row % 2 == 0 for row in rows],
                "Male": [1 if row % 2 == 0 else -1 for row in rows],
                "kind": [row % 3 for row in rows],
                "name": [str(row) for row in rows],
                "number": list(rows),
                "late": [int(row == 3) for row in rows] if shard else [0, 1, 0, 7, 0],
            }
            types = {
                "image": datasets.Image(),
                "Smiling": datasets.Value("bool"),
                "Male": datasets.Value("int8"),
                "kind": datasets.ClassLabel(names=["a", "b", "c"]),
                "name": datasets.Value("string"),
                "number": datasets.Value("int64"),
                "late": datasets.Value("int64"),
            }
            shards[f"data/train-{shard:05d}-of-00004.parquet"] = parquet(columns, **types)
        hub.commit("alice/faces", shards, kind="dataset")
        plain = {"image": [png(value) for value in range(6)], "kind": [0, 1, -1, 1, 0, None]}
        types = {"image": datasets.Value("binary"), "kind": datasets.ClassLabel(names=["a", "b"])}
        hub.commit("alice/bytes", {"train.parquet": parquet(plain, **types)}, kind="dataset")
        files = {f"{'cat' if value % 2 else 'dog'}/{value}.png": png(value) for value in range(6)}
        hub.commit("alice/files", files, kind="dataset")
        halves = {f"data/train-0000{half}-of-00002.parquet": parquet({"image": [png(1)]}) for half in range(2)}
        hub.commit("alice/broken", halves, kind="dataset")
        hub.fault("GET", "alice/broken/.*00001-of", 403, times=None)
        yield hub
    assert hub.errors == []


@pytest.fixture
def client(hub, tmp_path):
    """Run code in a new process; return its output as JSON."""

    def run(code):
        begin = """
            import json, logging
            from fagan_hf.data.image_source import ImageSource
            from fagan_hf.data.stream import open_stream
            def stream(dataset="alice/faces", seed=0, process=0, processes=1, start=0, **options):
                source = ImageSource(dataset, 8, **options)
                return open_stream(source, seed=seed, process=process, processes=processes, start=start)
            def values(opened, count):
                with opened:
                    return opened.take(count)[0][:, 0, 0, 0].tolist()
            def failure(function):
                try:
                    function()
                except Exception as error:
                    return f"{type(error).__name__}: {error}"
        """
        arguments = [sys.executable, "-c", textwrap.dedent(begin) + textwrap.dedent(code)]
        env = hub.environment(cache=tmp_path / "hf") | {"OMP_NUM_THREADS": "1", "FAGAN_CACHE": str(tmp_path / "cache")}
        done = forked.run(arguments[1:], env, ROOT, tmp_path / "log", timeout=60)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    return run


def test_the_order_of_a_data_set_of_the_hub(client):
    said = client(
        """
        said = {f"{n}": [values(stream(process=p, processes=n), 19 // n) for p in range(n)] for n in (1, 2, 3)}
        said["many"] = [values(stream(process=p, processes=6), 3) for p in range(6)]  # more than shards
        with stream() as opened:
            said["epochs"] = [opened.take(19)[0][:, 0, 0, 0].tolist() for _ in range(2)]
        said["seed"], said["start"] = values(stream(seed=1), 19), values(stream(start=19), 19)
        with stream(process=20, processes=21) as empty:
            said["empty"] = failure(lambda: empty.take(1))
        print(json.dumps(said))
        """
    )
    everything = sorted(set(range(FACES)) - {11})
    assert sorted(said["1"][0]) == everything
    assert said["epochs"][0] == said["1"][0]  # the same seed
    orders = [*said["epochs"], said["seed"], said["start"]]
    assert [sorted(order) for order in orders] == [everything] * 4
    assert len(set(map(tuple, orders))) == 4
    assert [order for order in orders if order == sorted(order)] == []
    for processes in ("2", "3"):  # shares of whole shards, of which one may be smaller
        shards = [{value // 5 for value in mine} for mine in said[processes]]
        assert sum(map(len, shards)) >= 4
    two = [set(mine) for mine in said["2"]]
    assert two[0] & two[1] == set()
    assert len(two[0] | two[1]) >= 18
    # Each of six has every sixth row: three or four, one without an image, so its first epoch is three images.
    many = [value for mine in said["many"] for value in mine]
    assert max(Counter(many).values()) <= 2  # one share may be a single image short
    assert len(set(many)) >= 17
    assert said["empty"].startswith("ValueError: Process 20 of 21 found no image of alice/faces (train) in a whole ep")


def test_pixels_labels_and_facts_of_the_hub(client, hub):
    said = client(
        """
        import numpy, torch
        from fagan_hf.data.prepare import prepare_images
        columns = "Smiling", "Male", "kind"
        said = {}
        with stream(label_columns=columns) as opened:
            images, labels = opened.take(19)
            said["rows"] = [[int(image[0, 0, 0]), label.tolist()] for image, label in zip(images, labels)]
            said["names"], said["sample"] = opened.label_names, opened.labels.tolist()
            said["facts"], said["fingerprint"] = opened.description, opened.fingerprint
        with stream(label_columns=columns, start=5, process=1, processes=2, seed=0) as other:
            said["same sample"] = other.labels.tolist()
        for name, options in {"bytes": {}, "files": {}}.items():
            with stream(f"alice/{name}", **options) as opened:
                cached = prepare_images(ImageSource(f"alice/{name}", 8), progress=False, num_processes=1)
                streamed = opened.take(6)[0].numpy()
                said[name] = sorted(map(bytes, streamed)) == sorted(map(bytes, cached.array))
        with stream("alice/bytes", label_columns=("kind",)) as opened:
            images, labels = opened.take(8)
            said["with a class"] = sorted({(int(i[0, 0, 0]), int(l.argmax())) for i, l in zip(images, labels)})
            said["sample of classes"] = opened.labels.tolist()
        print(json.dumps(said))
        """
    )
    assert said["names"] == ["Smiling", "Male", "kind=a", "kind=b", "kind=c"]

    def labels(row):
        return [float(row % 2 == 0)] * 2 + [float(row % 3 == kind) for kind in range(3)]

    assert sorted(said["rows"]) == [[row, labels(row)] for row in range(FACES) if row != 11]
    assert sorted(said["sample"]) == sorted(labels(row) for row in range(FACES))
    assert said["sample"] == said["same sample"]
    assert said["facts"]["revision"] == hub.head("alice/faces", kind="dataset")
    assert {name: said["facts"][name] for name in ("source", "dataset", "split", "count", "streamed")} == {
        "source": "hub", "dataset": "alice/faces", "split": "train", "count": None, "streamed": True,
    }  # fmt: skip
    assert "largest center square" in said["facts"]["preprocessing"]
    assert said["bytes"]
    assert said["files"]
    assert said["with a class"] == [[0, 0], [1, 1], [3, 1], [4, 0]]  # the other two have none
    assert sorted(said["sample of classes"]) == [[0, 1], [0, 1], [1, 0], [1, 0]]


def test_what_the_hub_refuses_and_what_fails_on_the_way(client, hub):
    said = client(
        """
        import time
        said = {
            "split": failure(lambda: stream(split="trian")),
            "image column": failure(lambda: stream(image_column="imgae")),
            "label column": failure(lambda: stream(label_columns=("Smilling",))),
            "no such": failure(lambda: stream("alice/nothing")),
            "text": failure(lambda: stream(label_columns=("name",))),
            "numbers": failure(lambda: stream(label_columns=("number",))),
        }
        from fagan_hf.data import stream as streaming
        streaming.SAMPLE_IMAGES = 8  # the 7 comes later
        with stream(label_columns=("late",)) as late:
            said["late"] = failure(lambda: late.take(40))
        with stream("alice/broken") as broken:
            begun = time.monotonic()
            said["network"] = [failure(lambda: broken.take(3)) for _ in range(2)]
            said["seconds"] = time.monotonic() - begun
        stream()  # which nobody closes
        print(json.dumps(said))
        """
    )
    assert "ValueError: alice/faces has no split 'trian': did you mean 'train'? There are: train" in said["split"]
    assert "has no image column 'imgae': did you mean 'image'? There are: image" in said["image column"]
    assert "has no label column 'Smilling': did you mean 'Smiling'?" in said["label column"]
    assert said["no such"].startswith(
        "FileNotFoundError: 'alice/nothing' is neither a local folder nor a dataset on the H"
    )
    assert "Label column 'name' of alice/faces is of type string, so all its values would" in said["text"]
    assert "bool, 0 and 1, -1 and 1, or a ClassLabel. Otherwise leave out --streaming" in said["text"]
    assert "Label column 'number' of alice/faces contains 0, 1, 2, 3, 4 ..., so all" in said["numbers"]
    assert said["late"].startswith("ValueError: Label column 'late' contains 7, but")
    for message in said["network"]:
        assert message.startswith("OSError: reading alice/broken failed after 0 images in this process: HfHubH")
        assert "403" in message
    assert said["seconds"] < 20
