import copy
import dataclasses

import pytest
import torch
from accelerate import Accelerator
from torch.optim import SGD

from fagan_hf.losses import LOSSES
from fagan_hf.models import Discriminator, Generator
from tests.small import DISCRIMINATOR, GENERATOR
from training.steps import MicroBatch, Player, Trainer


def micro_batches(count, size=8):
    none = torch.zeros(size, 0, 3)
    return [
        MicroBatch(torch.rand(size, 3, 8, 8) * 2 - 1, none, torch.randn(size, 8), none) for _ in range(count)
    ]  # fmt: skip


def make(loss="relativistic_hinge", max_gradient_norm=None, discriminator=None):
    torch.manual_seed(0)
    networks = Generator(GENERATOR), discriminator or Discriminator(DISCRIMINATOR)
    players = [Player(network, SGD(network.parameters(), lr=0.1), max_gradient_norm) for network in networks]
    return Trainer(Accelerator(cpu=True), *players, LOSSES[loss], policy=())


def state(network):
    return {name: tensor.clone() for name, tensor in network.named_parameters()}


def changed(network, before):
    return {name for name, tensor in network.named_parameters() if not torch.equal(tensor, before[name])}


@pytest.mark.parametrize("loss", LOSSES)
def test_each_step_moves_its_own_player_only(loss):
    trainer = make(loss)
    generator, discriminator = trainer.bare_generator, trainer.bare_discriminator
    before = state(generator), state(discriminator)
    numbers = trainer.discriminator_step(micro_batches(1))
    assert set(numbers) == {"discriminator_loss", "real_logit", "fake_logit"}
    assert not changed(generator, before[0])
    assert len(changed(discriminator, before[1])) >= 4

    before = state(generator), state(discriminator)
    assert set(trainer.generator_step(micro_batches(1))) == {"generator_loss"}
    assert len(changed(generator, before[0])) >= 4
    assert not changed(discriminator, before[1])
    assert all(parameter.requires_grad for parameter in discriminator.parameters())
    assert all(parameter.grad is None for parameter in discriminator.parameters())


@pytest.mark.parametrize("loss", LOSSES)
def test_the_discriminator_runs_twice_a_step_at_most(loss):
    trainer, calls = make(loss), []
    trainer.bare_discriminator.register_forward_hook(lambda *_: calls.append(1))
    trainer.discriminator_step(micro_batches(1))
    assert len(calls) == 2
    trainer.generator_step(micro_batches(1))
    assert len(calls) == (4 if LOSSES[loss].is_relative else 3)


def test_three_micro_batches_are_one_batch():
    """Without batch norm and spectral norm, which look at more than one image or call."""
    plain = [dataclasses.replace(layer, spectral_norm=False, batch_norm=False) for layer in DISCRIMINATOR.layers]
    network = Discriminator(dataclasses.replace(DISCRIMINATOR, layers=tuple(plain)))
    parts = micro_batches(3)
    whole = MicroBatch(
        *(torch.cat([getattr(part, field.name) for part in parts]) for field in dataclasses.fields(MicroBatch))
    )
    moved = []
    for batches in (parts, [whole]):
        trainer = make("hinge", discriminator=copy.deepcopy(network))
        trainer.bare_generator.eval()
        torch.nn.init.constant_(trainer.bare_discriminator.layers[0].alpha, 0.3)
        trainer.discriminator_step(batches)
        moved.append(state(trainer.bare_discriminator))
    for name, tensor in moved[0].items():
        torch.testing.assert_close(tensor, moved[1][name], msg=lambda text, name=name: f"{name}: {text}")


def test_gradients_are_shortened_if_asked_for():
    trainer = make(max_gradient_norm=1e-3)
    before = state(trainer.bare_discriminator)
    trainer.discriminator_step(micro_batches(1))
    moved = sum(
        (tensor - before[name]).square().sum() for name, tensor in trainer.bare_discriminator.named_parameters()
    )
    assert 0 < moved.sqrt().item() <= 0.1 * 1e-3 * 1.01


def test_augmentation_is_applied_to_real_and_fake(monkeypatch):
    trainer, seen = make(), []
    trainer.policy = ("cutout",)
    monkeypatch.setattr("training.steps.augment", lambda images, draws, policy: seen.append(policy) or images)
    trainer.discriminator_step(micro_batches(1))
    trainer.generator_step(micro_batches(1))
    assert seen == [("cutout",)] * 4
