"""What a chip is made of: frozen descriptions in SI units, checked when they are made."""

from __future__ import annotations

from dataclasses import dataclass

from crossbar_sim.errors import ConfigError


def _require(condition: bool, field: str, problem: str) -> None:
    if not condition:
        raise ConfigError(f"{field}: {problem}")


@dataclass(frozen=True)
class Device:
    """One memory cell.

    `levels` target conductances are spaced uniformly from `g_min` to `g_max` (S); 0 means continuous.
    `strength_spread` is the device-to-device standard deviation of the pulse strength (log-normal);
    `endurance` is in SET/RESET cycles, 0 where the device does not wear. Cells start at `g_min` (HRS).
    """

    g_min: float
    g_max: float
    levels: int = 0
    strength_spread: float = 0.0
    endurance: float = 0.0

    def __post_init__(self) -> None:
        _require(self.g_min >= 0, "Device.g_min", f"must not be negative (got {self.g_min:g} S)")
        _require(
            self.g_max > self.g_min,
            "Device.g_max",
            f"must exceed g_min (got {self.g_max:g} <= {self.g_min:g})",
        )
        _require(
            self.levels == 0 or 2 <= self.levels <= 256,
            "Device.levels",
            f"must be 0 (continuous) or 2 to 256 (got {self.levels})",
        )
        _require(
            self.strength_spread >= 0,
            "Device.strength_spread",
            f"must not be negative (got {self.strength_spread:g})",
        )

    @property
    def span(self) -> float:
        """g_max - g_min in S: the conductance that stands for a full-scale weight."""
        return self.g_max - self.g_min


@dataclass(frozen=True)
class Programming:
    """Closed-loop write-verify with a voltage ramp, pulse by pulse.

    A pulse of the k-th consecutive pulse of one polarity has amplitude
    V_k = min(V_start + k V_step, V_end) and moves the cell by
    dG = (top - G) a/(1 + a) for SET and -(G - bottom) a/(1 + a) for RESET,
    a = rate exp((V_k - V_start)/slope) s max(0, 1 + cycle_spread z), s the cell's own strength.
    A cell is accepted when |G - target| <= window_abs + window_rel * target. `residual` are the
    coefficients (S, 1) of the standard deviation that an accepted cell keeps about its target, as a
    polynomial in the target conductance. Voltages in V, widths in s, conductances in S.
    """

    window_abs: float
    window_rel: float
    residual: tuple[float, ...]
    set_start: float
    set_end: float
    reset_start: float
    reset_end: float
    voltage_step: float
    pulse_width: float
    verify_voltage: float
    verify_width: float
    max_pulses: int
    set_rate: float
    reset_rate: float
    slope: float
    bottom: float
    top: float
    cycle_spread: float

    def __post_init__(self) -> None:
        _require(
            self.window_abs + self.window_rel > 0,
            "Programming.window_abs",
            "window_abs or window_rel must be positive, otherwise no cell is ever accepted",
        )
        _require(
            1 <= self.max_pulses <= 128,
            "Programming.max_pulses",
            f"must be 1 to 128 (got {self.max_pulses})",
        )
        for name in ("set_rate", "reset_rate", "slope", "voltage_step", "pulse_width", "verify_width"):
            value = getattr(self, name)
            _require(value > 0, f"Programming.{name}", f"must be positive (got {value:g})")
        _require(
            self.top > self.bottom >= 0,
            "Programming.top",
            f"must exceed bottom >= 0 (got {self.top:g}, {self.bottom:g})",
        )


@dataclass(frozen=True)
class Relaxation:
    """Total error about the target against the time since programming.

    At each of `times` (s) the standard deviation and the mean shift are polynomials in u = G/reference,
    coefficients in S. Between the times both are linear in ln t; after the last they are held.
    """

    times: tuple[float, ...] = ()
    sigma: tuple[tuple[float, ...], ...] = ()
    mean: tuple[tuple[float, ...], ...] = ()
    reference: float = 1.0

    def __post_init__(self) -> None:
        _require(
            len(self.times) == len(self.sigma) == len(self.mean),
            "Relaxation.sigma",
            f"needs one row for each of the {len(self.times)} times (sigma {len(self.sigma)}, mean {len(self.mean)})",
        )
        _require(
            all(a < b for a, b in zip(self.times, self.times[1:], strict=False))
            and all(t >= 1 for t in self.times),
            "Relaxation.times",
            f"must rise and be at least 1 s (got {self.times})",
        )


@dataclass(frozen=True)
class ReadNoise:
    """Standard deviation of one read of one cell, independent from read to read.

    `constant` (S): the same for all cells. `log10_slope` (S): slope log10(G / 1 uS)
    sqrt(ln((t + t_r)/(2 t_r))), t the time since programming, t_r = `read_time` (s) (Falcone 2025).
    """

    constant: float = 0.0
    log10_slope: float = 0.0
    read_time: float = 1e-6

    @property
    def present(self) -> bool:
        """Whether reads are noisy at all."""
        return self.constant > 0 or self.log10_slope > 0

    def __post_init__(self) -> None:
        _require(self.constant >= 0, "ReadNoise.constant", f"must not be negative (got {self.constant:g})")
        _require(
            self.log10_slope >= 0, "ReadNoise.log10_slope", f"must not be negative (got {self.log10_slope:g})"
        )
        _require(self.read_time > 0, "ReadNoise.read_time", f"must be positive (got {self.read_time:g})")


@dataclass(frozen=True)
class Tiles:
    """The arrays of the chip: word lines (`rows`), bit lines (`cols`) and how many tiles there are."""

    rows: int = 256
    cols: int = 256
    count: int = 0

    def __post_init__(self) -> None:
        _require(1 <= self.rows <= 1024, "Tiles.rows", f"must be 1 to 1024 (got {self.rows})")
        _require(2 <= self.cols <= 1024, "Tiles.cols", f"must be 2 to 1024 (got {self.cols})")
        _require(self.count >= 0, "Tiles.count", f"must not be negative (got {self.count})")


@dataclass(frozen=True)
class Periphery:
    """Converters around a tile. 0 bits means an ideal converter.

    The DAC drives a signed level code/K, K = 2^(dac_bits-1) - 1, of `read_voltage` (V) for `read_width` (s);
    the ADC turns the difference of a column pair into one of 2^adc_bits codes. `columns_per_adc` columns
    share one ADC.
    """

    dac_bits: int = 0
    adc_bits: int = 0
    read_voltage: float = 0.0
    read_width: float = 0.0
    columns_per_adc: int = 1

    def __post_init__(self) -> None:
        _require(
            self.dac_bits == 0 or 2 <= self.dac_bits <= 8,
            "Periphery.dac_bits",
            f"must be 0 (ideal) or 2 to 8 (got {self.dac_bits})",
        )
        _require(
            self.adc_bits == 0 or 2 <= self.adc_bits <= 16,
            "Periphery.adc_bits",
            f"must be 0 (ideal) or 2 to 16 (got {self.adc_bits})",
        )
        _require(
            self.columns_per_adc >= 1,
            "Periphery.columns_per_adc",
            f"must be at least 1 (got {self.columns_per_adc})",
        )

    @property
    def dac_scale(self) -> int:
        """K = 2^(dac_bits-1) - 1, the largest code of the signed DAC."""
        return int(2 ** (self.dac_bits - 1) - 1)
