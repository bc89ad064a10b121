"""Figures of a device card: what programming leaves, what time does, and how cells answer to pulses."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from crossbar_experiments import style
from crossbar_sim import noise
from crossbar_sim.device import OpenLoop, Programming
from crossbar_sim.presets import Preset

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Array = NDArray[np.float64]
MICRO = 1e6
DECADE = 3.156e8
"""Ten years in s."""
SPANS = (
    (1.0, "1 s"),
    (60.0, "1 min"),
    (3600.0, "1 h"),
    (86400.0, "1 day"),
    (604800.0, "1 week"),
    (DECADE, "10 years"),
)
END_PULSES = 5
"""Pulses at the end voltage that the figure of a ramp shows."""


def card_figure(card: Preset) -> Figure:
    """Three panels: error over conductance, change over time, conductance over pulses."""
    from matplotlib.figure import Figure

    with style.applied():
        figure = Figure(figsize=(12.0, 3.8))
        error, time, pulses = figure.subplots(1, 3)
        _error_panel(error, card)
        _time_panel(time, card)
        _pulse_panel(pulses, card)
        figure.suptitle(card.title)
    return figure


def _error_panel(ax: Axes, card: Preset) -> None:
    """Standard deviation of the error about the target: after the write, and at the published times."""
    ax.set_title("Error about the target")
    ax.set_xlabel("target conductance, µS")
    ax.set_ylabel("standard deviation, µS")
    g = np.linspace(card.device.g_min, card.device.g_max, 200)
    curves: list[tuple[str, Array]] = []
    if card.open_loop is not None:
        curves.append(("counted pulses from HRS", counted_sigma(card.open_loop, card.device.fresh, g)))
    if card.programming is not None:
        curves.append(("write-verify residual", noise.residual_sigma(g, card.programming)))
    curves += [(_span(t), noise.total_sigma(g, t, card.relaxation)) for t in card.relaxation.times]
    if card.read_noise.present:
        curves.append(("one read, at 1 s", noise.read_sigma(g, 1.0, card.read_noise)))
    for (label, sigma), colour in zip(curves, style.CYCLE, strict=False):
        ax.plot(MICRO * g, MICRO * sigma, color=colour, label=label)
    _finish(ax, bool(curves), "no error: exact writes")
    ax.set_ylim(bottom=0.0)


def counted_sigma(law: OpenLoop, start: float, target: Array) -> Array:
    """Standard deviation (S) that counted SET pulses of a median cell leave, to first order.

    Each pulse adds (rate (top - G) cycle_spread)^2 + cycle_noise^2 to the variance and shrinks what was there by (1 - rate)^2;
    `write_noise` comes on top.
    """
    curve, variance = response(law, start, upward=True), [0.0]
    for g in curve[:-1]:
        added = (law.set_rate * (law.top - g) * law.cycle_spread) ** 2 + law.cycle_noise**2
        variance.append(variance[-1] * (1.0 - law.set_rate) ** 2 + added)
    return np.asarray(np.sqrt(np.interp(target, curve, variance) + law.write_noise**2), np.float64)


def _time_panel(ax: Axes, card: Preset) -> None:
    """Mean and one standard deviation of the deviation from the target against time, for three targets."""
    ax.set_title("Relaxation and drift")
    ax.set_xlabel("time since programming")
    ax.set_ylabel("deviation from the target, µS")
    device = card.device
    drawn = bool(card.relaxation.times) or card.drift.present
    if drawn:
        times = np.geomspace(1.0, DECADE, 80)
        for share, colour in zip((0.1, 0.5, 1.0), style.CYCLE, strict=False):
            target = device.g_min + share * device.span
            mean, sigma = (
                np.array(column) for column in zip(*(_deviation(target, t, card) for t in times), strict=True)
            )
            ax.plot(times, MICRO * mean, color=colour, label=f"{MICRO * target:.3g} µS")
            ax.fill_between(
                times, MICRO * (mean - sigma), MICRO * (mean + sigma), color=colour, alpha=0.2, linewidth=0
            )
        ax.set_xscale("log")
        ax.set_xticks([t for t, _ in SPANS], [name for _, name in SPANS], rotation=30)
        ax.minorticks_off()
    _finish(ax, drawn, "no relaxation, no drift")


def _deviation(target: float, age: float, card: Preset) -> tuple[float, float]:
    """Mean and standard deviation (S) of G(t) about the target, to first order in the spread of the drift exponent."""
    g = np.array([target, target, target])
    sigma = float(noise.total_sigma(g, age, card.relaxation)[0])
    mean = float(noise.mean_shift(g, age, card.relaxation)[0])
    if not card.drift.present:
        return mean, sigma
    z = np.array([-1.0, 0.0, 1.0], np.float32)
    factor = noise.drift_factor(noise.drift_exponent(g, z, card.drift), age, card.drift)
    spread = target * float(factor[0] - factor[2]) / 2
    return mean + target * float(factor[1] - 1.0), float(np.hypot(sigma * factor[1], spread))


def _pulse_panel(ax: Axes, card: Preset) -> None:
    """Conductance of a median cell: from HRS up, then down again."""
    ax.set_title("Pulse response of a median cell")
    ax.set_xlabel("pulse")
    ax.set_ylabel("conductance, µS")
    law = card.programming or card.open_loop
    if law is not None:
        up = response(law, card.device.fresh, upward=True)
        down = response(law, float(up[-1]), upward=False)
        for start, curve, name, colour in (
            (0, up, "SET", style.CYCLE[0]),
            (len(up) - 1, down, "RESET", style.CYCLE[1]),
        ):
            ax.plot(
                np.arange(start, start + len(curve)),
                MICRO * curve,
                ".-",
                color=colour,
                label=_pulse_label(law, name),
            )
        for bound in (card.device.g_min, card.device.g_max):
            ax.axhline(MICRO * bound, color=style.CYCLE[7], linestyle=":", linewidth=1.0)
    _finish(ax, law is not None, "no pulses: exact writes")


def response(law: Programming | OpenLoop, start: float, *, upward: bool) -> Array:
    """Conductances (S) of a median cell from `start` on, before and after each pulse of one polarity.

    A ramp ends after 5 pulses at the end voltage, an open loop after its largest number of pulses.
    """
    bound = law.top if upward else law.bottom
    curve = [start]
    for share in _shares(law, upward=upward):
        curve.append(curve[-1] + (bound - curve[-1]) * share)
    return np.array(curve)


def _shares(law: Programming | OpenLoop, *, upward: bool) -> Sequence[float]:
    """Share of the way to the bound that each pulse goes (device.Programming and device.OpenLoop have the laws)."""
    rate = law.set_rate if upward else law.reset_rate
    if isinstance(law, OpenLoop):
        return [rate] * law.max_pulses
    first, last = (law.set_start, law.set_end) if upward else (law.reset_start, law.reset_end)
    ramp = np.arange(round((last - first) / law.voltage_step) + END_PULSES) * law.voltage_step
    a = rate * np.exp(np.minimum(ramp, last - first) / law.slope)
    return [float(share) for share in a / (1.0 + a)]


def _pulse_label(law: Programming | OpenLoop, name: str) -> str:
    upward = name == "SET"
    if isinstance(law, OpenLoop):
        return f"{name}, {law.set_voltage if upward else law.reset_voltage:g} V"
    first, last = (law.set_start, law.set_end) if upward else (law.reset_start, law.reset_end)
    return f"{name}, {first:g} to {last:g} V"


def _span(time: float) -> str:
    named = next((name for t, name in SPANS if t == time), "")
    return named or (f"{time / 86400:g} days" if time > 86400 else f"{time:g} s")


def _finish(ax: Axes, drawn: bool, otherwise: str) -> None:
    """The legend, or in an empty panel the reason why it is empty."""
    if drawn:
        ax.legend()
        return
    ax.set_axis_off()
    ax.text(0.5, 0.5, otherwise, ha="center", va="center", transform=ax.transAxes)
