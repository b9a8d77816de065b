import numpy as np
import torch

from fagan_hf.training.step.randomness import STREAMS, data_order, draw_latents, random_stream


def test_a_stream_is_a_function_of_seed_purpose_and_moment():
    def first(*arguments):
        return torch.rand(1, generator=random_stream(*arguments)).item()

    assert first(0, "flip", 64) == first(0, "flip", 64)
    others = {first(1, "flip", 64), first(0, "order", 64), first(0, "flip", 32)}
    assert len({first(0, "flip", 64), *others}) == 4
    assert len({first(0, stream, 0) for stream in STREAMS}) == len(STREAMS)


def test_each_epoch_sees_every_image_once_in_an_order_of_its_own():
    first, second = data_order(0, 0, 10, 10), data_order(0, 10, 10, 10)
    assert sorted(first) == sorted(second) == list(range(10))
    assert not np.array_equal(first, second)
    assert not np.array_equal(first, data_order(1, 0, 10, 10))


def test_the_order_does_not_depend_on_the_batches():
    whole = data_order(3, 0, 37, 10)
    parts = [data_order(3, start, min(4, 37 - start), 10) for start in range(0, 37, 4)]
    assert np.array_equal(np.concatenate(parts), whole)


def test_latents_are_standard_normal():
    latents = draw_latents(random_stream(0, "generator_latents", 0), 1000, 64)
    assert latents.shape == (1000, 64)
    assert abs(latents.mean()) < 0.01
    assert abs(latents.std() - 1) < 0.01
