"""Everything that people have: folders, splits, tables, archives."""

import csv
import io
import json
import os
import tarfile
import zipfile
from pathlib import Path

import pytest
from PIL import Image

from fagan_hf.data.archives import MAX_MEMBER_BYTES, Member, UnreadableMemberError
from fagan_hf.data.folder import list_folder, read_folder


def png(value=0, size=(16, 16)):
    file = io.BytesIO()
    Image.new("RGB", size, (value,) * 3).save(file, "PNG")
    return file.getvalue()


def fill(folder, files):
    """Write files: images of a gray level, or the given text or bytes."""
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, int):
            content = png(content)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    return folder


def zipped(path, files):
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, png(content) if isinstance(content, int) else content)
    return path


def tarred(path, files, mode="w"):
    with tarfile.open(path, mode) as archive:
        for name, content in files.items():
            data = png(content) if isinstance(content, int) else content
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return path


@pytest.fixture
def read(tmp_path):
    return lambda place: read_folder(place, unpacked=tmp_path / "cache" / "unpacked")


@pytest.fixture
def listed(tmp_path):
    return lambda place, split="train": list_folder(place, split, unpacked=tmp_path / "cache" / "unpacked")


def names(contents):
    return [image.name for image in contents.images]


# Files


def test_what_is_not_read_is_counted_by_kind(read, tmp_path, monkeypatch):
    monkeypatch.setattr("fagan_hf.data.files.image_suffixes", lambda: {".png"})  # as without pillow-heif
    files = (
        {f"{i}.heic": b"" for i in range(90)}
        | {f"plain{i}": b"" for i in range(5)}
        | {f"{i}.jpg_": b"" for i in range(3)}
    )
    contents = read(fill(tmp_path / "set", files | {f"{i:02}.png": i for i in range(35)} | {".hidden.png": 1}))
    wanted = "35 images; 98 files not read: 90 .heic (install pillow-heif), 5 without suffix, 3 .jpg_"
    assert contents.summary() == wanted


def test_many_kinds_are_summed(read, tmp_path):
    contents = read(fill(tmp_path / "set", {"a.png": 1} | {f"a.x{i}": b"" for i in range(9)}))
    assert contents.summary().endswith("3 other kinds")
    assert contents.summary().startswith("1 image; 9 files not read: 1 .x")


def test_links_are_followed_and_cycles_end(read, tmp_path):
    fill(tmp_path / "elsewhere", {"b.png": 2})
    folder = fill(tmp_path / "set", {"a.png": 1, "deep/er/c.png": 3})
    (folder / "linked").symlink_to(tmp_path / "elsewhere")
    (folder / "file.png").symlink_to(tmp_path / "elsewhere" / "b.png")
    (folder / "deep" / "cycle").symlink_to(folder)
    (folder / "deep" / "er" / "self").symlink_to(folder / "deep" / "er")
    (folder / "broken.png").symlink_to(tmp_path / "nowhere")
    os.mkfifo(folder / "pipe.png")
    contents = read(folder)
    assert names(contents) == ["a.png", "deep/er/c.png", "file.png", "linked/b.png"]
    assert "2 links to folders listed already" in contents.summary()
    assert "1 broken links" in contents.summary()
    assert "1 special files" in contents.summary()


# Splits and classes


@pytest.mark.parametrize("wrapper", ["", "data/set/"])
@pytest.mark.parametrize(("name", "split"), [("val", "validation"), ("valid", "validation"), ("dev", "validation")])
def test_folders_of_splits(read, tmp_path, wrapper, name, split):
    files = {"Train/cat/a.png": 1, "Train/dog/b.png": 2, f"{name}/cat/c.png": 3, "test/dog/d.png": 4}
    contents = read(fill(tmp_path / "set", {wrapper + key: value for key, value in files.items()}))
    train = contents.in_split("train")
    assert train.classes == ["cat", "dog"]
    assert train.summary() == f"2 images in split train (1 in {split}, 1 in test)"
    for alias in (name, split):
        assert [Path(each).name for each in names(contents.in_split(alias))] == ["c.png"]
    assert contents.in_split("test").label_columns()["class"].values == ["dog"]
    with pytest.raises(ValueError, match="it has no split 'trial': did you mean"):
        contents.in_split("trial")


def test_a_class_may_be_called_test(read, tmp_path):
    contents = read(fill(tmp_path / "set", {"test/a.png": 1, "cat/b.png": 2}))
    assert not contents.splits
    assert contents.classes == ["cat", "test"]
    with pytest.raises(ValueError, match="it has no splits"):
        contents.in_split("test")


def test_only_a_test_split(read, tmp_path):
    with pytest.raises(ValueError, match="no split 'train': There are: test"):
        read(fill(tmp_path / "set", {"test/a.png": 1})).in_split("train")


def test_nested_folders_are_classes_of_their_path(read, tmp_path):
    contents = read(fill(tmp_path / "set", {"a/b/1.png": 1, "a/2.png": 2, "3.png": 3}))
    assert contents.classes == [".", "a", "a/b"]
    assert contents.label_columns()["class"].values == [None, "a", "a/b"]
    assert contents.label_columns()["class"].classes == ["a", "a/b"]


# Tables


IMAGES = {"a.png": 1, "b.png": 2, "sub/c.png": 3}
ROWS = [("a.png", "1", "red"), ("b.png", "0", "blue"), ("sub/c.png", "1", "red")]


def as_csv(rows=ROWS, header=("file_name", "smiling", "hair"), delimiter=","):
    file = io.StringIO()
    csv.writer(file, delimiter=delimiter).writerows([header, *rows])
    return file.getvalue()


def as_jsonl(rows=ROWS):
    return "\n".join(json.dumps({"file_name": name, "smiling": int(one), "hair": two}) for name, one, two in rows)


def as_parquet(rows=ROWS):
    import pyarrow as pa
    import pyarrow.parquet as pq

    file = io.BytesIO()
    names, one, two = zip(*rows, strict=True)
    table = {"file_name": names, "smiling": [int(each) for each in one], "hair": two, "box": [[1, 2]] * len(rows)}
    pq.write_table(pa.table(table), file)
    return file.getvalue()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("metadata.csv", as_csv()),
        ("metadata.csv", "\ufeff" + as_csv(delimiter=";")),
        ("metadata.jsonl", as_jsonl()),
        ("metadata.parquet", as_parquet()),
        ("labels.csv", as_csv(header=("filename", "smiling", "hair"))),
        ("labels.parquet", as_parquet()),
        (
            "labels.csv",
            as_csv([(n.removesuffix(".png").rpartition("/")[2], *r) for n, *r in ROWS], ("id", "smiling", "hair")),
        ),
    ],
    ids=["csv", "semicolons", "jsonl", "parquet", "another name", "another parquet", "names without suffix"],
)
def test_tables_beside_the_images(read, tmp_path, name, content):
    contents = read(fill(tmp_path / "set", IMAGES | {name: content}))
    columns = contents.label_columns()
    assert columns["smiling"].values == [1, 0, 1]
    assert columns["hair"].values == ["red", "blue", "red"]
    assert "box" not in columns
    assert contents.summary() == "3 images"


def test_a_table_in_each_split(read, tmp_path):
    files = {"train/a.png": 1, "test/a.png": 2}
    for split, color in (("train", "red"), ("test", "blue")):
        files[f"{split}/metadata.csv"] = f"file_name,hair\na.png,{color}\n"
    contents = read(fill(tmp_path / "set", files))
    assert contents.in_split("train").columns["hair"] == ["red"]
    assert contents.in_split("test").columns["hair"] == ["blue"]


def test_rows_without_files_and_files_without_rows(read, tmp_path):
    rows = [*ROWS[:2], *((f"missing{i}.png", "1", "red") for i in range(5))]
    contents = read(fill(tmp_path / "set", IMAGES | {"metadata.csv": as_csv(rows)}))
    assert contents.columns["smiling"] == [1, 0, None]
    wanted = "5 of 7 rows of metadata.csv name missing files: missing0.png, missing1.png, missing2.png ..."
    assert contents.summary() == f"3 images; {wanted}"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (as_csv(header=("picture", "smiling", "hair")), "metadata.csv has no column file_name"),
        (as_csv([("x.png", "1", "red")]), "none of the 1 files that metadata.csv names exists; the first is x.png"),
        ("file_name,smiling\na.png,1,2\n", "can't be parsed as a table: line 2 has 3 values for 2 columns"),
        (b"\xff\xfe\x00", "metadata.csv can't be parsed as a table"),
        ("", "metadata.csv can't be parsed as a table"),
    ],
)
def test_a_metadata_table_that_is_wrong_is_an_error(read, tmp_path, content, words):
    with pytest.raises(ValueError, match=words):
        read(fill(tmp_path / "set", IMAGES | {"metadata.csv": content}))


def test_another_table_that_is_wrong_is_only_counted(read, tmp_path):
    files = IMAGES | {"notes.txt": "hello", "loss.csv": "step,loss\n1,2\n", "broken.jsonl": "{", "b.csv": b"\xff\xfe"}
    contents = read(fill(tmp_path / "set", files))
    assert contents.columns == {}
    assert contents.summary() == "3 images; 4 files not read: 2 .csv, 1 .jsonl, 1 .txt"


def test_a_table_can_not_name_a_file_elsewhere(read, tmp_path):
    fill(tmp_path, {"secret.png": 9})
    table = as_csv([("a.png", "1", "red"), ("../secret.png", "1", "x"), (str(tmp_path / "secret.png"), "1", "y")])
    contents = read(fill(tmp_path / "set", IMAGES | {"metadata.csv": table}))
    assert names(contents) == sorted(IMAGES)
    assert "2 of 3 rows of metadata.csv name missing files" in contents.summary()


@pytest.mark.parametrize("form", ["txt", "csv"])
def test_celeba(read, tmp_path, form):
    """The original download, and Kaggle's."""
    images = {f"img_align_celeba/{i:06}.jpg": i for i in (1, 2, 3)}
    if form == "txt":
        attributes = "3\nSmiling Male\n" + "".join(f"{i:06}.jpg {a:>2} {-a:>2}\n" for i, a in ((1, 1), (2, -1), (3, 1)))
        splits = "000001.jpg 0\n000002.jpg 1\n000003.jpg 2\n"
    else:
        attributes = "image_id,Smiling,Male\n000001.jpg,1,-1\n000002.jpg,-1,1\n000003.jpg,1,-1\n"
        splits = "image_id,partition\n000001.jpg,0\n000002.jpg,1\n000003.jpg,2\n"
    files = {f"list_attr_celeba.{form}": attributes, f"list_eval_partition.{form}": splits}
    contents = read(fill(tmp_path / "celeba", images | files))
    assert contents.columns["Smiling"] == [1, -1, 1]
    assert contents.splits == ["train", "validation", "test"]
    assert contents.in_split("train").columns == {"Smiling": [1], "Male": [-1]}
    assert contents.in_split("train").summary() == "1 image in split train (1 in validation, 1 in test)"


def test_captions_and_numbers_with_fractions_are_no_labels(read, tmp_path):
    rows = [f"{i}.png,a caption {i},{i}.5,{i % 2}" for i in range(3)]
    table = "\n".join(["file_name,text,score,even", *rows])
    columns = read(fill(tmp_path / "set", {f"{i}.png": i for i in range(3)} | {"metadata.csv": table})).label_columns()
    assert columns["even"].values == [0, 1, 0]
    assert set(columns) == {"text", "score", "even"}  # text is offered: three values may be classes


# Archives


@pytest.mark.parametrize("form", ["zip", "tar", "tar.gz", "tgz", "tar.bz2", "tar.xz"])
def test_archives_are_folders(listed, tmp_path, form):
    files = {"top/cat/a.png": 10, "top/dog/b.png": 20, "top/metadata.csv": b"file_name,big\ncat/a.png,1\ndog/b.png,0\n"}
    path = tmp_path / f"set.{form}"
    if form == "zip":
        zipped(path, files)
    else:
        tarred(path, files, {"tar": "w", "tar.gz": "w:gz", "tgz": "w:gz", "tar.bz2": "w:bz2", "tar.xz": "w:xz"}[form])
    for _ in range(2):
        listing = listed(path)
        contents = listing.contents(0, 2)
        assert [content.read() for content in contents] == [png(10), png(20)]
        assert listing.columns["class"]().values == ["cat", "dog"]
        assert listing.columns["big"]().values == [1, 0]
    assert list(tmp_path.glob("cache/unpacked/*")) == [] or form not in ("zip", "tar")


def test_archives_in_a_folder_are_folders_of_their_name(read, tmp_path):
    folder = fill(tmp_path / "set", {"bird/c.png": 3})
    zipped(folder / "cat.zip", {"a.png": 1})
    tarred(folder / "dog.tar.gz", {"b.png": 2}, "w:gz")
    assert read(folder).label_columns()["class"].values == ["bird", "cat", "dog"]


def test_webdataset(read, tmp_path):
    folder = tmp_path / "shards"
    folder.mkdir()
    for shard in range(2):
        files = {}
        for number in range(2):
            key = f"{2 * shard + number:06}"
            files |= {f"{key}.png": number, f"{key}.cls": b"%d" % number, f"{key}.txt": b"a caption"}
            files[f"{key}.json"] = json.dumps({"mood": "sad", "width": 16, "score": 0.5, "tags": ["x"]}).encode()
        tarred(folder / f"train-{shard:04}.tar", files)
    contents = read(folder)
    assert names(contents) == [f"{i:06}.png" for i in range(4)]
    columns = contents.label_columns()
    assert columns["class"].values == [0, 1, 0, 1]
    assert columns["mood"].values == ["sad"] * 4
    assert set(columns) == {"class", "mood", "width"}
    assert contents.summary() == "4 images; 4 files not read: 4 .txt captions"


def test_hidden_members_of_archives_are_skipped(read, tmp_path):
    files = {"a.png": 1, "__MACOSX/a.png": b"x", "__MACOSX/._a.png": b"x", ".DS_Store": b"x", ".git/b.png": 2}
    contents = read(zipped(tmp_path / "set.zip", files))
    assert (names(contents), contents.summary()) == (["a.png"], "1 image")


def test_names_that_lead_out_of_an_archive_are_not_read(read, tmp_path):
    hostile = ["/etc/a.png", "../a.png", "x/../../a.png", "C:/a.png", "..\\a.png", "\\\\host\\a.png"]
    contents = read(zipped(tmp_path / "set.zip", dict.fromkeys(hostile, 1) | {"good.png": 2}))
    assert names(contents) == ["good.png"]
    assert contents.summary() == "1 image; 6 files not read: 6 unsafe names in archives"
    contents = read(tarred(tmp_path / "set.tar", dict.fromkeys(hostile, 1) | {"good.png": 2}))
    assert contents.summary() == "1 image; 6 files not read: 6 unsafe names in archives"


def test_links_and_devices_in_archives_are_not_read(read, tmp_path):
    with tarfile.open(tmp_path / "set.tar", "w") as archive:
        for name, kind in (("a.png", tarfile.SYMTYPE), ("b.png", tarfile.LNKTYPE), ("c.png", tarfile.CHRTYPE)):
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, "/etc/passwd"
            archive.addfile(member)
        member = tarfile.TarInfo("d.png")
        member.size = len(png())
        archive.addfile(member, io.BytesIO(png()))
    wanted = "1 image; 3 files not read: 2 links in archives, 1 special files"
    assert read(tmp_path / "set.tar").summary() == wanted
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as archive:
        link = zipfile.ZipInfo("a.png")
        link.external_attr = 0o120777 << 16
        archive.writestr(link, "/etc/passwd")
        archive.writestr("b.png", png())
    assert read(tmp_path / "set.zip").summary() == "1 image; 1 file not read: 1 links in archives"


def test_zip_bombs(read, tmp_path):
    with zipfile.ZipFile(tmp_path / "set.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("bomb.png", bytes(40 << 20))
    with pytest.raises(ValueError, match=r"would decompress to 41,943,040: it looks like a zip bomb"):
        read(tmp_path / "set.zip")
    with zipfile.ZipFile(tmp_path / "mixed.zip", "w") as archive:
        archive.writestr("noise.png", os.urandom(1 << 20))
        archive.writestr("bomb.png", bytes(40 << 20), zipfile.ZIP_DEFLATED)
    assert read(tmp_path / "mixed.zip").summary() == "1 image; 1 file not read: 1 too large when decompressed"
    with tarfile.open(tmp_path / "set.tar.gz", "w:gz") as archive:
        member = tarfile.TarInfo("bomb.png")
        member.size = 40 << 20
        archive.addfile(member, io.BytesIO(bytes(member.size)))
    with pytest.raises(ValueError, match="it looks like a zip bomb"):
        read(tmp_path / "set.tar.gz")
    assert list((tmp_path / "cache").rglob("*.tar*")) == []


def test_a_zip_that_lies_about_sizes(tmp_path):
    """The header says 100 bytes, the data are 40 MB: no more is read than announced."""
    path = zipped(tmp_path / "set.zip", {"a.png": bytes(100)})
    lying = Member(path, "a.png", None, 50)
    with pytest.raises(UnreadableMemberError, match="has 51 bytes instead of 50"):
        lying.read()
    with pytest.raises(UnreadableMemberError, match="can't be read from its archive"):
        Member(path, "missing.png", None, 50).read()


def test_an_image_that_is_too_large(read, tmp_path, monkeypatch):
    monkeypatch.setattr("fagan_hf.data.archives.MAX_MEMBER_BYTES", 100)
    assert MAX_MEMBER_BYTES > 100
    contents = read(zipped(tmp_path / "set.zip", {"a.png": png()[:99], "b.png": bytes(101)}))
    assert (names(contents), "larger than" in contents.summary()) == (["a.png"], True)


def test_too_many_members(read, tmp_path, monkeypatch):
    monkeypatch.setattr("fagan_hf.data.archives.MAX_MEMBERS", 2)
    files = {f"{i}.png": 1 for i in range(4)}
    for path in (zipped(tmp_path / "a.zip", files), tarred(tmp_path / "a.tar", files)):
        with pytest.raises(ValueError, match="more than 2 members"):
            read(path)


@pytest.mark.parametrize("name", ["set.zip", "set.tar", "set.tar.gz", "set.tar.xz"])
@pytest.mark.parametrize("content", [b"", b"text", b"PK\x03\x04", bytes(5000)], ids=["empty", "text", "cut", "zeros"])
def test_damaged_archives(read, tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=r"damaged or not an archive|contains no images"):
        read(tmp_path / name)


def test_encrypted_members(read, tmp_path):
    path = zipped(tmp_path / "set.zip", {"a.png": 1, "b.png": 2})
    data = bytearray(path.read_bytes())
    at = data.index(b"PK\x01\x02")
    data[at + 8] |= 1
    path.write_bytes(data)
    assert read(path).summary() == "1 image; 1 file not read: 1 encrypted"
