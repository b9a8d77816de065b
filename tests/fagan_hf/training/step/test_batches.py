import shutil
import threading

import pytest
import torch

from fagan_hf.data.prepare import prepare_images
from fagan_hf.data.stream import open_stream
from fagan_hf.training.step.batches import Batches


@pytest.fixture
def make_batches(make_recipe):
    def make(process=0, processes=1, **changes):
        recipe = make_recipe(**changes)
        images = prepare_images(recipe.source(), progress=False)
        return Batches(images, recipe, 8, torch.device("cpu"), process, processes)

    return make


def joined(batches, images_seen, name):
    return [torch.cat([getattr(each, name) for each in player]) for player in batches.make(images_seen)]


def test_real_images_are_what_the_cache_holds(make_batches):
    batches = make_batches(horizontal_flip=False, batch_size=20)
    real, again = joined(batches, 0, "real")
    assert torch.equal(real, again)
    pixels, _ = batches.images.batch(range(20))
    expected = {tuple(image.flatten().tolist()) for image in pixels}
    assert {tuple(image.flatten().tolist()) for image in ((real + 1) * 127.5).round().byte()} == expected
    assert (real.min(), real.max()) == (-1, 1)


def test_half_of_them_are_mirrored(make_batches):
    plain, mirrored = (
        joined(make_batches(horizontal_flip=flip, batch_size=20), 0, "real")[0] for flip in (False, True)
    )
    is_mirrored = (plain != mirrored).flatten(1).any(1)
    assert torch.equal(mirrored[is_mirrored], plain[is_mirrored].flip(-1))
    assert 4 <= is_mirrored.sum() <= 16


@pytest.mark.parametrize("name", ["real", "latents", "real_augment", "fake_augment"])
def test_processes_and_micro_batches_share_one_batch(make_batches, name):
    """However the batch is shared, the same rows occur, each once."""

    def rows(processes, accumulation):
        changes = {"batch_size": 8, "gradient_accumulation": accumulation, "augment": ("color",)}
        parts = [make_batches(process, processes, **changes) for process in range(processes)]
        return sorted(tuple(row.flatten().tolist()) for part in parts for row in joined(part, 8, name)[1])

    assert rows(2, 1) == rows(1, 1)
    assert rows(2, 2) == rows(1, 4) == rows(1, 1)


def test_the_two_players_draw_different_latents(make_batches):
    for_discriminator, for_generator = joined(make_batches(), 0, "latents")
    assert not torch.equal(for_discriminator, for_generator)


def test_a_batch_is_a_function_of_the_images_seen(make_batches):
    used, fresh = make_batches(), make_batches()
    used.make(0), used.make(4)
    assert torch.equal(used.make(8)[0][0].real, fresh.make(8)[0][0].real)
    assert not torch.equal(used.make(8)[0][0].latents, used.make(4)[0][0].latents)


def test_more_processes_than_a_batch_can_have(make_batches):
    with pytest.raises(ValueError, match="batch_size is 4; it must be a multiple of 3, 3 processes times 1"):
        make_batches(0, 3)


def test_fewer_images_than_a_batch(make_batches):
    with pytest.raises(ValueError, match="has 20 images, fewer than a batch of 32; add images or use a smaller"):
        make_batches(batch_size=32)


def test_labels_belong_to_their_images_and_wrong_ones_do_not(make_batches, classes):
    batches = make_batches(dataset=str(classes), label_columns=("class",), matching_aware=True, batch_size=20)
    for_discriminator, for_generator = batches.make(0)
    assert batches.images.label_names == ("class=blue", "class=red")
    for batch in (*for_discriminator, *for_generator):
        is_blue = batch.real[:, 2].mean((1, 2)) > batch.real[:, 0].mean((1, 2))
        assert torch.equal(batch.labels, torch.stack([is_blue, ~is_blue], 1).float())
    assert torch.equal(for_discriminator[0].wrong_labels, 1 - for_discriminator[0].labels)
    assert for_generator[0].wrong_labels is None


def test_labels_are_shared_like_everything_else(make_batches, classes):
    fields = {"dataset": str(classes), "label_columns": ("class",), "matching_aware": True, "batch_size": 4}
    fields |= {"r1_gamma": 1.0, "approximate_penalties": True, "wasserstein_penalty": 1.0}
    [whole], _ = make_batches(**fields).make(8)
    halves = [make_batches(process, 2, **fields).make(8)[0][0] for process in range(2)]
    for name in ("labels", "wrong_labels"):
        assert torch.equal(torch.cat([getattr(half, name) for half in halves]), getattr(whole, name))
    for name in ("mix", "real_noise"):
        parts = [getattr(half.penalty_draws, name) for half in halves]
        assert torch.equal(torch.cat(parts), getattr(whole.penalty_draws, name))
    assert whole.penalty_draws.fake_noise is None


def test_numbers_for_penalties_are_drawn_when_they_are_due(make_batches):
    batches = make_batches(wasserstein_penalty=10.0, penalty_every_steps=2)
    mixes = [batches.make(images_seen)[0][0].penalty_draws.mix for images_seen in (0, 4, 8)]
    assert mixes[1] is None
    assert mixes[0].shape == (4,)
    assert not torch.equal(mixes[0], mixes[2])


def test_labels_that_are_all_the_same_can_not_be_wrong(make_batches, classes):
    shutil.rmtree(classes / "blue")
    with pytest.raises(ValueError, match="matching_aware is true, but all images have the same labels"):
        make_batches(dataset=str(classes), label_columns=("class",), matching_aware=True)


def test_another_attempt_draws_everything_anew(make_batches):
    fields = {"augment": ("color",), "r1_gamma": 1.0, "approximate_penalties": True, "wasserstein_penalty": 1.0}
    batches = make_batches(**fields)
    made = []
    for attempt in (0, 1, 2, 0):
        batches.go_to(8, attempt)
        made.append(batches.make(8)[0][0])
    for name in ("real", "latents", "real_augment", "fake_augment"):
        first, second, third, again = (getattr(each, name) for each in made)
        assert torch.equal(first, again)
        assert not torch.equal(first, second)
        assert not torch.equal(second, third)
    assert not torch.equal(made[0].penalty_draws.mix, made[1].penalty_draws.mix)


def test_another_attempt_still_goes_through_all_images(make_batches):
    batches = make_batches(batch_size=20, horizontal_flip=False)
    rows = []
    for attempt in (0, 1):
        batches.go_to(0, attempt)
        real = joined(batches, 0, "real")[0]
        rows.append(sorted(tuple(image.flatten().tolist()) for image in real))
    assert rows[0] == rows[1]


@pytest.fixture
def make_stream(make_recipe):
    opened = []

    def make(process=0, processes=1, **changes):
        recipe = make_recipe(streaming=True, horizontal_flip=False, **changes)
        images = open_stream(recipe.source(), seed=recipe.seed, process=process, processes=processes)
        opened.append(Batches(images, recipe, 8, torch.device("cpu"), process, processes))
        return opened[-1]

    yield make
    for batches in opened:
        batches.close()


def reals(batches, moments):
    return [batches.make(images_seen)[0][0].real for images_seen in moments]


def test_a_streamed_folder_is_entered_where_the_run_was(make_stream):
    """Also after its first epoch of 20 images, and after a rollback."""
    whole = reals(make_stream(), range(0, 40, 4))
    resumed = make_stream()
    resumed.go_to(28, 0)
    assert torch.equal(torch.cat(reals(resumed, range(28, 40, 4))), torch.cat(whole[7:]))
    returned, later = make_stream(), make_stream()
    returned.go_to(8, 1)
    again = reals(returned, range(8, 24, 4))
    later.go_to(16, 1)
    assert torch.equal(torch.cat(reals(later, (16, 20))), torch.cat(again[2:]))


def test_a_stream_begins_again_in_another_order(make_stream):
    batches = make_stream()
    first = reals(batches, (0, 4))
    batches.go_to(0, 1)
    second = reals(batches, (0, 4))
    batches.go_to(0, 1)  # as when the same checkpoint is restored twice
    assert not torch.equal(torch.cat(first), torch.cat(second))


def test_processes_share_a_stream(make_stream):
    parts = [make_stream(process, 2) for process in range(2)]
    assert [len(part.make(0)[0][0].real) for part in parts] == [2, 2]
    for part in parts:
        part.go_to(4, 0)
    seen = [image for part in parts for real in reals(part, range(4, 20, 4)) for image in real]
    assert len({tuple(image.flatten().tolist()) for image in seen}) == 16
    assert parts[0].content == parts[1].content


def equal(some, other):
    """Compare all tensors of the batches of both players."""
    return all(
        torch.equal(getattr(one, name), getattr(two, name))
        for player in zip(some, other, strict=True)
        for one, two in zip(*player, strict=True)
        for name in ("real", "latents", "real_augment", "fake_augment")
    )


def test_a_batch_made_ahead_is_the_same(make_batches):
    plain, ahead = make_batches(augment=("color",)), make_batches(augment=("color",))
    ahead.prefetch = True
    for images_seen in (0, 4, 8, 4, 16, 20):  # some are consecutive, some are not
        assert equal(ahead.make(images_seen), plain.make(images_seen))
    ahead.go_to(24, attempt=1)  # prefetched, but with the random numbers of the previous attempt
    plain.go_to(24, attempt=1)
    assert equal(ahead.make(24), plain.make(24))
    ahead.close()


def test_batches_are_made_ahead_in_a_thread(make_batches, monkeypatch):
    batches, seen = make_batches(), []
    batches.prefetch = True
    prepare = batches._prepare

    def spy(images_seen):
        seen.append((images_seen, threading.current_thread() is threading.main_thread()))
        return prepare(images_seen)

    monkeypatch.setattr(batches, "_prepare", spy)
    for images_seen in (0, 4, 8):
        batches.make(images_seen)
    batches.close()
    assert seen[:3] == [(0, True), (4, False), (8, False)]


def test_what_fails_ahead_is_raised_where_it_is_wanted(make_batches, monkeypatch):
    batches = make_batches()
    batches.prefetch = True
    read = batches.images.batch
    is_main = lambda: threading.current_thread() is threading.main_thread()  # noqa: E731
    monkeypatch.setattr(batches.images, "batch", lambda rows: read(rows) if is_main() else 1 / 0)
    batches.make(0)
    with pytest.raises(ZeroDivisionError):
        batches.make(4)
    batches.make(4)  # is not lost
    batches.close()


def test_a_cpu_has_better_to_do(make_batches):
    batches = make_batches()
    assert not batches.prefetch
    assert batches._ahead is None
