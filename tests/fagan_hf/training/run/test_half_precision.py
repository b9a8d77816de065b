"""Runs in float16, which CPUs compute slowly but as GPUs do, and runs that choose their precision themselves."""

import json

import pytest
import torch
from accelerate.state import AcceleratorState
from safetensors.torch import load_file

from fagan_hf.architectures.presets import PRESETS, flagship
from fagan_hf.layers import gates
from fagan_hf.training.distributed.processes import Processes
from fagan_hf.training.run import loop
from fagan_hf.training.run.session import setup
from fagan_hf.training.step import loss_scaling
from tests.sessions import after_step, train

FIELDS = {
    "model": "little",
    "mixed_precision": "fp16",
    "loss": "relativistic_pairing",
    "r1_gamma": 1.0,
    "r2_gamma": 1.0,
}
PLAYERS = ("generator", "discriminator")


@pytest.fixture(autouse=True)
def _little(monkeypatch):
    """The flagship at 8x8, with cosines and RMS norms, and no precision of an earlier run."""
    networks = flagship(image_size=8, latent_dim=8, generator=(16, 8), discriminator=(8,))
    monkeypatch.setitem(PRESETS, "little", networks)
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


def lines(recipe):
    return [json.loads(line) for line in (recipe.run_dir / "metrics.jsonl").read_text().splitlines()]


def saved(recipe):
    newest = max((recipe.run_dir / "checkpoints").iterdir())
    return {path.name: load_file(path) for path in sorted(newest.glob("*.safetensors"))}


def begun(make_recipe, **fields):
    """Set up a run with open gates, and return it with its first batch."""
    session = setup(make_recipe(**FIELDS | fields))
    for network in (session.generator, session.discriminator):
        for gate in gates(network).values():
            gate.data.fill_(0.4)
    return session, session.batches.make(0)


def gradients(session, player, batch):
    """Return a player's gradient at its optimizer's step."""
    optimizer = getattr(session.trainer, player).optimizer
    found = {}
    optimizer.step = lambda: found.update({"gradient": [p.grad.clone() for p in optimizer.param_groups[0]["params"]]})
    getattr(session.trainer, f"{player}_step")(batch)
    session.close()
    return torch.cat([each.flatten() for each in found["gradient"]])


def test_layers_compute_in_float16_and_the_rest_stays_in_float32(make_recipe):
    session, (for_discriminator, for_generator) = begun(make_recipe)
    seen = {}
    for name in PLAYERS:
        layer = getattr(session, name).layers[0]
        layer.query.register_forward_hook(lambda module, inputs, output, name=name: seen.update({name: output.dtype}))
    numbers = session.trainer.step(for_discriminator, for_generator, step=1)  # without penalties
    assert seen == dict.fromkeys(PLAYERS, torch.float16)
    assert {number.dtype for number in numbers.values()} == {torch.float32}
    assert {each.dtype for name in PLAYERS for each in getattr(session, name).parameters()} == {torch.float32}
    session.close()


# The generator's passes through both networks, and is a sum of much that cancels at the beginning.
@pytest.mark.parametrize(("player", "tolerance"), [("discriminator", 1e-2), ("generator", 5e-2)])
def test_gradients_are_those_of_float32(make_recipe, player, tolerance):
    index, found = PLAYERS[::-1].index(player), {}
    for precision in ("no", "fp16"):
        AcceleratorState._reset_state(reset_partial_state=True)
        session, batches = begun(make_recipe, name=precision, mixed_precision=precision)
        found[precision] = gradients(session, player, batches[index])
    assert found["no"].norm() > 1e-3
    difference = (found["fp16"] - found["no"]).norm() / found["no"].norm()
    assert 0 < difference < tolerance


@pytest.mark.parametrize("player", PLAYERS)
def test_an_overflow_concerns_one_player_only(make_recipe, player):
    session, (for_discriminator, for_generator) = begun(make_recipe)
    other = PLAYERS[1 - PLAYERS.index(player)]
    before = {name: [p.clone() for p in getattr(session, name).parameters()] for name in PLAYERS}
    parameter = getattr(session, player).layers[0].value.weight
    handle = parameter.register_hook(lambda gradient: gradient * float("nan"))
    numbers = session.trainer.step(for_discriminator, for_generator, step=0)
    handle.remove()
    assert (numbers[f"{player}_overflowed"], numbers[f"{player}_skipped"]) == (1, 0)
    assert (numbers[f"{other}_overflowed"], numbers[f"{other}_skipped"]) == (0, 0)
    scales = {name: scale.value for name, scale in session.trainer.loss_scales().items()}
    initial = loss_scaling.INITIAL
    assert scales == {f"{player}_loss_scale": initial / 2, f"{other}_loss_scale": initial}
    moved = {
        name: any(not torch.equal(p, q) for p, q in zip(getattr(session, name).parameters(), before[name], strict=True))
        for name in PLAYERS
    }
    assert moved == {player: False, other: True}
    session.close()


def test_a_run_resumes_to_the_bit_with_its_loss_scales(make_recipe, monkeypatch):
    monkeypatch.setattr(loss_scaling, "INITIAL", 2.0**40)  # the first steps overflow
    whole, halves = (make_recipe(**FIELDS, name=name, max_images=48) for name in ("whole", "halves"))
    train(whole)
    session = setup(halves)

    def stop():
        session.stop_request.is_made = session.images_seen >= 24

    after_step(monkeypatch, session, stop)
    loop.train(session)
    assert session.images_seen == 24
    AcceleratorState._reset_state(reset_partial_state=True)
    again = train(halves)
    assert again.images_seen == 48
    one, other = saved(whole), saved(halves)
    assert one.keys() == other.keys()
    for file, tensors in one.items():
        for name, tensor in tensors.items():
            assert torch.equal(tensor, other[file][name]), (file, name)
    scale = one["numbers.safetensors"]["discriminator_loss_scale"][0].item()
    assert scale < 2.0**40
    counts = {name: sum(line[f"{name}_steps"] for line in lines(whole)) for name in session.skipped.names}
    assert counts["discriminator_overflowed"] > 0
    assert counts["discriminator_skipped"] == counts["generator_skipped"] == 0


def test_a_run_in_float32_goes_on_in_float16_with_a_note(make_recipe):
    train(make_recipe(**FIELDS | {"mixed_precision": "no"}, max_images=8))
    AcceleratorState._reset_state(reset_partial_state=True)
    recipe = make_recipe(**FIELDS, max_images=16)
    train(recipe)
    assert any(
        "mixed_precision was 'no', is 'fp16' now" in event for line in lines(recipe) for event in line.get("events", [])
    )
    assert "generator_loss_scale" in lines(recipe)[-1]


def test_what_auto_chose_is_told_kept_and_noted_when_it_changes(make_recipe, monkeypatch, capfd):
    recipe = make_recipe(**FIELDS | {"mixed_precision": "auto"}, max_images=8)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True}, raising=False)
    train(recipe)
    assert "Layers compute in bfloat16, the best on this device" in capfd.readouterr().out
    facts = json.loads((recipe.run_dir / "facts.json").read_text())
    assert facts["training"]["precision"] == "bfloat16"
    assert "layers computed in | bfloat16" in (recipe.run_dir / "README.md").read_text()
    AcceleratorState._reset_state(reset_partial_state=True)
    monkeypatch.setattr(torch.cpu, "get_capabilities", dict, raising=False)
    recipe = make_recipe(**FIELDS | {"mixed_precision": "auto"}, max_images=16)
    train(recipe)
    [event] = [event for line in lines(recipe) for event in line.get("events", []) if "Resuming in" in event]
    assert event == "Resuming in float32 instead of bfloat16, which this device computes best in."


def test_processes_that_would_compute_differently_are_told(make_recipe, monkeypatch):
    monkeypatch.setattr(Processes, "broadcast_from_main", lambda self, value: "bf16" if value == "no" else value)
    with pytest.raises(ValueError, match=r"this process would compute in float32, the main process in bfloat16.*give"):
        setup(make_recipe(**FIELDS | {"mixed_precision": "no"}))
