"""Steps as CUDA graphs. Tests that need a GPU are skipped without one; benchmarks/gpu runs them."""

import pytest
import torch

from fagan_hf.training.step.compilation import check_compilation
from fagan_hf.training.step.cuda_graphs import _own, _tensors
from fagan_hf.training.step.regularization import PenaltyDraws
from fagan_hf.training.step.steps import MicroBatch

CUDA = torch.device("cuda")


def micro_batches(noise=None):
    real, augment = torch.rand(2, 3, 8, 8), torch.zeros(2, 0, 3)
    draws = PenaltyDraws(real_noise=noise)
    return [
        MicroBatch(real, augment, torch.randn(2, 8), augment, penalty_draws=draws),
        MicroBatch(real, augment, torch.randn(2, 8), augment),
    ]


def test_a_graphs_batch_is_a_copy_that_shares_what_was_shared():
    given = micro_batches(noise=torch.randn(2, 3, 8, 8))
    mine = _own(given)
    assert mine[0].real is mine[1].real
    assert mine[0].latents is not mine[1].latents
    inputs, originals = list(_tensors(mine)), list(_tensors(given))
    assert len(inputs) == 5  # real, no distortions, two latents, noise
    for copy, original in zip(inputs, originals, strict=True):
        assert copy is not original
        assert torch.equal(copy, original)


def test_another_batch_goes_where_the_graph_reads():
    mine, following = _own(micro_batches()), micro_batches()
    for copy, given in zip(_tensors(mine), _tensors(following), strict=True):
        copy.copy_(given)
    assert torch.equal(mine[1].real, following[0].real)
    assert torch.equal(mine[1].latents, following[1].latents)


@pytest.mark.parametrize(
    ("options", "words"),
    [({"processes": 2}, "2 processes share a step"), ({"accumulation": 4}, "gradient_accumulation is 4")],
)
def test_what_no_graph_holds_is_refused(options, words):
    check_compilation("kernels", CUDA, **options)
    with pytest.raises(ValueError, match=words):
        check_compilation("cuda_graphs", CUDA, **options)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_on_cuda_a_run_is_the_same_however_it_is_launched_and_goes_on(make_recipe):
    """Captured or not, in one go or with a restart; the learning rate changes from step to step."""
    from tests.sessions import train

    def weights(name, *lengths, how):
        for length in lengths:
            session = train(
                make_recipe(
                    name=name, compile=how, max_images=length, warmup_images=40, r1_gamma=1.0, penalty_every_steps=2
                )
            )
        return torch.cat([each.detach().flatten() for each in session.generator.parameters()])

    eager, graphed, resumed = (
        weights("eager", 96, how="no"),
        weights("graphed", 96, how="cuda_graphs"),
        weights("resumed", 48, 96, how="cuda_graphs"),
    )
    torch.testing.assert_close(graphed, eager, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(resumed, graphed, rtol=1e-3, atol=1e-4)
