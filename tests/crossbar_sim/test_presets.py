"""Cards: what is shipped, and what a wrong one is told."""

import tomllib
from importlib.resources import files

import pytest

from crossbar_sim import ConfigError, preset, presets
from crossbar_sim.prices import MARKS

NAMES = presets()
GOOD = """
name = "mine"
title = "A test card"
[sources]
me = "measured"
[device]
g_min = { value = 1e-6, mark = "published", source = "me" }
g_max = { value = 2e-6, mark = "assumed", source = "me", low = 2e-6, high = 3e-6 }
[tiles]
[periphery]
"""


def told(tmp_path, text):
    path = tmp_path / "card.toml"
    path.write_text(text)
    with pytest.raises(ConfigError) as error:
        preset(path)
    return str(error.value)


def raw(name):
    """The entries of a card by path, those of its base included."""
    data = tomllib.loads((files("crossbar_sim") / "presets" / f"{name}.toml").read_text())
    own = {
        f"{section}.{key}": entry
        for section, table in data.items()
        if isinstance(table, dict) and section != "sources"
        for key, entry in table.items()
    }
    return {**(raw(data["base"]) if "base" in data else {}), **own}


def test_the_cards_are_there():
    assert set(NAMES) >= {
        "ideal", "hfo2_neurram", "cmo_hfox", "cmo_hfox_2pct", "neurosim_ideal", "hfox_milo", "agasi_neurosim",
        "hfo2_array", "hfo2_array_optimised", "pcm_joshi",
    }  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_every_card_states_start_tiles_and_wires(name):
    card = preset(name)
    assert {"device.start", "tiles.count", "wires.r_wl", "wires.r_bl"} <= set(card.provenance)
    assert card.tiles.count > 0


@pytest.mark.parametrize("name", NAMES)
def test_every_number_has_a_mark_a_source_and_bounds_where_it_is_assumed(name):
    card = preset(name)
    assert card.name == name
    assert len(card.sha256) == 64
    entries = raw(name)
    assert set(entries) == set(card.provenance)
    for path, origin in card.provenance.items():
        assert origin.mark in MARKS
        assert origin.source in card.sources
        section, key = path.split(".")
        assert getattr(getattr(card, section), key) is not None
        if origin.mark == "assumed":
            assert origin.low is not None, path
            assert origin.low <= entries[path]["value"] <= origin.high, path


@pytest.mark.parametrize("name", NAMES)
def test_prices_have_marks_and_sources(name):
    prices = preset(name).prices
    if prices is None:
        return
    for price in [*prices.energies.values(), *prices.latencies.values()]:
        assert price.value >= 0
        assert price.mark in MARKS
        assert price.source
    card = preset(name)
    width = card.programming.pulse_width if card.programming else card.open_loop.set_width
    assert prices.seconds("set_pulse") == width
    assert prices.seconds("array_read") == card.periphery.read_width


def test_published_numbers_of_the_cards():
    wan = preset("hfo2_neurram")
    assert (wan.device.g_min, wan.device.g_max, wan.device.levels) == (1e-6, 40e-6, 16)
    assert (wan.programming.window_abs, wan.programming.pulse_width) == (1e-6, 1e-6)
    assert (wan.tiles.rows, wan.tiles.cols, wan.tiles.count) == (256, 256, 48)
    falcone = preset("cmo_hfox")
    assert (falcone.device.g_min, falcone.device.g_max) == (9e-6, 88.19e-6)
    assert falcone.programming.window_rel == 0.002
    assert falcone.programming.residual == (0.81107e-9, 0.00106879)


def test_the_mark_of_an_action_is_the_weakest_it_rests_on():
    card = preset("hfo2_neurram")
    assert card.mark("set_pulse") == "assumed"
    assert card.mark("array_read") == "assumed"
    assert card.mark("adc_conversion", "8b") == "published"
    assert card.mark("sample_hold") == "derived"


def test_a_card_of_ones_own(tmp_path):
    path = tmp_path / "card.toml"
    path.write_text(GOOD)
    card = preset(path)
    assert (card.name, card.device.g_max) == ("mine", 2e-6)
    assert preset(str(path)) == card
    path.write_text(GOOD.replace("value = 2e-6", "value = 3e-6"))
    assert preset(path).device.g_max == 3e-6
    assert preset(path).sha256 != card.sha256


def test_unknown_names_and_missing_files(tmp_path):
    with pytest.raises(
        ConfigError, match=r"did you mean 'hfo2_neurram'.*; or the path of a card, my_cells\.toml"
    ):
        preset("hfo2_neuram")
    with pytest.raises(ConfigError, match=r"no file .*; give the path"):
        preset(tmp_path / "none.toml")


def test_a_bad_card_is_told_every_mistake_with_its_path(tmp_path):
    message = told(
        tmp_path,
        """
titel = "?"
[sources]
me = "measured"
[device]
g_min = { value = "low", mark = "published", source = "me" }
g_maxx = { value = 2e-6, mark = "published", source = "me" }
levels = { value = 2.5, mark = "published", source = "me" }
endurance = { value = 1e5, source = "me" }
strength_spread = { value = 0.1, mark = "guessed", source = "you" }
[programing]
[read_noise]
constant = { value = 1e-6, mark = "published", source = "you" }
read_time = 1e-6
log10_slope = { valeu = 1e-6, value = 1e-6, mark = "published", source = "me" }
[tiles]
rows = { value = 0, mark = "published", source = "me" }
""",
    )
    for part in (
        "name: is missing",
        "title: is missing",
        "titel: unknown section",
        "device.g_min: value 'low' is not of type",
        "device.g_maxx: unknown entry; did you mean 'g_max'",
        "device.g_max: is missing",
        "device.levels: value 2.5",
        "device.endurance: mark must be one of published, derived, assumed",
        "device.strength_spread: mark must be one of",
        "programing: unknown section; did you mean 'programming'",
        "read_noise.constant: source 'you' is not in [sources]",
        "read_noise.read_time: must be a table",
        "read_noise.log10_slope: unknown key 'valeu'; did you mean 'value'",
        "Tiles.rows: must be 1 to 1024 (got 0)",
        "periphery: this section is missing",
    ):
        assert part in message, part


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("value = 2e-6", "value = 1e-6", "Device.g_max: must exceed g_min (got 1e-06 <= 1e-06)"),
        ("[tiles]", "", "tiles: this section is missing"),
        ("[tiles]", "tiles = 3", "not a TOML file"),
        ('name = "mine"', 'name = "mine"\nprices = "isac_horowitz"', "did you mean 'isaac_horowitz'"),
        ("[device]", "[device", "not a TOML file"),
        ('me = "measured"', "me = 3", "sources: must be a table of texts"),
    ],
)
def test_single_mistakes(tmp_path, old, new, words):
    message = told(tmp_path, GOOD.replace(old, new))
    if words == "not a TOML file" and new == "tiles = 3":
        words = "tiles"
    assert words in message


def test_an_unknown_price_table_is_told_with_the_other_mistakes(tmp_path):
    text = GOOD.replace('name = "mine"', 'name = "mine"\nprices = "isac_horowitz"').replace("[tiles]", "")
    message = told(tmp_path, text)
    assert "isaac_horowitz" in message
    assert "tiles: this section is missing" in message


def test_an_assumed_number_needs_bounds(tmp_path):
    message = told(tmp_path, GOOD.replace(", low = 2e-6, high = 3e-6", ""))
    assert "device.g_max: assumed" in message
