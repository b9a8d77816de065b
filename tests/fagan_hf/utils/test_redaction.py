import pytest

from fagan_hf.utils.redaction import redact

TOKEN = "hf_" + "OnlyInTestsOnlyInTestsOnlyInTests" + "A"


@pytest.fixture(autouse=True)
def _no_stored_token(monkeypatch):
    monkeypatch.setattr("fagan_hf.utils.redaction.get_token", lambda: None)


@pytest.mark.parametrize(
    "text",
    ["{}", "--token={}", "'{}'", "x_{}", "{}_v2", "{}-x", "https://user:{}@huggingface.co", "a\n{}\nb", "{},{}"],
)
def test_what_has_the_form_of_a_token_is_hidden(text):
    assert redact(text.replace("{}", TOKEN)) == text.replace("{}", "REMOVED-TOKEN")


def test_the_older_form_is_hidden():
    assert redact("api_org_" + "OnlyInTestsOnlyInTests") == "REMOVED-TOKEN"


@pytest.mark.parametrize("token", ["eyJhbGciOi1.eyJzdWIiOiIx-_.SflKxwRJSM", "OnlyInTestsOnlyInTests1"])
def test_tokens_of_a_login_and_what_is_given_as_a_token_are_hidden(token):
    assert redact(f"as hf_oauth_{token}, or") == "as REMOVED-TOKEN, or"
    for text in ("--token={}", "?token={}&x", "token='{}'", 'f(token="{}")', "HF_TOKEN={} fagan-hf"):
        assert redact(text.replace("{}", token)) == text.replace("{}", "REMOVED-TOKEN")


@pytest.mark.parametrize(
    "text", ["token=os.environ['HF_TOKEN']", "token=True)", "token=my_own_token_of_the_hub", "token="]
)
def test_code_that_names_no_token_stays(text):
    assert redact(text) == text


@pytest.mark.parametrize("text", ["hf_transfer", "hf_hub_download", "half_attention", "hf download user/name", ""])
def test_other_words_stay(text):
    assert redact(text) == text


def test_tokens_of_another_form_are_known(monkeypatch):
    assert redact("with secret words", "secret") == "with REMOVED-TOKEN words"
    monkeypatch.setattr("fagan_hf.utils.redaction.get_token", lambda: "stored")
    assert redact("secret and stored", "secret") == "REMOVED-TOKEN and REMOVED-TOKEN"


@pytest.mark.parametrize("token", [None, True, False, ""])
def test_no_token_hides_nothing(token):
    assert redact("a b True False None", token) == "a b True False None"
