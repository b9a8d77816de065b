import pytest

from fagan_hf.training.command import main


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["--dataset", "./nowhere"], "nowhere"),
        (["--batch_sise", "3"], "did you mean 'batch_size'?"),
        (["--batch_size", "1000"], "fewer than a batch of 1000"),
        (["--model", "dcgan-46"], "did you mean 'dcgan-64'?"),
    ],
)
def test_mistakes_end_with_a_sentence(pictures, tmp_path, monkeypatch, capsys, change, message):
    monkeypatch.setenv("FAGAN_CACHE", str(tmp_path / "cache"))
    arguments = ["--name", "x", "--model", "fagan-32", "--dataset", str(pictures), "--upscale", "true"]
    with pytest.raises(SystemExit) as end:
        main([*arguments, "--output_dir", str(tmp_path), *change])
    assert end.value.code == 2
    assert message in capsys.readouterr().err
