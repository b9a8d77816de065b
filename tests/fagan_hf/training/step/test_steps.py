import copy
import dataclasses

import pytest
import torch
from torch.optim import SGD
from torch.utils._python_dispatch import TorchDispatchMode

from fagan_hf.architectures.conditioning import with_labels
from fagan_hf.architectures.specs import DropoutSpec
from fagan_hf.augmentations import AUGMENTATIONS, draw_augmentation
from fagan_hf.layers import refresh_spectral_norms
from fagan_hf.losses import LOSSES
from fagan_hf.models import Discriminator, Generator
from fagan_hf.penalties import (
    approximate_gradient_penalty,
    wasserstein_gradient_penalty,
    zero_centered_gradient_penalty,
)
from fagan_hf.training.distributed.processes import Processes
from fagan_hf.training.step import steps
from fagan_hf.training.step.adaptive import AugmentProbability
from fagan_hf.training.step.freezing import freeze_layers
from fagan_hf.training.step.regularization import PenaltyDraws, Regularization
from fagan_hf.training.step.steps import MicroBatch, Player, Trainer
from tests.small import DISCRIMINATOR, GENERATOR


def micro_batches(count, size=8):
    none = torch.zeros(size, 0, 3)
    return [
        MicroBatch(torch.rand(size, 3, 8, 8) * 2 - 1, none, torch.randn(size, 8), none) for _ in range(count)
    ]  # fmt: skip


def make(loss="relativistic_hinge", max_gradient_norm=None, discriminator=None):
    torch.manual_seed(0)
    networks = Generator(GENERATOR), discriminator or Discriminator(DISCRIMINATOR)
    players = [
        Player(network, SGD(network.parameters(), lr=0.1, fused=True), max_gradient_norm) for network in networks
    ]
    return Trainer(Processes(), *players, LOSSES[loss], policy=())


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
    assert set(numbers) == {
        "discriminator_loss", "real_logit", "fake_logit", "real_accuracy", "fake_accuracy", "real_variance",
        "fake_variance", "discriminator_gradient_norm", "discriminator_skipped",
    }  # fmt: skip
    assert not changed(generator, before[0])
    assert len(changed(discriminator, before[1])) >= 4

    before = state(generator), state(discriminator)
    numbers = trainer.generator_step(micro_batches(1))
    assert set(numbers) == {"generator_loss", "generator_gradient_norm", "generator_skipped"}
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


@pytest.mark.parametrize("loss", LOSSES)
def test_no_graph_is_built_that_nobody_needs(loss):
    """No generator graph in the discriminator's step; in the generator's, none of real images and of D's weights."""
    trainer, graphs = make(loss), []
    trainer.bare_generator.register_forward_hook(lambda *args: graphs.append(("G", args[-1].requires_grad)))
    trainer.bare_discriminator.register_forward_hook(lambda *args: graphs.append(("D", args[-1].requires_grad)))
    trainer.discriminator_step(micro_batches(1))
    assert graphs == [("G", False), ("D", True), ("D", True)]
    graphs.clear()
    trainer.bare_discriminator.layers[0].register_forward_pre_hook(
        lambda module, _: graphs.append(("weights", any(each.requires_grad for each in module.parameters())))
    )
    trainer.generator_step(micro_batches(1))
    real = [("weights", False), ("D", False)] if LOSSES[loss].is_relative else []
    assert graphs == [*real, ("G", True), ("weights", False), ("D", True)]


def test_three_micro_batches_are_one_batch():
    """Without batch norm and spectral norm, which depend on other images or calls."""
    plain = [dataclasses.replace(layer, spectral_norm=False, batch_norm=False) for layer in DISCRIMINATOR.layers]
    network = Discriminator(dataclasses.replace(DISCRIMINATOR, layers=tuple(plain)))
    parts = micro_batches(3)
    names = ("real", "real_augment", "latents", "fake_augment")
    whole = MicroBatch(*(torch.cat([getattr(part, name) for part in parts]) for name in names))
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
    monkeypatch.setattr(steps, "augment", lambda images, draws, policy, probability: seen.append(policy) or images)
    trainer.discriminator_step(micro_batches(1))
    trainer.generator_step(micro_batches(1))
    assert seen == [("cutout",)] * 4


NAMES = ("a", "b", "c")


def conditional(loss="hinge", conditioning="projection", **regularization):
    torch.manual_seed(0)
    configs = with_labels((GENERATOR, DISCRIMINATOR), NAMES, conditioning)
    networks = Generator(configs[0]), Discriminator(configs[1])
    players = [Player(network, SGD(network.parameters(), lr=0.1, fused=True)) for network in networks]
    return Trainer(Processes(), *players, LOSSES[loss], (), Regularization(**regularization))


def with_labels_of(batch, wrong=False):
    labels = torch.eye(3)[torch.arange(len(batch.real)) % 3]
    return dataclasses.replace(batch, labels=labels, wrong_labels=labels.roll(1, 1) if wrong else None)


@pytest.mark.parametrize("conditioning", ["concatenation", "projection"])
def test_labels_reach_both_players(conditioning):
    trainer = conditional(conditioning=conditioning)
    seen = []
    for network in (trainer.bare_generator, trainer.bare_discriminator):
        network.register_forward_pre_hook(lambda module, args: seen.append((type(module).__name__, args[1])))
    [batch] = map(with_labels_of, micro_batches(1))
    trainer.discriminator_step([batch])
    trainer.generator_step([batch])
    assert [name for name, _ in seen] == ["Generator", "Discriminator", "Discriminator", "Generator", "Discriminator"]
    assert all(torch.equal(labels, batch.labels) for _, labels in seen)


def test_a_matching_aware_discriminator_learns_labels():
    """After a step, logits rise for real images with their labels, and fall for fakes and wrong labels."""
    trainer, calls = conditional(), []
    trainer.bare_discriminator.register_forward_hook(lambda _, args, out: calls.append((args, out)))
    [batch] = [with_labels_of(each, wrong=True) for each in micro_batches(1)]
    numbers = trainer.discriminator_step([batch])
    (real, fake, wrong) = (out for _, out in calls)
    assert [torch.equal(args[1], batch.labels) for args, _ in calls] == [True, True, False]
    assert torch.equal(calls[2][0][0], batch.real)
    hinge = LOSSES["hinge"].discriminator
    expected = (hinge(real, fake) + hinge(real, wrong)) / 2
    assert numbers["discriminator_loss"].item() == pytest.approx(expected.item())
    assert numbers["wrong_label_logit"].item() == pytest.approx(wrong.mean().item())


PENALTIES = {
    "r1": {"r1_gamma": 2.0},
    "r2": {"r2_gamma": 2.0},
    "wasserstein_penalty": {"wasserstein_weight": 1.0},
}


def draws(size=8):
    return PenaltyDraws(torch.rand(size), torch.randn(size, 3, 8, 8), torch.randn(size, 3, 8, 8))


@pytest.mark.parametrize("sigma", [None, 0.01], ids=["exact", "approximate"])
@pytest.mark.parametrize("name", PENALTIES)
def test_penalties_are_added_with_their_weight(name, sigma):
    """The gradient with a penalty minus the one without it is that of the penalty."""
    [batch] = [dataclasses.replace(with_labels_of(each), penalty_draws=draws()) for each in micro_batches(1)]
    moved = []
    for rules in ({}, PENALTIES[name]):
        trainer = conditional(**rules, sigma=sigma)
        trainer.bare_generator.eval(), trainer.bare_discriminator.eval()
        torch.nn.init.constant_(trainer.bare_discriminator.layers[0].alpha, 0.3)
        before = state(trainer.bare_discriminator)
        numbers = trainer.discriminator_step([batch])
        moved.append({key: tensor - before[key] for key, tensor in state(trainer.bare_discriminator).items()})
        assert (name in numbers) == bool(rules)

    trainer = conditional()
    trainer.bare_generator.eval(), trainer.bare_discriminator.eval()
    torch.nn.init.constant_(trainer.bare_discriminator.layers[0].alpha, 0.3)
    network = trainer.bare_discriminator
    refresh_spectral_norms(network, iterations=1)  # as at the start of a step
    fake = trainer.bare_generator(batch.latents, batch.labels)

    def critic(images):
        return network(images, batch.labels)

    images = batch.real if name == "r1" else fake
    if name == "wasserstein_penalty":
        penalty = wasserstein_gradient_penalty(critic, batch.real, fake, batch.penalty_draws.mix)
    elif sigma is None:
        penalty = zero_centered_gradient_penalty(critic, images)
    else:
        noise = batch.penalty_draws.real_noise if name == "r1" else batch.penalty_draws.fake_noise
        penalty = approximate_gradient_penalty(critic, images, noise, sigma)
    assert numbers[name].item() == pytest.approx(penalty.item(), rel=1e-4)
    penalty.backward()  # gamma is 2, and the weight is half of it
    for key, parameter in network.named_parameters():
        step = torch.zeros_like(parameter) if parameter.grad is None else -0.1 * parameter.grad
        torch.testing.assert_close(moved[1][key] - moved[0][key], step, atol=2e-5, rtol=1e-3)


def test_lazy_penalties_come_seldom_and_count_more():
    trainer = conditional(r1_gamma=2.0, every_steps=4)
    [batch] = map(with_labels_of, micro_batches(1))
    seen = ["r1" in trainer.discriminator_step([batch], step=step) for step in range(9)]
    assert seen == [True, False, False, False, True, False, False, False, True]
    rules = Regularization(r1_gamma=2.0, r2_gamma=6.0, wasserstein_weight=10.0, every_steps=4)
    weights = {
        name: weight
        for name, (weight, _) in rules.penalize(lambda x: x.sum((1, 2, 3)), batch.real, batch.real, draws()).items()
    }
    assert weights == {"r1": 4, "r2": 12, "wasserstein_penalty": 40}


def test_penalties_are_computed_in_full_precision(monkeypatch):
    """Without the autocast that Accelerate wraps around the network."""
    trainer = conditional(r1_gamma=1.0)
    bare, seen = trainer.bare_discriminator, []
    inner = type(bare).forward

    def forward(images, labels=None):  # as Accelerate wraps a network
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return inner(bare, images, labels).float()

    monkeypatch.setattr(bare, "forward", forward)
    bare.layers[0].register_forward_hook(lambda *_: seen.append(torch.is_autocast_enabled("cpu")))
    trainer.discriminator_step([with_labels_of(each) for each in micro_batches(1)])
    assert seen == [True, True, False]


def vectors(network):
    return [buffer.clone() for name, buffer in network.named_buffers() if name.endswith((".u", ".v"))]


@pytest.mark.parametrize("parts", [1, 3])
@pytest.mark.parametrize("loss", ["hinge", "relativistic_hinge"])
def test_spectral_norms_move_once_in_their_networks_step(loss, parts):
    """Whatever the number of micro-batches and passes, and with penalties."""
    trainer = conditional(loss, r1_gamma=1.0)
    networks = trainer.bare_generator, trainer.bare_discriminator
    batches = [with_labels_of(each) for each in micro_batches(parts)]
    for step, moving in ((trainer.discriminator_step, 1), (trainer.generator_step, 0)):
        expected = [copy.deepcopy(network) for network in networks]
        refresh_spectral_norms(expected[moving], iterations=1)
        step(batches)
        for network, other in zip(networks, expected, strict=True):
            assert vectors(other)
            assert all(map(torch.equal, vectors(network), vectors(other)))


@pytest.mark.parametrize("max_gradient_norm", [None, 1e-3])
@pytest.mark.parametrize("loss", LOSSES)
def test_both_steps_of_every_loss_are_those_of_the_whole_batch(loss, max_gradient_norm):
    """Including the gradient, for losses that compare each logit with the mean of all."""
    plain = [
        tuple(
            dataclasses.replace(
                layer, **{name: False for name in ("spectral_norm", "batch_norm") if hasattr(layer, name)}
            )
            for layer in config.layers
        )
        for config in (GENERATOR, DISCRIMINATOR)
    ]
    networks = [
        kind(dataclasses.replace(config, layers=layers)).double()
        for kind, config, layers in zip((Generator, Discriminator), (GENERATOR, DISCRIMINATOR), plain, strict=True)
    ]
    parts = [
        MicroBatch(*(getattr(each, name).double() for name in ("real", "real_augment", "latents", "fake_augment")))
        for each in micro_batches(3, size=4)
    ]
    names = ("real", "real_augment", "latents", "fake_augment")
    whole = MicroBatch(*(torch.cat([getattr(part, name) for part in parts]) for name in names))
    outcomes = []
    for batches in (parts, [whole]):
        generator, discriminator = copy.deepcopy(networks)
        torch.nn.init.constant_(discriminator.layers[0].alpha, 0.3)
        players = [
            Player(network, SGD(network.parameters(), lr=0.1, fused=True), max_gradient_norm)
            for network in (generator, discriminator)
        ]
        trainer = Trainer(Processes(), *players, LOSSES[loss], policy=())
        numbers = trainer.discriminator_step(batches) | trainer.generator_step(batches)
        outcomes.append(
            (numbers, {**state(generator), **{f"d.{key}": each for key, each in state(discriminator).items()}})
        )
    (numbers, moved), (whole_numbers, whole_moved) = outcomes
    for name, tensor in moved.items():
        torch.testing.assert_close(tensor, whole_moved[name], msg=lambda text, name=name: f"{name}: {text}")
    for name in numbers.keys() - {"real_variance", "fake_variance", "real_accuracy", "fake_accuracy"}:
        assert numbers[name].item() == pytest.approx(whole_numbers[name].item(), rel=1e-9, abs=1e-12), name


def test_passes_with_a_graph_see_the_dropout_of_those_without():
    """With penalties in between, which also use random numbers."""
    first, last = DISCRIMINATOR.layers
    config = dataclasses.replace(DISCRIMINATOR, layers=(first, DropoutSpec(probability=0.5), last))
    torch.manual_seed(0)
    networks = Generator(GENERATOR), Discriminator(config)
    players = [Player(network, SGD(network.parameters(), lr=0.1, fused=True)) for network in networks]
    trainer = Trainer(
        Processes(), *players, LOSSES["relativistic_hinge"], (), Regularization(r1_gamma=1.0, wasserstein_weight=1.0)
    )
    batches = [dataclasses.replace(each, penalty_draws=draws()) for each in micro_batches(3)]
    inner, calls = trainer._among_all, []

    def spy(own, others, index):
        calls.append((own, others[index][0]))
        return inner(own, others, index)

    trainer._among_all = spy
    trainer.discriminator_step(batches)
    assert len(calls) == 3
    for own, before in calls:
        torch.testing.assert_close(torch.stack(list(own.values())), before)


class Synchronizations(TorchDispatchMode):
    """Counts synchronizations with the device: numbers that are read back."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.name()
        if name.startswith(("aten::_local_scalar_dense", "aten::nonzero", "aten::is_nonzero", "aten::equal")):
            self.names.append(name)
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("loss", LOSSES)
def test_a_step_reads_no_number_back_from_the_device(loss):
    trainer = make(loss, max_gradient_norm=1.0)
    trainer.regularization = Regularization(r1_gamma=1.0, r2_gamma=1.0)
    with Synchronizations() as seen:
        trainer.discriminator_step(micro_batches(2))
        trainer.generator_step(micro_batches(2))
    assert seen.names == []
    with Synchronizations() as seen:
        torch.ones(2).sum().item()
    assert len(seen.names) == 1  # the detection works


def augmented(batches):
    numbers = [
        draw_augmentation(torch.Generator().manual_seed(1), 8, tuple(AUGMENTATIONS), by_chance=True) for _ in range(2)
    ]
    return [dataclasses.replace(each, real_augment=numbers[0], fake_augment=numbers[1]) for each in batches]


@pytest.mark.parametrize("loss", LOSSES)
def test_an_adaptive_probability_is_adapted_without_reading_back(loss):
    trainer = make(loss)
    trainer.policy = tuple(AUGMENTATIONS)
    trainer.probability = AugmentProbability(torch.device("cpu"), 0.5, target=1e-6, change=0.1)
    batches = augmented(micro_batches(2))
    with Synchronizations() as seen:
        found = [trainer.step(batches, batches, step) for step in range(5)]
    assert seen.names == []
    assert [each["augment_probability"].item() for each in found[:4]] == [0.5] * 4
    mean = torch.stack([each["overfitting"] for each in found[:4]]).mean()
    moved = 0.1 if mean > 1e-6 else -0.1
    assert found[4]["augment_probability"].item() == pytest.approx(0.5 + moved)


def test_the_overfitting_is_measured_on_real_images_of_all_micro_batches():
    trainer = make("hinge")
    trainer.probability = AugmentProbability(torch.device("cpu"), 0.5, target=0.6, change=0.1)
    logits = []
    trainer.bare_discriminator.register_forward_hook(lambda *args: logits.append(args[-1].detach()))
    numbers = trainer.discriminator_step(augmented(micro_batches(2)))
    real = torch.cat([logits[0], logits[2]])
    assert numbers["overfitting"].item() == pytest.approx(real.sign().mean().item())


def test_a_constant_probability_is_not_adapted():
    trainer = make()
    trainer.policy = tuple(AUGMENTATIONS)
    trainer.probability = AugmentProbability(torch.device("cpu"), 0.5)
    numbers = trainer.step(augmented(micro_batches(1)), augmented(micro_batches(1)), 0)
    assert "overfitting" not in numbers
    assert trainer.probability.state.tolist() == [0.5, 0, 0]


@pytest.mark.parametrize("regularization", [{}, {"r1_gamma": 1.0}], ids=["plain", "penalized"])
def test_frozen_layers_stay_to_the_bit_and_let_gradients_through(regularization):
    torch.manual_seed(0)
    first, last = DISCRIMINATOR.layers
    middle = dataclasses.replace(first, in_channels=16, kernel_size=3, stride=1, padding=1)
    config = dataclasses.replace(
        DISCRIMINATOR, layers=(dataclasses.replace(first, batch_norm=True), DropoutSpec(probability=0.5), middle, last)
    )
    networks = Generator(GENERATOR), Discriminator(config)
    freeze_layers(networks[1], 2)
    players = [Player(network, SGD(network.parameters(), lr=0.1, fused=True)) for network in networks]
    rules = Regularization(**regularization)
    trainer = Trainer(Processes(), *players, LOSSES["hinge"], (), rules, frozen_layers=2)
    before = [{key: each.clone() for key, each in network.state_dict().items()} for network in networks]
    images = torch.randn(4, 3, 8, 8)
    was = networks[1].layers[:2](images)
    for step in range(2):
        trainer.step(micro_batches(2), micro_batches(2), step)
    after = [network.state_dict() for network in networks]
    frozen = {key for key in before[1] if key.startswith(("layers.0.", "layers.1."))}
    moved = {key for key in before[1] if not torch.equal(before[1][key], after[1][key])}
    assert frozen
    assert not moved & frozen
    assert {key.split(".")[1] for key in moved} == {"2", "3"}
    assert any(key.endswith(".u") for key in moved)
    assert torch.equal(networks[1].layers[:2](images), was)  # without dropout and batch statistics
    assert any(not torch.equal(before[0][key], after[0][key]) for key in before[0])
    assert {key.split(".")[1] for key, each in networks[1].named_parameters() if each.requires_grad} == {"2", "3"}
