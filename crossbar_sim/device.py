"""One memory cell: frozen descriptions in SI units, checked when they are made."""

from __future__ import annotations

from dataclasses import dataclass

from crossbar_sim.checks import finite, not_negative, one_of, positive, require

PULSE_ENERGIES = ("arithmetic", "harmonic")
"""Means of the conductances before and after a pulse that it may be taken to dissipate at."""


@dataclass(frozen=True)
class Device:
    """One memory cell.

    `levels` target conductances are spaced uniformly from `g_min` to `g_max` (S); 0 means continuous.
    A fresh cell is at `start` (S; None: g_min, the HRS). Device to device: `strength_spread` is the standard
    deviation of ln(pulse strength), `low_spread` and `high_spread` those of each cell's own lowest and highest conductance, in
    units of g_max - g_min. `endurance` is the median life in SET/RESET cycles (two pulses each; 0: no wear),
    log-normal with `endurance_decades` its standard deviation in decades.
    """

    g_min: float
    g_max: float
    levels: int = 0
    start: float | None = None
    strength_spread: float = 0.0
    low_spread: float = 0.0
    high_spread: float = 0.0
    endurance: float = 0.0
    endurance_decades: float = 0.0

    def __post_init__(self) -> None:
        finite(self, "g_min", "g_max")
        require(self.g_min >= 0, "Device.g_min", f"must not be negative (got {self.g_min:g} S)")
        require(
            self.g_max > self.g_min,
            "Device.g_max",
            f"must exceed g_min (got {self.g_max:g} <= {self.g_min:g})",
        )
        require(
            self.levels == 0 or 2 <= self.levels <= 256,
            "Device.levels",
            f"must be 0 (continuous) or 2 to 256 (got {self.levels})",
        )
        require(
            self.start is None or self.start >= 0, "Device.start", f"must not be negative (got {self.start})"
        )
        not_negative(self, "strength_spread", "low_spread", "high_spread", "endurance", "endurance_decades")

    @property
    def fresh(self) -> float:
        """Conductance (S) of a cell that was never programmed."""
        return self.g_min if self.start is None else self.start

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
    A cell is accepted when |G - target| <= window_abs + window_rel * target. It is given up after `max_pulses`,
    after `max_reversals` changes of polarity, or after `max_end_pulses` consecutive pulses at V_end (0: no such limit).
    `compliance` (A, 0: none) caps the current of a SET pulse and with it the heat, V min(V Gbar, I_c) t. A pulse dissipates V^2 Gbar t;
    `pulse_energy`: Gbar is the "arithmetic" mean (G_0 + G_1)/2 (MLP+NeuroSim V3.0), or the "harmonic" one 2/(1/G_0 + 1/G_1), of the mean
    resistance (DNN+NeuroSim V2.1).
    `residual` are the coefficients (S, 1) of the standard deviation that an accepted cell keeps about its target, as a
    polynomial in the target conductance. Programming is repeated in `rounds`, `rest` s apart: cells that relaxed out of their
    window in between are pulsed again. Voltages in V, widths in s, conductances in S.
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
    max_reversals: int = 0
    max_end_pulses: int = 0
    compliance: float = 0.0
    rounds: int = 1
    rest: float = 1.0
    pulse_energy: str = "arithmetic"

    def __post_init__(self) -> None:
        one_of("Programming.pulse_energy", self.pulse_energy, PULSE_ENERGIES)
        finite(self, "set_start", "set_end", "reset_start", "reset_end", "verify_voltage", "bottom", "top")
        not_negative(self, "window_abs", "window_rel")
        require(
            self.window_abs + self.window_rel > 0,
            "Programming.window_abs",
            "window_abs or window_rel must be positive, otherwise no cell is ever accepted",
        )
        require(
            1 <= self.max_pulses <= 128,
            "Programming.max_pulses",
            f"must be 1 to 128 (got {self.max_pulses})",
        )
        for name, start, end in (
            ("set", self.set_start, self.set_end),
            ("reset", self.reset_start, self.reset_end),
        ):
            require(
                start <= end,
                f"Programming.{name}_end",
                f"must not be below {name}_start (got {end:g} < {start:g})",
            )
        require(1 <= self.rounds <= 16, "Programming.rounds", f"must be 1 to 16 (got {self.rounds})")
        positive(self, "set_rate", "reset_rate", "slope", "voltage_step", "pulse_width", "verify_width")
        not_negative(self, "max_reversals", "max_end_pulses", "compliance", "rest", "cycle_spread")
        require(
            self.top > self.bottom >= 0,
            "Programming.top",
            f"must exceed bottom >= 0 (got {self.top:g}, {self.bottom:g})",
        )


@dataclass(frozen=True)
class OpenLoop:
    """Counted pulses of one amplitude, without verify (the "nonlinear weight update" of NeuroSim and aihwkit).

    A pulse moves the cell by rate (top - G) s (1 + cycle_spread z) up, or rate (G - bottom) s (1 + cycle_spread z) down, plus
    `cycle_noise` z' (S): soft bounds; NeuroSim's G = B (1 - exp(-P/A)) + G_min is this law with rate = 1 - exp(-1/A) and
    top = G_min + B (Chen 2018). The number of pulses is counted beforehand on the nominal curve (s = 1) from the cell's
    nominal conductance, at most `max_pulses`; `write_noise` (S) is what remains of each write. A cell stays
    within its own lowest and highest conductance. `pulse_energy` as in Programming.
    """

    set_voltage: float
    reset_voltage: float
    set_width: float
    reset_width: float
    set_rate: float
    reset_rate: float
    bottom: float
    top: float
    max_pulses: int
    cycle_spread: float = 0.0
    cycle_noise: float = 0.0
    write_noise: float = 0.0
    pulse_energy: str = "arithmetic"

    def __post_init__(self) -> None:
        one_of("OpenLoop.pulse_energy", self.pulse_energy, PULSE_ENERGIES)
        finite(self, "set_voltage", "reset_voltage", "bottom", "top")
        positive(self, "set_width", "reset_width")
        for name in ("set_rate", "reset_rate"):
            value = getattr(self, name)
            require(0 < value <= 1, f"OpenLoop.{name}", f"must be in (0, 1] (got {value:g})")
        require(
            self.top > self.bottom, "OpenLoop.top", f"must exceed bottom (got {self.top:g}, {self.bottom:g})"
        )
        require(
            1 <= self.max_pulses <= 128, "OpenLoop.max_pulses", f"must be 1 to 128 (got {self.max_pulses})"
        )
        not_negative(self, "cycle_spread", "cycle_noise", "write_noise")


@dataclass(frozen=True)
class Faults:
    """Cells that never move: the share of cells stuck at g_min, at g_max, and at a conductance uniform between them."""

    stuck_low: float = 0.0
    stuck_high: float = 0.0
    stuck_undefined: float = 0.0

    @property
    def rate(self) -> float:
        """Share of cells that are stuck."""
        return self.stuck_low + self.stuck_high + self.stuck_undefined

    def __post_init__(self) -> None:
        not_negative(self, "stuck_low", "stuck_high", "stuck_undefined")
        require(self.rate <= 1, "Faults.stuck_undefined", f"the three shares exceed 1 (sum {self.rate:g})")


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
        require(
            len(self.times) == len(self.sigma) == len(self.mean),
            "Relaxation.sigma",
            f"needs one row for each of the {len(self.times)} times (sigma {len(self.sigma)}, mean {len(self.mean)})",
        )
        require(
            all(a < b for a, b in zip(self.times, self.times[1:], strict=False))
            and all(t >= 1 for t in self.times),
            "Relaxation.times",
            f"must rise and be at least 1 s (got {self.times})",
        )
        positive(self, "reference")


@dataclass(frozen=True)
class Drift:
    """Power-law drift G(t) = G ((t + t0)/t0)^-nu, nu = |mu(r) + sigma(r) z| of each cell, r = G_target/reference.

    mu and sigma are clip(a ln r + b, low, high); each is given as (a, b, low, high). (Joshi 2020; Nandakumar 2019.)
    `start` is t0 in s, 0: no drift.
    """

    start: float = 0.0
    reference: float = 1.0
    mu: tuple[float, ...] = (0.0, 0.0, 0.0, 0.0)
    sigma: tuple[float, ...] = (0.0, 0.0, 0.0, 0.0)

    @property
    def present(self) -> bool:
        """Whether conductances drift at all."""
        return self.start > 0

    def __post_init__(self) -> None:
        not_negative(self, "start")
        positive(self, "reference")
        for name in ("mu", "sigma"):
            value = getattr(self, name)
            require(len(value) == 4, f"Drift.{name}", f"must be (a, b, low, high) (got {len(value)} numbers)")


@dataclass(frozen=True)
class ReadNoise:
    """Standard deviation of one read of one cell, independent from read to read.

    A card gives one of three laws.

    `constant` (S): the same for all cells. `log10_slope` (S): slope log10(G / 1 uS) f(t) (Falcone 2025).
    `flicker`: G min(cap, flicker / r^exponent) f(t), r = G_target/reference (Nandakumar 2019), f(t) = sqrt(ln((t + t_r)/(2 t_r))),
    t the time since programming plus `delay`, t_r = `read_time` (s).
    """

    constant: float = 0.0
    log10_slope: float = 0.0
    flicker: float = 0.0
    exponent: float = 0.0
    cap: float = 1.0
    reference: float = 1.0
    delay: float = 0.0
    read_time: float = 1e-6

    @property
    def present(self) -> bool:
        """Whether reads are noisy at all."""
        return self.constant > 0 or self.log10_slope > 0 or self.flicker > 0

    def __post_init__(self) -> None:
        not_negative(self, "constant", "log10_slope", "flicker", "exponent", "cap", "delay")
        positive(self, "read_time", "reference")
        require(self.read_time <= 1, "ReadNoise.read_time", f"must be at most 1 s (got {self.read_time:g})")
        given = [n for n in ("constant", "log10_slope", "flicker") if getattr(self, n) > 0]
        require(len(given) <= 1, "ReadNoise", f"give one law (got {', '.join(given)})")
