"""The speed benchmarks, apart from their timings; run with tiny networks."""

import dataclasses
import json
import sys

import pytest
import torch
from PIL import Image

from benchmarks import speed
from benchmarks.speed_of import data, layer, machine, pooled, sample, scale, step
from benchmarks.speed_of.groups import GROUPS, OTHER, condense, group_of, profile_of
from benchmarks.speed_of.our_step import Ours, fill_moments
from benchmarks.speed_of.peer_step import Peer
from benchmarks.speed_of.settings import NO_BF16, Settings
from benchmarks.speed_of.targets import TARGETS, Row, mark, rows_against_peer
from benchmarks.speed_of.timing import Times, alternate, growth
from fagan_hf.architectures.presets import PRESETS, preset
from fagan_hf.layers import SelfAttention
from tests.memory import forked_measurements
from tests.small import DISCRIMINATOR, GENERATOR

TINY = GENERATOR, DISCRIMINATOR
ONCE = Settings(rounds=1, is_quick=True, threads=1)


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    """A tiny architecture, no bf16 whatever the hardware, and one thread as in the test run."""
    monkeypatch.setitem(PRESETS, "tiny", TINY)
    monkeypatch.setattr("benchmarks.speed_of.settings.has_bf16", lambda device: False)


@pytest.fixture
def no_processes(monkeypatch):
    """Skip measuring memory, which starts processes that take seconds."""
    monkeypatch.setattr(step, "peak_megabytes", lambda *arguments: 2.0)
    monkeypatch.setattr(layer, "peak_megabytes", lambda *arguments: 2.0)


class Clock:
    """Functions with given durations, and the clock that shows them."""

    def __init__(self):
        self.now = 0.0
        self.done = []

    def work(self, name, *seconds):
        remaining = iter(seconds)

        def work():
            self.done.append(name)
            self.now += next(remaining)

        return work


def test_works_take_turns_and_their_medians_count():
    clock = Clock()
    works = {"ours": clock.work("ours", 50, 1, 2, 9), "peer": clock.work("peer", 90, 8, 7, 60)}
    times = alternate(works, rounds=3, clock=lambda: clock.now)
    assert clock.done == ["ours", "peer"] * 4
    assert times["ours"].seconds == [1, 2, 9]
    assert {name: each.median for name, each in times.items()} == {"ours": 2, "peer": 8}
    assert times["peer"].quartiles == (7.5, 34)


def test_what_is_warm_is_not_warmed_up():
    clock = Clock()
    times = alternate({"ours": clock.work("ours", 3)}, rounds=1, clock=lambda: clock.now, is_warm=True)
    assert times["ours"] == Times([3])
    assert times["ours"].quartiles == (3, 3)


@pytest.mark.parametrize("power", [1, 2])
def test_growth_finds_the_power(power):
    sizes = [256, 1024, 4096]
    assert growth(sizes, [7 * size**power for size in sizes]) == pytest.approx(power, abs=1e-5)


def test_numbers_are_marked_against_the_first_one():
    name = "step, relativistic, fp32"
    must, aim = TARGETS[name].must, TARGETS[name].aim
    assert (must, aim) == (3.5, 5)
    assert [mark(name, value) for value in (must - 0.01, must, aim, None)] == ["short", "pass", "pass", ""]
    assert [mark("import fagan_hf", seconds) for seconds in (0.29, 0.31)] == ["pass", "short"]
    assert mark("nobody has asked for it", 1) == ""
    assert Row(name, 3.0).to_json() == {
        "name": name, "value": 3.0, "unit": "x", "must": 3.5, "aim": 5, "mark": "short",
    }  # fmt: skip
    assert "must 3.5, aim 5" in str(Row(name, 3.0))


def test_a_ratio_says_what_it_is_made_of_and_what_is_missing():
    fp32, bf16 = rows_against_peer("step", {"peer": 6.0, "fp32": 2.0}, lambda seconds: f"{seconds:g} s")
    assert (fp32.name, fp32.value, fp32.note) == ("step, fp32", 3, "ours 2 s; peer 6 s")
    assert (bf16.name, bf16.value, bf16.note) == ("step, bf16", None, NO_BF16)
    [alone, _] = rows_against_peer("step", {"fp32": 2.0}, lambda seconds: f"{seconds:g} s", "no room")
    assert (alone.value, alone.note) == (None, "ours 2 s; no room")


@pytest.mark.parametrize("loss", ["relativistic_hinge", "hinge"])
@pytest.mark.parametrize("side", [Ours, Peer])
def test_a_step_teaches_both_players(side, loss):
    played = side(TINY, loss, batch=4)
    networks = [played.generator, played.discriminator]
    before = [[each.clone() for each in network.parameters() if each.requires_grad] for network in networks]
    fill_moments(played.optimizers)
    for network, old in zip(networks, before, strict=True):
        new = [each for each in network.parameters() if each.requires_grad]
        assert all(torch.equal(*pair) for pair in zip(old, new, strict=True))
    played.step()
    for network, old in zip(networks, before, strict=True):
        new = [each for each in network.parameters() if each.requires_grad]
        assert not all(torch.equal(*pair) for pair in zip(old, new, strict=True))


@pytest.mark.usefixtures("no_processes")
def test_the_step_is_compared():
    found = step.measure_step(ONCE, batch=4, model="tiny")
    rows = {row.name: row for row in found.rows}
    assert rows["step, hinge, fp32"].value > 0
    assert rows["step, hinge, bf16"].note == NO_BF16
    assert rows["step memory, fp32"].value == 1
    assert found.details["step, relativistic"]["equality_in_fp32"]["fp32"]["gradient_difference"] < 1e-3
    assert rows.keys() >= {name for name in TARGETS if name.startswith("step")}


@pytest.mark.usefixtures("no_processes")
def test_a_peer_that_has_no_room_is_left_out(monkeypatch):
    monkeypatch.setattr(step, "free_megabytes", lambda device: 0.0)
    rows = step.measure_step(ONCE, batch=4, model="tiny").rows
    assert all(row.value is None for row in rows)
    assert "the peer would need" in rows[0].note


def test_what_the_peer_holds_is_counted():
    """16 positions in two layers of the generator and one of the discriminator, 64 in the generator's last."""
    generator, discriminator = 2 * 16**2 + 64**2, 16**2
    expected = 4 * (generator + 4 * discriminator + 3 * 64**2)
    assert step.peer_megabytes(TINY, batch=5) == pytest.approx(5e-6 * expected)


def test_sampling_is_compared(monkeypatch):
    monkeypatch.setattr(sample, "seconds_of", lambda program: None)
    found = sample.measure_sample(ONCE, batches=(1, 2), model="tiny")
    rows = {row.name: row.value for row in found.rows}
    assert rows["sampling, batch 2, fp32"] > 0
    assert rows["fagan-hf generate, to import torch"] > 0
    assert found.details["equality_in_fp32"]["output_difference"] < 1e-5


def test_the_loader_is_compared_with_the_step(monkeypatch):
    monkeypatch.setattr(data, "MODELS", ("tiny",))
    monkeypatch.setattr(data, "CACHED_IMAGES", 40)
    monkeypatch.setattr(data, "build_rates", lambda photographs: {"photographs": 10.0})
    loader, cache = data.measure_data(ONCE).rows
    assert loader.value > 0
    assert (cache.value, cache.unit) == (10, "img/s")


def test_photographs_have_the_size_of_celeba(tmp_path):
    data.write_photographs(tmp_path / "photographs", 2)
    for path in (tmp_path / "photographs").iterdir():
        with Image.open(path) as image:
            assert image.size == (178, 218)
    assert len(list((tmp_path / "photographs").iterdir())) == 2


def test_two_processes_share_a_step(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    with forked_measurements(scale):
        assert scale.launch(processes=2, threads=1, rounds=1) > 0


def test_an_image_of_a_larger_network_costs_more(monkeypatch):
    monkeypatch.setattr(scale, "SIZES", {16: 1, 64: 1})
    found = scale._measure_sizes(ONCE)
    assert found.details["sizes"]["64x64"]["widths"] == (96, 96, 48, 24)
    assert found.details["grows_with_this_power_of_pixels"] > 0


def test_the_flagship_is_measured_up_to_512(monkeypatch):
    assert max(pooled.SIZES) == 512
    monkeypatch.setattr(pooled, "SIZES", {32: 1, 64: 1})
    monkeypatch.setattr(pooled, "LAYER_SIZE", 32)
    monkeypatch.setattr(pooled, "PRESETS", ("fagan-32",))
    monkeypatch.setattr(pooled, "_memory", lambda settings, made, batch: batch * (30.0 if "64" in made else 10.0))
    monkeypatch.setattr(pooled, "KEYS", 8)
    found = pooled.measure_pooled(dataclasses.replace(ONCE, is_quick=False))
    names = [row.name for row in found.rows]
    assert "memory of a step, fagan-32, batch 4" in names
    assert "pooled keys to all keys, 256x256" in names
    sizes = found.details["pooled"]["sizes"]
    assert sizes["64x64"]["megabytes_per_image"] == 30
    assert sizes["time_grows_with_this_power_of_pixels"] > 0
    assert sizes["memory_grows_with_this_power_of_pixels"] == pytest.approx(0.792)


def test_memory_of_a_step_with_penalties_is_measured():
    with forked_measurements():
        assert pooled._memory(ONCE, 'preset("fagan-32")', 2) > 1


def test_the_flagship_has_as_many_keys_at_every_size():
    for size in (64, 128):
        generator, discriminator = pooled.architecture(size)
        assert generator.image_size == discriminator.image_size == size
        assert generator.layers[-1].key_pooling == size // pooled.KEYS


def test_operations_of_a_step_are_counted_by_their_formulas():
    """A 1x1 convolution and a product take two operations for each pair; queries and keys have two channels."""
    attention, positions = SelfAttention(16), 24 * 24  # enough for the fused kernel, which is not counted
    with machine._plain_attention():
        counted = machine.count_flops(lambda: attention(torch.randn(1, 16, 24, 24)))
    convolutions = 2 * positions * 16 * (2 + 2 + 16)
    assert counted == convolutions + 2 * positions**2 * (2 + 16)
    once, twice = (machine.flops_of(Ours(TINY, "hinge", batch)) for batch in (2, 4))
    assert twice == 2 * once


def test_peaks_are_measured(monkeypatch):
    monkeypatch.setattr(machine, "PEAK_ROUNDS", 1)
    rates = machine.peak_rates("cpu", torch.float32, side=64)
    assert rates.keys() == {"matrix product", "4x4 convolution"}
    assert min(rates.values()) > 1e6


@pytest.mark.parametrize(
    ("operation", "group"),
    [
        ("aten::mkldnn_convolution", "convolution forward"),
        ("aten::convolution_backward", "convolution backward"),
        ("aten::bmm", "attention products"),
        ("aten::_scaled_dot_product_flash_attention_for_cpu_backward", "attention products"),
        ("aten::_softmax_backward_data", "softmax and exp"),
        ("aten::add_", "elementwise"),
        ("aten::copy_", "copies"),
        ("aten::native_batch_norm_backward", "normalization"),
        ("aten::_fused_adam_", "optimizer"),
        ("something new", OTHER),
    ],
)
def test_operations_have_their_groups(operation, group):
    assert group_of(operation) == group


def test_groups_add_up():
    assert condense([("aten::bmm", 1.0), ("aten::baddbmm_", 2.0), ("aten::add", 5.0)]) == {
        **dict.fromkeys([*GROUPS, OTHER], 0.0),
        "elementwise": 5.0,
        "attention products": 3.0,
    }


def test_groups_cover_a_step():
    ours = Ours(preset("fagan-plain-32"), "relativistic_hinge", batch=8)
    ours.step()
    shares = profile_of(ours.step, 1, "cpu")["shares"]
    assert sum(shares.values()) == pytest.approx(1, abs=0.01)
    assert shares[OTHER] < 0.05
    assert min(shares["attention products"], shares["convolution backward"]) > 0.05


@pytest.mark.usefixtures("no_processes")
def test_the_command_prints_a_table_and_writes_it(tmp_path, monkeypatch, capsys):
    shapes = [layer.Shape(16, 8, positions, batch=1) for positions in (16, 64)]
    monkeypatch.setattr(layer, "QUICK", shapes)
    monkeypatch.setattr(speed, "RESULTS", tmp_path / "results")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    arguments = ["layer", "--quick", "--rounds", "1", "--threads", "1", "--out", str(tmp_path / "layer.json")]
    monkeypatch.setattr(sys, "argv", ["speed.py", *arguments])
    speed.main()
    assert "layer memory, 16->8 at N=64, fp32" in capsys.readouterr().out
    results = json.loads((tmp_path / "layer.json").read_text())
    assert (results["rounds"], results["threads"], results["versions"]["attn-gan-pytorch"]) == (1, 1, "1.2.3")
    assert results["layers"]["16->8 at N=64"]["times"]["peer"]["median_seconds"] > 0
    assert results["table"][0] == {"name": "layer memory, 16->8 at N=16, fp32", "value": 1.0, "unit": "x",
                                   "note": "ours 2.0 MB; peer 2.0 MB"}  # fmt: skip
    assert not (tmp_path / "results").exists()


def test_a_summary_counts_what_was_asked_for():
    rows = [Row("step, hinge, fp32", 2.0), Row("step, hinge, bf16", None), Row("another", None), Row("another", 1.0)]
    assert speed.summary(rows) == "1 pass, 0 short, 1 not measured"


def test_all_targets_are_rows_that_a_benchmark_makes():
    """A target whose name differs from its row's would never be marked."""
    shapes = {f"layer memory, {shape}" for shape in layer.SHAPES}
    layers = {name.rpartition(",")[0] for name in TARGETS if name.startswith("layer")}
    assert layers <= shapes
    assert {f"loader to step, {model}" for model in data.MODELS} <= TARGETS.keys()
    assert f"sampling, batch {max(sample.BATCHES)}, bf16" in TARGETS
    assert dataclasses.replace(ONCE, device="cpu").precisions() == ["no"]
