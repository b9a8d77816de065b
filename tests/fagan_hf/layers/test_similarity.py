import pytest
import torch

from fagan_hf.layers.similarity import build_similarity

HEADS = 2


def products(name, query, key):
    """Compute the input of the softmax, [batch, heads, queries, keys]."""
    similarity = build_similarity(name, HEADS).double()
    query, key = (each.flatten(2).unflatten(1, (HEADS, -1)) for each in similarity(query, key))
    return query.mT @ key


@pytest.fixture
def maps():
    return torch.randn(2, 6, 4, 4, dtype=torch.float64), torch.randn(2, 6, 2, 2, dtype=torch.float64)


def by_head(maps):
    query, key = (each.flatten(2).unflatten(1, (HEADS, -1)) for each in maps)
    return query.mT[..., :, None, :], key.mT[..., None, :, :]  # [batch, heads, queries or 1, 1 or keys, channels]


def test_cosine(maps):
    expected = 8 * torch.nn.functional.cosine_similarity(*by_head(maps), dim=-1)
    torch.testing.assert_close(products("cosine", *maps), expected, rtol=1e-4, atol=1e-4)


def test_cosine_is_bounded_by_its_scale(maps):
    assert products("cosine", *(1e6 * each for each in maps)).abs().max() <= 8 + 1e-5


def test_cosine_of_nothing_is_nothing():
    zeros = torch.zeros(1, 6, 2, 2, dtype=torch.float64, requires_grad=True)
    found = products("cosine", zeros, zeros)
    found.sum().backward()
    assert not found.any()
    assert zeros.grad.isfinite().all()


def test_negative_distance_up_to_what_softmax_does_not_see(maps):
    query, key = by_head(maps)
    expected = -(query - key).square().sum(-1) / 3**0.5
    torch.testing.assert_close(products("negative_distance", *maps).softmax(-1), expected.softmax(-1))


def test_dot_product(maps):
    query, key = by_head(maps)
    torch.testing.assert_close(products("dot_product", *maps), (query * key).sum(-1))
