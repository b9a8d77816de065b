"""A run with custom layers: started, resumed without its file, fine-tuned, its card and errors read."""

import shutil
import sys
from pathlib import Path

import pytest
import yaml

from fagan_hf.architectures.specs import LAYER_SPECS
from fagan_hf.layers import LAYERS
from fagan_hf.training.flags import build_recipe, parse_recipe
from fagan_hf.training.run.session import setup
from tests.sessions import train

MINE = """
import dataclasses
from dataclasses import dataclass
from typing import ClassVar

from fagan_hf.architectures import SelfAttentionSpec
from fagan_hf.layers import SelfAttention, register_layer
from tests.small import DISCRIMINATOR, GENERATOR


@dataclass(frozen=True, kw_only=True)
class MineSpec(SelfAttentionSpec):
    type: ClassVar[str] = "test_mine"


class Mine(SelfAttention):
    pass


register_layer(MineSpec, Mine)
first, _, last = GENERATOR.layers
GENERATOR = dataclasses.replace(GENERATOR, layers=(first, MineSpec(in_channels=16), last))
"""


def forget_code():
    """Be as a new process that has imported none of it."""
    LAYER_SPECS.pop("test_mine", None), LAYERS.pop("test_mine", None)
    for name in [name for name in sys.modules if name.startswith("fagan_architecture_")]:
        del sys.modules[name]


@pytest.fixture
def mine(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(MINE)
    yield path
    forget_code()


@pytest.fixture
def begun(make_recipe, mine):
    """Flags of a run that has seen 8 images."""
    recipe = make_recipe(model=str(mine), max_images=8)
    train(recipe)
    forget_code()
    return {name: value for name, value in recipe.to_plain().items() if name != "max_images"} | {"max_images": 16}


def test_a_file_that_is_gone(begun, mine, capsys):
    elsewhere = mine.rename(mine.parent / "elsewhere.py")
    with pytest.raises(ValueError, match=r"test_mine.*must be registered first.*--import"):
        build_recipe(**begun)
    assert train(build_recipe(**begun | {"imports": [str(elsewhere)]})).images_seen == 16
    assert "mine.py is gone" in capsys.readouterr().out


def test_a_file_that_has_moved(begun, mine):
    elsewhere = mine.rename(mine.parent / "elsewhere.py")
    assert train(build_recipe(**begun | {"model": str(elsewhere)})).images_seen == 16


def test_another_architecture_is_still_refused(begun, mine):
    mine.write_text(MINE.replace("in_channels=16", "in_channels=16, squeeze_factor=4"))
    with pytest.raises(ValueError, match=r"was started with another architecture"):
        setup(build_recipe(**begun))


def test_a_json_file_that_is_gone(make_recipe, mine):
    recipe = make_recipe()
    path = mine.with_suffix(".json")
    train(recipe)
    (recipe.run_dir / "architecture.json").rename(path)
    fields = recipe.to_plain() | {"name": "again", "model": str(path), "max_images": 8}
    train(build_recipe(**fields))
    path.unlink()
    assert train(build_recipe(**fields | {"max_images": 16})).images_seen == 16


def test_resumed_and_fine_tuned_elsewhere(begun, mine):
    origin = str(Path(begun["output_dir"], begun["name"]))
    flags = [f"--{name}={begun[name]}" for name in ("dataset", "output_dir", "max_images", "cpu_threads")]
    for kind, seen in (("resume_from", 16), ("finetune_from", 16)):
        forget_code()
        arguments = [*flags, f"--{kind}={origin}", f"--name={kind}", f"--import={mine}"]
        assert train(parse_recipe(arguments)).images_seen == seen
        card = Path(begun["output_dir"], kind, "README.md").read_text()
        assert 'import_code("mine.py")  # registers test_mine' in card


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "nowhere.py' can't be imported: there is no such file"),
        ("1 / 0", "nowhere.py can't be run: ZeroDivisionError"),
    ],
    ids=["missing", "raises"],
)
def test_code_that_cannot_be_imported(content, message, tmp_path, capsys):
    path = tmp_path / "nowhere.py"
    if content:
        path.write_text(content)
    with pytest.raises(SystemExit):
        parse_recipe(["--name=x", "--model=fagan-32", f"--import={path}"])
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("how", ["resume_from", "finetune_from"])
def test_a_recipe_of_others_imports_nothing(begun, tmp_path, how):
    """Only its reader decides which code runs: the recipe of a downloaded model does not."""
    (tmp_path / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    run = Path(begun["output_dir"], begun["name"])
    shutil.copytree(run, tmp_path / "published")
    recipe = yaml.safe_load((run / "recipe.yaml").read_text())
    recipe |= {"imports": [str(tmp_path / "evil.py")], "model": "tiny"}
    (tmp_path / "published/recipe.yaml").write_text(yaml.safe_dump(recipe))
    flags = [f"--{how}", str(tmp_path / "published"), "--name", "other", "--model", "tiny"]
    assert parse_recipe([*flags, "--dataset", begun["dataset"]]).imports == ()
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    "flags",
    [
        ["--import={0}", "--import={1}"],
        ["--import", "{0}", "--name=x", "--imports", "{1}"],
        ["--import={0},{1}"],
        ["--import=[{0}]", "--import", "[{1}]"],
    ],
)
def test_several_files_are_imported_from_one_flag_or_several(tmp_path, flags):
    files = [tmp_path / "one.py", tmp_path / "two.py"]
    for file in files:
        file.write_text("")
    names = [str(file) for file in files]
    recipe = parse_recipe(["--model=fagan-32", "--name=x", *(flag.format(*names) for flag in flags)])
    assert recipe.imports == tuple(names)


def test_an_import_without_a_value_is_refused(capsys):
    with pytest.raises(SystemExit):
        parse_recipe(["--model=fagan-32", "--name=x", "--import"])
    assert "--imports needs a value" in capsys.readouterr().err
