"""A card from one's own measurements: programmed conductances, read at several times, become the card's error laws.

The file is a CSV table with the columns target_uS, time_s, measured_uS and, optionally, pulses: one row per cell and reading.
time_s 0 is the read that accepted the cell (its error is the write-verify residual), 1 and more the time since then.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date
from math import sqrt
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.polynomial import polynomial
from numpy.typing import NDArray
from scipy.stats import kstest

from crossbar_sim.device import Programming
from crossbar_sim.errors import ConfigError, nearest
from crossbar_sim.fit import faster, fit_factor
from crossbar_sim.presets import Preset, preset

Array = NDArray[np.float64]
NEEDED = ("target_uS", "time_s", "measured_uS")
OPTIONAL = ("pulses",)
FEWEST = 30
"""Readings that one time needs."""
SIGMA_DEGREE = 4
MEAN_DEGREE = 1
STEPS = 60
BINS = 16
FLOOR = 1e-3
"""Smallest sigma during the fit, in units of the spread of all errors."""
LISTED = 10
"""Mistakes of a file that are told at most."""


class Entry(NamedTuple):
    """A number of the new card; derived, or assumed where `bounds` (low, high) are given."""

    value: Any
    note: str = ""
    bounds: tuple[float, float] | None = None


@dataclass(frozen=True)
class Readings:
    """The columns of a file, in SI units; `pulses` is NaN where not given."""

    target: Array
    time: Array
    measured: Array
    pulses: Array


@dataclass(frozen=True)
class ErrorLaw:
    """Error about the target at one time: N(mean(u), sigma(u)^2), polynomials in u = G_target/reference (S).

    `covariance` is that of sigma's coefficients. Goodness of fit: `misfit` (S) is the root mean square difference between the spread
    found in groups of neighbouring targets and the fitted one, `expected` (S) what chance alone would give; `ks` and `p` are the
    Kolmogorov-Smirnov distance of the standardised errors from the normal law and its p-value (too large by what
    fitting takes up). `clipped` readings are 0 S and pull sigma down.
    """

    time: float
    n: int
    reference: float
    mean: tuple[float, ...]
    sigma: tuple[float, ...]
    covariance: Array
    misfit: float
    expected: float
    ks: float
    p: float
    clipped: int

    def sigma_at(self, target: Array) -> Array:
        """The fitted standard deviation (S)."""
        return np.asarray(polynomial.polyval(target / self.reference, self.sigma), np.float64)

    def sigma_error(self, target: Array) -> Array:
        """Its standard error (S)."""
        x = _powers(target / self.reference, len(self.sigma) - 1)
        return np.asarray(np.sqrt(np.einsum("...i,ij,...j->...", x, self.covariance, x)), np.float64)


@dataclass(frozen=True)
class CardFit:
    """The laws found (the residual first, if it was measured), the mean pulses per cell, and the card as TOML text."""

    laws: tuple[ErrorLaw, ...]
    pulses: float | None
    text: str


def read_csv(path: str | Path) -> Readings:
    """The readings of a file.

    Raises:
        ConfigError: no such file, unknown or missing columns, or lines that are not numbers in range (told by line).
    """
    source = Path(path)
    if not source.is_file():
        raise ConfigError(f"fit: no file {str(path)!r}; give the path of a CSV table")
    with source.open(newline="", encoding="utf-8-sig") as lines:
        table = csv.reader(lines)
        header = [name.strip() for name in next(table, [])]
        _check_header(header, source.name)
        rows = list(_rows(table, header, source.name))
    if not rows:
        raise ConfigError(f"fit: {source.name}: has no readings under its header")
    columns = {name: np.array([row.get(name, np.nan) for row in rows]) for name in (*NEEDED, *OPTIONAL)}
    return Readings(
        1e-6 * columns["target_uS"], columns["time_s"], 1e-6 * columns["measured_uS"], columns["pulses"]
    )


def _check_header(header: Sequence[str], name: str) -> None:
    known = (*NEEDED, *OPTIONAL)
    problems = [
        f"unknown column {column!r}{nearest(column, known)}" for column in header if column not in known
    ]
    problems += [f"column {column!r} is missing" for column in NEEDED if column not in header]
    problems += [f"column {column!r} stands twice" for column in known if header.count(column) > 1]
    if problems:
        raise ConfigError(f"fit: {name}, line 1: " + "; ".join(problems))


def _rows(table: Iterable[list[str]], header: Sequence[str], name: str) -> Iterator[dict[str, float]]:
    problems: list[str] = []
    for line, cells in enumerate(table, start=2):
        if not any(cell.strip() for cell in cells):
            continue
        problem, row = _row(cells, header)
        if problem:
            problems.append(f"line {line}: {problem}")
            continue
        yield row
    if problems:
        more = f"; and {len(problems) - LISTED} more lines" if len(problems) > LISTED else ""
        raise ConfigError(f"fit: {name}: " + "; ".join(problems[:LISTED]) + more)


def _row(cells: Sequence[str], header: Sequence[str]) -> tuple[str, dict[str, float]]:
    """What is wrong with a line ("": nothing), and its numbers."""
    if len(cells) != len(header):
        return f"has {len(cells)} fields, the header {len(header)}", {}
    row: dict[str, float] = {}
    for name, cell in zip(header, cells, strict=True):
        if not cell.strip() and name in OPTIONAL:
            continue
        try:
            row[name] = float(cell)
        except ValueError:
            return f"{name}: {cell!r} is not a number", {}
        if not 0 <= row[name] < float("inf"):
            return f"{name}: must be a number of at least 0 (got {cell})", {}
    if 0 < row["time_s"] < 1:
        return f"time_s: must be 0 (the accepting read) or at least 1 (got {row['time_s']:g})", {}
    return "", row


def error_law(target: Array, measured: Array, *, time: float, reference: float) -> ErrorLaw:
    """Maximum-likelihood polynomials of the mean and the standard deviation of the error, by Fisher scoring.

    With s = sigma(u) and r the error less its mean, each step regresses s + (r^2 - s^2)/(2 s) on the powers of u with weights
    2/s^2, and the error on those of the mean with weights 1/s^2; no binning. The inverse of the last weighted normal matrix
    is the covariance of the coefficients. Degrees: 4 and 1, fewer where there are few targets.

    Args:
        target: what was asked for, S [n].
        measured: what was read, S [n].
        time: s, kept in the result.
        reference: S, the unit of u.

    Raises:
        ConfigError: fewer than 30 readings, or errors without any spread.
    """
    if target.size < FEWEST:
        raise ConfigError(f"fit: {target.size} readings at {time:g} s; at least {FEWEST} are needed")
    unit = float(np.std(measured - target))
    if not unit > 0:
        raise ConfigError(f"fit: the readings at {time:g} s have no spread, so there is no sigma to fit")
    error, u = (measured - target) / unit, target / reference
    distinct = int(np.unique(target).size)
    x = _powers(u, min(SIGMA_DEGREE, distinct - 1))
    y = _powers(u, min(MEAN_DEGREE, distinct - 1))
    mean, sigma, covariance = _fisher(error, x, y)
    spread = np.maximum(x @ sigma, FLOOR)
    rest = error - y @ mean
    misfit, expected = _misfit(u, rest, spread)
    ks = kstest(rest / spread, "norm")
    return ErrorLaw(
        time, target.size, reference, tuple(unit * mean), tuple(unit * sigma), unit**2 * covariance,
        unit * misfit, unit * expected, float(ks.statistic), float(ks.pvalue), int((measured == 0).sum()),
    )  # fmt: skip


def _powers(u: Array, degree: int) -> Array:
    """1, u, ..., u^degree [..., degree + 1]."""
    return np.asarray(polynomial.polyvander(u, degree), np.float64)


def _fisher(error: Array, x: Array, y: Array) -> tuple[Array, Array, Array]:
    """Coefficients of the mean and of sigma, and the covariance of the latter."""
    mean: Array = np.zeros(y.shape[1])
    sigma: Array = np.eye(x.shape[1])[0]
    for _ in range(STEPS):
        spread = np.maximum(x @ sigma, FLOOR)
        mean = _solve(y, error, spread)
        rest = error - y @ mean
        work = spread + (rest**2 - spread**2) / (2 * spread)
        new = _solve(x, work, spread)
        moved = float(np.max(np.abs(x @ (new - sigma))))
        sigma = new
        if moved < 1e-9:
            break
    weighted = x / np.maximum(x @ sigma, FLOOR)[:, None]
    return mean, sigma, np.asarray(np.linalg.pinv(2 * weighted.T @ weighted), np.float64)


def _solve(x: Array, y: Array, spread: Array) -> Array:
    """Least squares of y on x with weights 1/spread^2."""
    return np.asarray(np.linalg.lstsq(x / spread[:, None], y / spread, rcond=None)[0], np.float64)


def _misfit(u: Array, rest: Array, spread: Array) -> tuple[float, float]:
    """Root mean square, over groups of neighbouring targets, of found minus fitted spread; and what chance gives."""
    order = np.argsort(u, kind="stable")
    differences, chances = [], []
    for group in np.array_split(order, min(BINS, u.size // 10)):
        fitted = sqrt(float(np.mean(spread[group] ** 2)))
        differences.append(sqrt(float(np.mean(rest[group] ** 2))) - fitted)
        chances.append(fitted / sqrt(2 * group.size))
    return sqrt(float(np.mean(np.square(differences)))), sqrt(float(np.mean(np.square(chances))))


def fit_card(path: str | Path, *, name: str, base: str = "ideal", today: str | None = None) -> CardFit:
    """A card from the readings of a file: `base`, with what was measured in place of what the base states.

    Replaced are g_min and g_max (smallest and largest target), the relaxation laws, with readings at time 0 the residual, and
    with pulses the response, by `crossbar_sim.fit`. Errors are marked derived, start and response assumed; the rest stays as the base has it.

    Raises:
        ConfigError: a file that cannot be used, or a base without the write-verify and levels that residual and pulses belong to.
    """
    readings, card = read_csv(path), preset(base)
    reference = float(readings.target.max())
    if not readings.target.min() < reference:
        raise ConfigError("fit: target_uS: all targets are the same; at least two conductances are needed")
    laws = tuple(
        error_law(readings.target[at], readings.measured[at], time=float(time), reference=reference)
        for time in np.unique(readings.time)
        for at in [readings.time == time]
    )
    mean_pulses = _mean_pulses(readings)
    _check_base(card, residual=laws[0].time == 0, pulses=mean_pulses is not None)
    entries = _entries(readings, laws, card, mean_pulses)
    origin = f"Measured: {Path(path).name}, fitted {today or date.today().isoformat()}"
    return CardFit(laws, mean_pulses, _toml(name, card, _named(base), origin, entries))


def _check_base(card: Preset, *, residual: bool, pulses: bool) -> None:
    """The base must have what the measurements belong to."""
    if card.programming is None and (residual or pulses):
        raise ConfigError(
            f"fit: card {card.name!r} has no write-verify, which readings at time_s 0 and pulses belong to; "
            "name a base that has, or leave these out"
        )
    if pulses and not card.device.levels:
        raise ConfigError(
            f"fit: card {card.name!r} has no levels, which the response to pulses is fitted on; name another base, "
            "or leave out the pulses"
        )


def _mean_pulses(readings: Readings) -> float | None:
    """Mean pulses per cell, each cell counted at its first reading."""
    given = ~np.isnan(readings.pulses)
    if not given.any():
        return None
    return float(readings.pulses[given & (readings.time == readings.time[given].min())].mean())


def _entries(
    readings: Readings, laws: Sequence[ErrorLaw], card: Preset, pulses: float | None
) -> dict[str, dict[str, Entry]]:
    """What was measured, by section and entry: value and note."""
    low, high = float(readings.target.min()), float(readings.target.max())
    entries = {
        "device": {
            "g_min": Entry(low, "smallest target"),
            "g_max": Entry(high, "largest target"),
            "start": Entry(low, "g_min", (0.0, low)),
        }
    }
    later = [law for law in laws if law.time >= 1]
    if later:
        entries["relaxation"] = {
            "times": Entry([law.time for law in later]),
            "sigma": Entry([list(law.sigma) for law in later], _goodness(later)),
            "mean": Entry([list(law.mean) for law in later]),
            "reference": Entry(high, "largest target"),
        }
    found: dict[str, Entry] = {}
    if laws[0].time == 0:
        powers = [c / high**k for k, c in enumerate(laws[0].sigma)]
        found["residual"] = Entry(powers, _goodness(laws[:1]))
    if pulses is not None and card.programming is not None:
        found |= _rates(card, card.programming, low=low, high=high, pulses=pulses)
    return entries | ({"programming": found} if found else {})


def _rates(
    card: Preset, programming: Programming, *, low: float, high: float, pulses: float
) -> dict[str, Entry]:
    """Rates at which the mean pulses come out, the base's bounds of the response stretched to the measured range."""
    stretch = (high - low) / card.device.span
    bottom = max(0.0, low - stretch * (card.device.g_min - programming.bottom))
    top = high + stretch * (programming.top - card.device.g_max)
    device = replace(card.device, g_min=low, g_max=high, start=low)
    ranged = replace(programming, bottom=bottom, top=top)
    fitted = faster(ranged, fit_factor(device, ranged, pulses=pulses))
    note = f"{pulses:.4g} pulses in the mean, with the base's response"
    rates = {
        name: Entry(rate, note, (0.8 * rate, 1.2 * rate))
        for name, rate in (("set_rate", fitted.set_rate), ("reset_rate", fitted.reset_rate))
    }
    moved = "the base's, moved with the range"
    return rates | {
        "bottom": Entry(bottom, moved, (0.0, low)),
        "top": Entry(top, moved, (high, high + 2 * (top - high))),
    }


def _goodness(laws: Sequence[ErrorLaw]) -> str:
    return "; ".join(
        f"{law.time:g} s: {law.n} readings, misfit {1e6 * law.misfit:.3g} uS (chance {1e6 * law.expected:.3g}), KS p {law.p:.2g}"
        for law in laws
    )


def _named(base: str) -> str:
    """The base as the new card names it: a path in full, as the card may lie anywhere."""
    return str(Path(base).resolve()) if base.endswith(".toml") else base


def _toml(name: str, card: Preset, base: str, origin: str, entries: Mapping[str, Mapping[str, Entry]]) -> str:
    key = "measured"
    while key in card.sources:
        key += "_again"
    lines = [
        f"name = {json.dumps(name)}",
        f"title = {json.dumps(f'{name}: measured, the rest as in {card.name}')}",
        f"base = {json.dumps(base)}",
        f"\n[sources]\n{key} = {json.dumps(origin)}",
    ]
    for section, values in entries.items():
        lines.append(f"\n[{section}]")
        lines += [f"{entry} = {_inline(number, key)}" for entry, number in values.items()]
    return "\n".join(lines) + "\n"


def _inline(entry: Entry, source: str) -> str:
    """The entry as an inline table."""
    bounds = "" if entry.bounds is None else ", low = {}, high = {}".format(*map(_plain, entry.bounds))
    note = f", note = {json.dumps(entry.note)}" if entry.note else ""
    mark = "derived" if entry.bounds is None else "assumed"
    value = json.dumps(_plain(entry.value))
    return f'{{ value = {value}, mark = "{mark}", source = "{source}"{bounds}{note} }}'


def _plain(value: Any) -> Any:
    """Numbers and lists of Python floats, seven digits."""
    return [_plain(item) for item in value] if isinstance(value, list) else float(f"{value:.7g}")
