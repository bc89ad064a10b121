"""Units of a card's entries, for people: SI throughout; "" for numbers without one."""

from __future__ import annotations

_SIEMENS = "S"
_BY_PATH = {
    "device.start": _SIEMENS,
    "device.endurance": "cycles",
    "device.endurance_decades": "decades",
    "device.low_spread": "of g_max - g_min",
    "device.high_spread": "of g_max - g_min",
    "device.strength_spread": "ln",
    "drift.start": "s",
    "relaxation.times": "s",
    "relaxation.sigma": _SIEMENS,
    "relaxation.mean": _SIEMENS,
    "programming.residual": "S, 1, 1/S, ...",
    "programming.compliance": "A",
    "programming.rest": "s",
    "read_noise.constant": _SIEMENS,
    "read_noise.log10_slope": _SIEMENS,
    "read_noise.delay": "s",
    "open_loop.cycle_noise": _SIEMENS,
    "open_loop.write_noise": _SIEMENS,
    "wires.r_wl": "ohm",
    "wires.r_bl": "ohm",
    "periphery.dac_bits": "bits",
    "periphery.adc_bits": "bits",
    "periphery.plane_bits": "bits",
    "periphery.adc_offset": "codes",
    "periphery.adc_noise": "codes",
    "mapping.weight_bits": "bits",
    "process.node": "m",
}
_BY_NAME = {
    **dict.fromkeys(("g_min", "g_max", "bottom", "top", "window_abs", "reference"), _SIEMENS),
    **dict.fromkeys(
        ("pulse_width", "verify_width", "read_width", "set_width", "reset_width", "read_time"), "s"
    ),
    **dict.fromkeys(
        ("set_start", "set_end", "reset_start", "reset_end", "voltage_step", "slope", "verify_voltage"), "V"
    ),
    **dict.fromkeys(("read_voltage", "set_voltage", "reset_voltage"), "V"),
}


_BY_SECTION = {"price": "J", "latency": "s", "area": "m2"}


def unit(path: str) -> str:
    """The unit of an entry such as "programming.pulse_width"; of a price table's entries by their section."""
    if path.startswith("area.cell."):
        return "F2"
    section = path.partition(".")[0]
    if section in _BY_SECTION:
        return _BY_SECTION[section]
    return _BY_PATH.get(path) or _BY_NAME.get(path.partition(".")[2], "")
