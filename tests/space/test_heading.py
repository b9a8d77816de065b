import pytest
from fagan_space import page


def test_the_heading_links_to_the_live_page(monkeypatch):
    monkeypatch.setenv(page.LIVE_PAGE, "https://you-page.static.hf.space/?model=you/faces#s=1&x=.5")
    sentence = page._link_to_live_page()
    assert "[The live page](https://you-page.static.hf.space/?model=you/faces#s=1&x=.5)" in sentence
    monkeypatch.delenv(page.LIVE_PAGE)
    assert not page._link_to_live_page()


@pytest.mark.parametrize("address", ["javascript:alert(1)", "you/page", "https://a b", "https://x/)[y](https://z"])
def test_what_is_no_address_of_a_page_is_refused(monkeypatch, address):
    monkeypatch.setenv(page.LIVE_PAGE, address)
    with pytest.raises(ValueError, match=r"FAGAN_LIVE_PAGE is .* it must be the address of a page"):
        page._link_to_live_page()
