import argparse

import pytest

from fagan_hf.commands.switches import add_switch, spelled_out


@pytest.fixture
def parse():
    parser = argparse.ArgumentParser()
    add_switch(parser, "--by-label", "rows by label")
    add_switch(parser, "--loop", "return to the first seed", default=True)
    parser.add_argument("--seeds")
    parser.add_argument("model", nargs="?")
    return lambda *arguments: parser.parse_args(spelled_out(arguments, parser))


@pytest.mark.parametrize(
    ("arguments", "by_label", "loop"),
    [
        ([], False, True),
        (["--by-label"], True, True),
        (["--by-label", "true"], True, True),
        (["--by-label=false"], False, True),
        (["--no-by-label"], False, True),
        (["--no-loop"], False, False),
        (["--no-loop", "false"], False, True),
        (["--loop", "--no-loop"], False, False),
    ],
)
def test_three_forms(parse, arguments, by_label, loop):
    options = parse(*arguments)
    assert (options.by_label, options.loop) == (by_label, loop)


def test_what_follows_a_switch_is_not_taken_for_its_value(parse):
    options = parse("--by-label", "runs/faces", "--seeds", "0-3")
    assert (options.by_label, options.model, options.seeds) == (True, "runs/faces", "0-3")


def test_another_value_is_refused(parse, capsys):
    with pytest.raises(SystemExit, match="2"):
        parse("--by-label=maybe")
    assert "it must be true or false" in capsys.readouterr().err
