"""Local tables of images: Parquet, Arrow, and what `save_to_disk` writes."""

import io

import datasets
import numpy as np
import pyarrow.parquet
import pytest
from PIL import Image

from fagan_hf.data.image_source import ImageSource
from fagan_hf.data.prepare import prepare_images
from fagan_hf.data.sources import kind_of_source


def png(value):
    file = io.BytesIO()
    Image.new("RGB", (16, 16), (value,) * 3).save(file, "PNG")
    return file.getvalue()


def rows(*values, column="image"):
    features = datasets.Features({column: datasets.Image(), "bright": datasets.Value("bool")})
    data = {column: [{"bytes": png(value)} for value in values], "bright": [value > 100 for value in values]}
    return datasets.Dataset.from_dict(data, features=features)


@pytest.fixture
def prepare(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hf")
    datasets.disable_progress_bars()
    yield lambda place, **options: prepare_images(
        ImageSource(str(place), 8, **options), cache_dir=tmp_path / "cache", progress=False, num_processes=1
    )
    datasets.enable_progress_bars()


def grays(images):
    return images.array[:, 0, 4, 4].tolist()


def test_a_parquet_file(prepare, tmp_path):
    rows(10, 200).to_parquet(tmp_path / "faces.parquet")
    images = prepare(tmp_path / "faces.parquet", label_columns=("bright",))
    assert grays(images) == [10, 200]
    assert images.labels.tolist() == [[0], [1]]
    assert images.description["dataset"] == "faces.parquet"
    assert images.description["source"] == "folder"
    assert prepare(tmp_path / "faces.parquet").folder == images.folder


def test_a_folder_of_parquet_files_with_splits(prepare, tmp_path):
    folder = tmp_path / "set" / "data"
    folder.mkdir(parents=True)
    rows(10).to_parquet(folder / "train-00000-of-00002.parquet")
    rows(20).to_parquet(folder / "train-00001-of-00002.parquet")
    rows(30).to_parquet(folder / "test-00000-of-00001.parquet")
    assert grays(prepare(folder)) == [10, 20]
    assert grays(prepare(folder, split="test")) == [30]
    with pytest.raises(ValueError, match="no split 'valid'"):
        prepare(folder, split="valid")


def test_an_arrow_file(prepare, tmp_path):
    rows(10, 20).save_to_disk(tmp_path / "saved")
    [arrow] = (tmp_path / "saved").glob("*.arrow")
    arrow.rename(tmp_path / "faces.arrow")
    assert grays(prepare(tmp_path / "faces.arrow")) == [10, 20]


def test_saved_datasets(prepare, tmp_path):
    rows(10, 20).save_to_disk(tmp_path / "plain")
    assert grays(prepare(tmp_path / "plain")) == [10, 20]
    with pytest.raises(ValueError, match="has no splits, got split 'test'; leave split out"):
        prepare(tmp_path / "plain", split="test")
    datasets.DatasetDict(train=rows(30), test=rows(40, 50)).save_to_disk(tmp_path / "splits")
    assert grays(prepare(tmp_path / "splits", split="test")) == [40, 50]
    with pytest.raises(ValueError, match="no split 'trian': did you mean 'train'"):
        prepare(tmp_path / "splits", split="trian")


def test_the_only_image_column_needs_no_name(prepare, tmp_path):
    rows(10, column="picture").to_parquet(tmp_path / "one.parquet")
    assert grays(prepare(tmp_path / "one.parquet")) == [10]
    both = rows(10, column="left").add_column("right", [{"bytes": png(20), "path": None}])
    both.cast_column("right", datasets.Image()).to_parquet(tmp_path / "two.parquet")
    with pytest.raises(ValueError, match="no image column 'image': There are: left, right"):
        prepare(tmp_path / "two.parquet")
    assert grays(prepare(tmp_path / "two.parquet", image_column="right")) == [20]
    datasets.Dataset.from_dict({"text": ["a"]}).to_parquet(tmp_path / "none.parquet")
    with pytest.raises(ValueError, match="has no column of images; its columns are text"):
        prepare(tmp_path / "none.parquet")


def test_a_table_can_not_name_files_of_this_machine(prepare, tmp_path):
    secret = tmp_path / "secret.png"
    secret.write_bytes(png(99))
    place = tmp_path / "set"
    place.mkdir()
    (place / "mine.png").write_bytes(png(10))
    features = datasets.Features({"image": datasets.Image()})
    paths = [secret, place / "mine.png", place / ".." / "secret.png"]
    table = datasets.Dataset.from_dict({"image": [{"path": str(path)} for path in paths]}, features=features)
    pyarrow.parquet.write_table(table.data.table, place / "rows.parquet")  # `to_parquet` would read the files
    with pytest.raises(ValueError, match="2 of 3 images can't be used") as caught:
        prepare(place / "rows.parquet")
    assert str(caught.value).count("is a file outside of the dataset") == 2
    assert grays(prepare(place / "rows.parquet", skip_broken=True)) == [10]


def test_damaged_tables(prepare, tmp_path):
    (tmp_path / "a.parquet").write_bytes(b"PAR1 nonsense")
    with pytest.raises((ValueError, OSError), match="parquet"):
        prepare(tmp_path / "a.parquet")


def test_kinds_of_places(tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "metadata.parquet").touch()
    (tmp_path / "photos" / "a.png").touch()
    (tmp_path / "labeled").mkdir()
    (tmp_path / "labeled" / "labels.parquet").touch()
    assert kind_of_source(str(tmp_path / "labeled")) == "rows"
    (tmp_path / "labeled" / "a.png").touch()
    assert kind_of_source(str(tmp_path / "labeled")) == "files", "the table holds labels"
    (tmp_path / "a.txt").touch()
    (tmp_path / "a.tgz").touch()
    assert kind_of_source(str(tmp_path / "photos")) == "files"
    assert kind_of_source(str(tmp_path / "a.tgz")) == "files"
    assert kind_of_source("avatars") == "avatars"
    assert kind_of_source("user/name") == "hub"
    with pytest.raises(ValueError, match=r"a\.txt is a file; give the folder .* a zip or tar file, or a Parquet file"):
        kind_of_source(str(tmp_path / "a.txt"))
    with pytest.raises(FileNotFoundError, match="Is the path correct"):
        kind_of_source("./missing")


@pytest.mark.parametrize(
    ("raised", "kind", "words"),
    [
        (FileNotFoundError("Dataset 'a/b' doesn't exist"), FileNotFoundError, "neither a local folder nor a dataset"),
        (
            FileNotFoundError("Dataset 'a/b' is a gated dataset on the Hub"),
            PermissionError,
            "accept its terms at https",
        ),
        (RuntimeError("Dataset scripts are no longer supported, but found b.py"), ValueError, "which is never run"),
        (
            ValueError("Config name is missing. Please pick one among: x, y"),
            ValueError,
            "choose one with --config-name",
        ),
    ],
)
def test_what_the_hub_refuses_has_a_next_step(prepare, monkeypatch, raised, kind, words):
    def refuse(*_, **__):
        raise raised

    monkeypatch.setattr(datasets, "load_dataset", refuse)
    with pytest.raises(kind, match=words) as caught:
        prepare("alice/faces")
    assert caught.value.__cause__ is raised


def test_a_configuration_is_passed_on(prepare, monkeypatch):
    asked = []

    def load(path, **options):
        asked.append(options)
        return rows(10)

    monkeypatch.setattr(datasets, "load_dataset", load)
    prepare("alice/faces", config_name="aligned")
    assert asked == [{"split": "train", "revision": None, "name": "aligned"}]
    assert np.array_equal(prepare("alice/faces").array.shape, (1, 3, 8, 8))
