"""Chips and converted models in files, pickles and copies."""

import copy
import io
import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load, save
from torch import nn

from crossbar_sim import Chip, ConfigError, Ranges, checkpoint, convert, revert
from crossbar_sim.presets import preset

X = torch.from_numpy(np.random.default_rng(3).standard_normal((5, 8)))


def network(width=12):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, width), nn.ReLU(), nn.Linear(width, 4)).double()


def on_chip(card, *, seed=5, worn=True, width=12, **options):
    """A converted model; `worn`: rewritten, aged, calibrated and used."""
    chip = Chip(card, seed=seed, statistical=True, **options)
    model = convert(network(width), chip)
    if worn:
        chip.advance(1234.5)
        for array in chip.arrays.values():
            array.reprogram(-array.target_weights())
            array.ranges = Ranges(2.0, -5.0, 6.0)
        chip.advance(1e5)
        chip.next_event()
        model(X)
    return chip, model


def life(chip, model):
    """What it computes now, and after more time, another event and another programming."""
    with torch.no_grad():
        seen = [model(X)]
        chip.next_event()
        chip.advance(777.0)
        seen.append(model(X))
        for array in chip.arrays.values():
            array.reprogram(array.target_weights()[:, ::-1].copy())
        seen.append(model(X))
    return seen, [array.wear for array in chip.arrays.values()]


def assert_same_life(a, b):
    for one, other in zip(*(life(*each) for each in (a, b)), strict=True):
        for left, right in zip(one, other, strict=True):
            np.testing.assert_array_equal(np.asarray(left), np.asarray(right))


@pytest.fixture
def noisy(card):
    return card(relaxation=True, noise=True)


def test_a_state_dict_brings_back_products_wear_and_later_draws(noisy):
    one = on_chip(noisy)
    state = load(save(one[1].state_dict()))  # through the bytes of a safetensors file
    two = on_chip(noisy, worn=False)
    assert two[1].load_state_dict(state).missing_keys == []
    assert (two[0].time, two[0].event) == (one[0].time, one[0].event)
    assert vars(two[0].arrays["0"].ranges) == vars(Ranges(2.0, -5.0, 6.0))
    assert_same_life(one, two)


def test_a_state_dict_is_a_snapshot(noisy):
    one = on_chip(noisy)
    state = one[1].state_dict()
    before = {key: value.clone() for key, value in state.items()}
    life(*one)
    assert all(torch.equal(before[key], value) for key, value in state.items())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"width": 13}, "another placement"),
        ({"seed": 6}, r"another seed \(saved: 5, here: 6\)"),
        ({"grid": "int8"}, "another grid"),
        ({"card": {"tiles": {"rows": 5}}}, r"another card .*; make the chip with the same card"),
        ({"card": {"device": {"g_max": 39e-6}}}, "another card"),
    ],
)
def test_what_does_not_fit_is_an_error_and_changes_nothing(card, noisy, change, message):
    state = on_chip(noisy)[1].state_dict()
    other = card(relaxation=True, noise=True, **change.pop("card", {}))
    chip, model = on_chip(other, worn=False, **change)
    for array in chip.arrays.values():
        array.ranges = Ranges(1.0, -5.0, 6.0)
    before = model(X)
    with pytest.raises(ConfigError, match=message):
        model.load_state_dict(state)
    assert (chip.time, chip.event) == (0, 0)
    torch.testing.assert_close(model(X), before, rtol=0, atol=0)


def test_one_wrong_array_leaves_the_others_as_they_are(noisy):
    state = on_chip(noisy)[1].state_dict()
    chip, model = on_chip(noisy, worn=False)
    other = on_chip(noisy, width=9)[1].state_dict()
    state |= {key: value for key, value in other.items() if key.startswith("2.product.")}
    wear = {name: array.wear.copy() for name, array in chip.arrays.items()}
    with pytest.raises(ConfigError, match=r"array '2'.*another placement"):
        model.load_state_dict(state)
    for name, array in chip.arrays.items():
        np.testing.assert_array_equal(array.wear, wear[name])


def test_a_missing_array_is_told_like_any_missing_key(noisy):
    state = on_chip(noisy)[1].state_dict()
    chip, model = on_chip(noisy, worn=False)
    chip.advance(101234.5)
    part = {key: value for key, value in state.items() if not key.startswith("2.product")}
    with pytest.raises(RuntimeError, match=r'Missing key.*"2\.product\.array_meta"'):
        model.load_state_dict(part)
    assert model.load_state_dict(part, strict=False).missing_keys == ["2.product.array_meta"]
    with pytest.raises(RuntimeError, match=r'Unexpected key.*"0\.product\.weight"'):
        model.load_state_dict({**part, "0.product.weight": torch.ones(1)})


def test_a_clock_is_not_changed_under_arrays_that_stay(noisy):
    state = on_chip(noisy)[1].state_dict()
    chip, model = on_chip(noisy, worn=False)
    chip.program(np.ones((2, 2)), name="another")
    with pytest.raises(
        ConfigError, match="array 'another', which is not in the saved state, would change its age"
    ):
        model.load_state_dict(state)
    assert chip.time == 0


@pytest.mark.parametrize("strict", [True, False])
def test_plain_weights_are_not_loaded_into_cells(noisy, strict):
    model = on_chip(noisy)[1]
    before = model(X)
    with pytest.raises(
        ConfigError, match=r"'0\.weight' .*load plain weights before convert\(\), or revert\(model\) first"
    ):
        model.load_state_dict(network().state_dict(), strict=strict)
    torch.testing.assert_close(model(X), before, rtol=0, atol=0)
    revert(model).load_state_dict(network().state_dict())


def test_a_chip_comes_back_from_its_file(noisy, tmp_path):
    one, model = on_chip(noisy)
    path = tmp_path / "chip.safetensors"
    with one.ledger.scope(task="a task", phase="eval"):
        model(X)
        checkpoint.save(one, path)
    assert [p.name for p in tmp_path.iterdir()] == ["chip.safetensors"]
    two = checkpoint.load(path, preset=noisy)
    assert (two.time, two.event, two.seed, two.statistical) == (one.time, one.event, 5, True)
    assert (two.ledger.task, two.ledger.phase) == ("a task", "eval")
    assert two.ledger.rows(two.preset.prices) == one.ledger.rows(one.preset.prices)
    assert list(two.arrays) == list(one.arrays)
    for name, array in one.arrays.items():
        other = two.arrays[name]
        assert (other.site.layer, other.site.matrix) == (array.site.layer, array.site.matrix)
        for moment in range(2):
            np.testing.assert_array_equal(other.wear, array.wear)
            np.testing.assert_array_equal(other.conductance(), array.conductance())
            x = np.linspace(-1, 1, array.placement.inputs)
            np.testing.assert_array_equal(other.mvm(x), array.mvm(x))
            for chip in (one, two):
                chip.advance(0.1 + moment)
            array.reprogram(array.target_weights() / 2)
            other.reprogram(other.target_weights() / 2)


def test_retired_cells_are_remembered_in_the_file(noisy, tmp_path):
    one, model = on_chip(noisy)
    revert(model)
    checkpoint.save(one, tmp_path / "chip")
    two = checkpoint.load(tmp_path / "chip", preset=noisy)
    assert not two.arrays
    weight = np.random.default_rng(1).standard_normal((12, 8))
    again = [chip.program(weight, name="0") for chip in (one, two)]
    assert again[0].version == again[1].version == 3
    np.testing.assert_array_equal(again[0].wear, again[1].wear)
    np.testing.assert_array_equal(again[0].conductance(), again[1].conductance())


def test_a_shipped_card_is_found_by_its_name(tmp_path):
    chip = Chip("hfo2_neurram", statistical=True, grid="int8", backward="nominal")
    checkpoint.save(chip, tmp_path / "empty")
    again = checkpoint.load(str(tmp_path / "empty"), backend="reference")
    assert (again.preset, again.grid, again.backward) == (chip.preset, "int8", "nominal")
    assert again.backend == "reference"


def test_a_chips_file_needs_its_card(card, tmp_path):
    checkpoint.save(on_chip(card())[0], tmp_path / "chip")
    with pytest.raises(ConfigError, match=r"other numbers than 'hfo2_neurram' has here.*load\(path, preset="):
        checkpoint.load(tmp_path / "chip")


def test_missing_files_and_folders_are_told(tmp_path):
    with pytest.raises(ConfigError, match=r"load: no file .*chip; give a file that save\(chip, path\) wrote"):
        checkpoint.load(tmp_path / "chip")
    with pytest.raises(ConfigError, match=r"save: no folder .*none; make it first"):
        checkpoint.save(Chip("ideal"), tmp_path / "none" / "chip")


def test_a_file_that_is_no_chip_is_told(tmp_path):
    for content in (b"", b"nonsense, and long enough", save({"x": torch.ones(2)})):
        (tmp_path / "file").write_bytes(content)
        with pytest.raises(ConfigError, match="does not hold a chip"):
            checkpoint.load(tmp_path / "file")


def test_a_file_is_whole_or_the_old_one(noisy, tmp_path, monkeypatch):
    path = tmp_path / "chip"
    chip, _ = on_chip(noisy)
    checkpoint.save(chip, path)
    before = path.read_bytes()
    chip.advance(1)

    def fail(*_):
        raise OSError("no space left")

    monkeypatch.setattr(checkpoint.os, "replace", fail)
    with pytest.raises(OSError, match="no space"):
        checkpoint.save(chip, path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_prices_and_names_do_not_make_another_card():
    card = preset("hfo2_neurram")
    assert checkpoint.card_digest(replace(card, name="mine", prices=None)) == checkpoint.card_digest(card)
    changed = replace(card, device=replace(card.device, g_max=card.device.g_max * (1 + 1e-15)))
    assert checkpoint.card_digest(changed) != checkpoint.card_digest(card)
    numpy_number = replace(card, device=replace(card.device, g_max=np.float64(card.device.g_max)))
    assert checkpoint.card_digest(numpy_number) == checkpoint.card_digest(card)


@pytest.mark.parametrize("backward", ["transposed", "nominal", "oracle"])
def test_a_pickle_takes_model_and_chip_along_as_one(noisy, backward):
    one = on_chip(noisy, backward=backward)
    x = X.clone().requires_grad_()
    one[1](x).sum().backward()  # fills the caches
    chip, model = pickle.loads(pickle.dumps(one))
    assert chip is not one[0]
    assert model[0].product.array is chip.arrays["0"]
    assert model[0].product.array.chip is chip
    assert_same_life((chip, model), one)


def test_torch_save_keeps_a_model_on_its_chip(noisy):
    one = on_chip(noisy)
    file = io.BytesIO()
    torch.save(one[1], file)
    file.seek(0)
    model = torch.load(file, weights_only=False)
    assert_same_life((model[0].product.array.chip, model), one)


def test_a_copy_shares_chip_cells_and_account(noisy):
    chip, model = on_chip(noisy, backward="nominal")
    x = X.clone().requires_grad_()
    model(x).sum().backward()
    twin = copy.deepcopy(model)
    assert twin[0].product.array is model[0].product.array
    assert twin[0].product.array.chip is chip
    model[0].product.array.reprogram(-model[0].product.array.target_weights())
    torch.testing.assert_close(twin(X), model(X), rtol=0, atol=0)
    copied = pickle.dumps(twin)
    assert len(copied) < 2 * len(pickle.dumps(model))  # not a second ledger or chip


def test_a_restored_array_forgets_what_it_computed_before(noisy):
    """Same version, same time, other cells: nothing that was computed before may answer."""

    def rewritten(factor):
        chip, model = on_chip(noisy, worn=False, backward="oracle")
        for array in chip.arrays.values():
            array.ranges = Ranges(2.0, -5.0, 6.0)
            array.reprogram(array.target_weights() * factor)
        return model

    def results(model):
        x = X.clone().requires_grad_()
        out = model(x)
        out.sum().backward()
        return out.detach(), x.grad

    one, other = rewritten(1.0), rewritten(-0.5)
    twin = copy.deepcopy(one)
    state, expected, changed = one.state_dict(), results(one), results(other)
    assert results(twin)[0].equal(expected[0])
    assert one[0].product.array.version == other[0].product.array.version
    for now, then in ((other.state_dict(), changed), (state, expected)):
        one.load_state_dict(now)
        for each in (one, twin):
            for seen, wanted in zip(results(each), then, strict=True):
                torch.testing.assert_close(seen, wanted, rtol=0, atol=0)
    assert not expected[1].equal(changed[1])
