"""The cells of an array: what they were asked for, what they hold now, and what wore them out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crossbar_kernels import get_kernels
from crossbar_kernels.philox import Purpose
from crossbar_sim import noise, variation
from crossbar_sim import programming as program
from crossbar_sim.errors import ConfigError
from crossbar_sim.presets import Preset
from crossbar_sim.programming import Programmed, Source, Traits

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]
RELAXATION, DRIFT = 0, 1
"""Planes of Purpose.RELAX: a cell's deviation and its drift exponent are independent."""
REDRAWN = 2**31
"""First event of redrawn deviations; the cells' own events count from 0."""


class Cells:
    """The persistent state of one array's cells, [tile, slice, sign, copy, rows, cols].

    G(t) follows from what programming left, one standard normal per cell and programming (relaxation), one more for
    the drift exponent, and the time since the cell was last pulsed; a stuck cell keeps its conductance for ever.
    Nothing here knows the chip, the ledger or weights.

    Attributes:
        used: cells that hold a weight; the others have conductance 0, take no pulse and are never read.
        target: conductances asked for last, S.
        wear: pulses that each cell has taken.
        version: number of `program` calls.
        unconverged: used cells that the last programming gave up (the verify-fail list).
        bounds: lowest and highest conductance of each cell, S; None where all cells have the card's range.
    """

    def __init__(
        self,
        used: Mask,
        *,
        preset: Preset,
        key: tuple[int, int],
        kernels_name: str,
        now: float,
        stuck: Array | None = None,
    ) -> None:
        """Fresh cells at `now` s.

        Args:
            used: mask of the shape of the state.
            preset: the card.
            key: of the array's random numbers.
            kernels_name: arithmetic, by name so that cells can be pickled.
            now: the chip's time, s.
            stuck: conductance (S) of stuck cells, NaN for healthy ones; default: drawn from the card's fault rates.

        Raises:
            ConfigError: the map has another shape or negative conductances.
        """
        self.preset, self.used = preset, used
        self._origin = variation.Origin(used.shape, key, kernels_name)
        self._count = int(np.count_nonzero(used))
        self.version = 0
        self.wear = np.zeros(used.shape, np.float32)
        self.unconverged: Mask = np.zeros(used.shape, bool)
        self._settled: NDArray[np.float32] = np.zeros(used.shape, np.float32)
        self._moments = [now]
        self._group: NDArray[np.int32] | None = None
        self._blank = True
        self._event: int | None = 0
        self._deviations: dict[int, NDArray[np.float32]] = {}
        self.bounds = variation.ranges(preset.device, self._origin)
        self._stuck: Array | None = None
        drawn = variation.faults(preset.faults, preset.device, self._origin) if stuck is None else None
        self._fix(drawn if stuck is None else variation.fault_map(stuck, used.shape))
        self._nominal: Array | None = None
        self._written = self._fresh()
        self.target = self._aim = self._written

    # -- what distinguishes the cells ------------------------------------------------------------------------

    @property
    def stuck(self) -> Array:
        """Conductance (S) of the cells that will never move again, NaN for the others."""
        return np.full(self.used.shape, np.nan) if self._stuck is None else self._stuck

    def _fresh(self) -> Array:
        """Conductance of cells that were never pulsed."""
        fresh = np.full(self.used.shape, self.preset.device.fresh)
        if self.bounds is not None:
            np.clip(fresh, *self.bounds, out=fresh)
        return self._only_used(self._holding(fresh))

    def _holding(self, values: Array) -> Array:
        """The values, with stuck cells where they are stuck."""
        return values if self._stuck is None else np.where(np.isnan(self._stuck), values, self._stuck)

    @property
    def written(self) -> Array:
        """What programming left, S: the conductances before any relaxation or drift."""
        return self._written

    def use(self, used: Mask) -> None:
        """Another selection of the cells holds weights from now on (columns moved to spares); new ones are fresh."""
        new = used & ~self.used
        self.used = used
        self._count = int(np.count_nonzero(used))
        fresh = self._fresh()
        self._written = self._only_used(np.where(new, fresh, self._written))
        self._aim, self.target = (np.where(new, fresh, values) for values in (self._aim, self.target))
        self._settled = np.where(new, np.float32(0), self._settled)
        if self._nominal is not None:
            self._nominal = np.where(new, self.preset.device.fresh, self._nominal)
        self.unconverged = self.unconverged & used

    def _only_used(self, values: Array) -> Array:
        return values if self._count == self.used.size else values * self.used

    # -- programming -----------------------------------------------------------------------------------------

    def program(
        self, target: Array, *, now: float, statistical: bool, where: Mask | None = None
    ) -> Programmed:
        """Bring the cells to `target` in the card's rounds of write-verify.

        The chip's clock stands still: the last round is written at `now`, round r of R at now - (R - 1 - r) rest, so that
        every cell has the right age afterwards. A round pulses the cells that it finds outside their window; the others
        keep their deviations and their age.

        Args:
            target: conductances, S.
            now: the chip's time, s.
            statistical: published statistics instead of the pulse loop.
            where: cells to program; the others are neither read nor pulsed and keep their target. Default: all in use.

        Returns:
            Counts, energies and pulses of all rounds together.
        """
        card = self.preset.programming
        rounds, rest = (card.rounds, card.rest) if card is not None else (1, 0.0)
        chosen = self.used if where is None else self.used & where
        report: Programmed | None = None
        for turn in range(rounds):
            moment, event = now - (rounds - 1 - turn) * rest, self.version * rounds + turn
            if turn:  # a cell that was given up would take its whole train in vain again
                chosen = chosen & ~self.unconverged
            start = self._written if self._blank else self.conductance(moment)
            done = self._write(start, target, chosen, event, statistical=statistical)
            self._take(done, target, chosen, (moment, event))
            report = done if report is None else program.combined(report, done)
        assert report is not None  # there is at least one round
        self.version += 1
        if rounds == 1:
            return report
        missed = int(np.count_nonzero(self.unconverged))
        return replace(report, accepted=self.used & ~self.unconverged, unconverged=missed)

    def _write(
        self, start: Array, target: Array, chosen: Mask, event: int, *, statistical: bool
    ) -> Programmed:
        """One round, in the card's way of writing."""
        card, loop, device = self.preset.programming, self.preset.open_loop, self.preset.device
        source = Source(get_kernels(self._origin.kernels_name), self._origin.key, event)
        if card is not None and statistical:
            return program.statistical(start, target, self._traits(chosen), device, card, source=source)
        if card is not None:
            return program.write_verify(start, target, self._traits(chosen, own=True), card, source=source)
        if loop is None:
            return self._set_at_once(target)
        traits = self._traits(chosen, own=True)
        fresh = np.full(target.shape, device.fresh)  # all that a controller knows of cells it never pulsed
        nominal = fresh if self._nominal is None else self._nominal
        counts = program.counted_pulses(nominal, target, loop)[0]
        self._nominal = np.where(chosen, program.on_curve(nominal, counts, loop), nominal)
        return program.open_loop(start, nominal, target, traits, device, loop, source=source)

    def _traits(self, chosen: Mask, *, own: bool = False) -> Traits:
        """What sets these cells apart, with each cell's `own` pulse strength where pulses are followed one by one."""
        device, origin = self.preset.device, self._origin
        strength = None
        if own and device.strength_spread:
            kernels = get_kernels(origin.kernels_name)
            strength = program.strengths(origin.shape, device, kernels=kernels, key=origin.key)
        low, high = self.bounds if self.bounds is not None else (None, None)
        used = None if np.count_nonzero(chosen) == chosen.size else chosen
        stuck = None if self._stuck is None else ~np.isnan(self._stuck)
        return Traits(strength, stuck, low, high, used)

    def _set_at_once(self, target: Array) -> Programmed:
        """Cells without a law of programming take what they are asked for, in their own range."""
        written = target if self.bounds is None else np.clip(target, *self.bounds)
        written = self._holding(written)
        none = np.zeros(target.shape, np.float32)
        accepted = written == target
        missed = int(np.count_nonzero(~accepted & self.used))
        return Programmed(written, none, none, accepted, 0, 0, 0, missed, 0.0, 0.0, 0.0, 0, 0, 0)

    def _take(self, done: Programmed, target: Array, chosen: Mask, stamp: tuple[float, int]) -> None:
        """Pulsed cells get what was written, a new deviation and a new age; the others keep theirs."""
        everything = chosen is self.used
        touched = chosen if self.preset.writes_at_once else done.pulses > 0
        self.wear += done.pulses
        self.target = target if everything else np.where(chosen, target, self.target)
        failed = chosen & ~done.accepted
        self.unconverged = failed if everything else np.where(chosen, failed, self.unconverged)
        if np.count_nonzero(touched) == self._count or (self._blank and everything):
            self._written, self._settled, self._aim = self._only_used(done.written), done.settled, self.target
            self._stamp_all(*stamp)
        else:
            self._written = np.where(touched, done.written, self._written)
            self._settled = np.where(touched, done.settled, self._settled)
            self._aim = np.where(touched, target, self._aim)
            self._stamp(touched, *stamp)
        self._blank = False
        self._wear_out()

    def _wear_out(self) -> None:
        """A cell that has spent its life stays for ever at the conductance it has now."""
        worn = variation.worn_out(self.wear, self.preset.device, self._origin)
        if worn is None:
            return
        dead = worn & self.used & np.isnan(self.stuck)
        if dead.any():
            self._fix(np.where(dead, self._written, self.stuck))

    def _fix(self, stuck: Array | None) -> None:
        """Cells that are stuck from now on, and where; a stuck cell's own range is that one conductance."""
        self._stuck = stuck
        if self.bounds is not None:
            low, high = self.bounds
            self.bounds = self._holding(low), self._holding(high)

    # -- age and deviations ----------------------------------------------------------------------------------

    def _stamp_all(self, moment: float, event: int) -> None:
        self._moments, self._group = [moment], None
        self._event, self._deviations = event, {}

    def _stamp(self, touched: Mask, moment: float, event: int) -> None:
        """The touched cells were written at `moment` and draw their deviations at `event`."""
        if not touched.any():
            return
        for plane in self._planes():
            fresh = self._origin.normals(Purpose.RELAX, event=event, plane=plane)
            self._deviations[plane] = np.where(touched, fresh, self._deviation(plane))
        self._event = None
        if self._moments == [moment]:
            return
        group = np.zeros(self.used.shape, np.int32) if self._group is None else self._group
        group = np.where(touched, np.int32(len(self._moments)), group)
        kept = np.flatnonzero(np.bincount(group[self.used]))
        self._moments = [[*self._moments, moment][k] for k in kept]
        self._group = np.minimum(np.searchsorted(kept, group), len(kept) - 1).astype(np.int32)

    def _planes(self) -> list[int]:
        """Which deviations this card's cells have."""
        laws = ((RELAXATION, bool(self.preset.relaxation.times)), (DRIFT, self.preset.drift.present))
        return [plane for plane, present in laws if present]

    def _deviation(self, plane: int) -> NDArray[np.float32]:
        """The cells' standard normals; drawn when they are first asked for."""
        if plane not in self._deviations:
            assert self._event is not None  # deviations of several events are kept, not drawn
            self._deviations[plane] = self._origin.normals(Purpose.RELAX, event=self._event, plane=plane)
        return self._deviations[plane]

    def age(self, now: float) -> Array:
        """Seconds since each cell was last pulsed, counted from 1; broadcasts against the cells."""
        ages = np.array([self._age(moment, now) for moment in self._moments])
        return ages[0] if self._group is None else ages[self._group]

    @staticmethod
    def _age(moment: float, now: float) -> float:
        return max(now - moment + 1.0, 1.0)

    # -- what the cells hold ---------------------------------------------------------------------------------

    def conductance(self, now: float, *, redraw: int | None = None) -> Array:
        """The conductances at `now` s, S; 0 where a cell is not used. Do not write into it.

        Args:
            now: the chip's time, s.
            redraw: for noise-aware training: fresh programming and relaxation deviations of this event instead of
                the cells' own, as if the same chip had been programmed once more; nothing is kept.
        """
        written, planes = self._written, self._planes()
        if redraw is None:
            z = {plane: self._deviation(plane) for plane in planes}
        else:
            event = REDRAWN + redraw
            written = self._rewritten(event)
            z = {plane: self._origin.normals(Purpose.RELAX, event=event, plane=plane) for plane in planes}
        if not planes or self._blank:
            return written
        out = np.empty_like(written)
        for at in np.ndindex(written.shape[:4]):
            out[at] = self._aged(at, written[at], {plane: z[plane][at] for plane in planes}, now)
        return self._only_used(self._holding(out))

    def _rewritten(self, event: int) -> Array:
        """What another programming would have left: the target and a fresh residual, in cells that were pulsed."""
        z = self._origin.normals(Purpose.PROGRAM, event=event)
        fresh = np.maximum(self._aim + self._settled * z, 0.0)
        if self.bounds is not None:
            np.clip(fresh, *self.bounds, out=fresh)
        return self._holding(np.where((self._settled > 0) & ~self.unconverged, fresh, self._written))

    def _aged(
        self, at: tuple[int, ...], written: Array, z: dict[int, NDArray[np.float32]], now: float
    ) -> Array:
        """Relaxation, then drift, of one block of cells [rows, cols]."""
        relaxation, drift = self.preset.relaxation, self.preset.drift
        aim, settled, out = self._aim[at], self._settled[at], written.copy()
        exponent = noise.drift_exponent(aim, z[DRIFT], drift) if DRIFT in z else None
        for index, moment in enumerate(self._moments):
            age, aged = self._age(moment, now), written
            where = np.True_ if self._group is None else self._group[at] == index
            if not where.any():
                continue
            if RELAXATION in z:
                total, mean = (f(aim, age, relaxation) for f in (noise.total_sigma, noise.mean_shift))
                aged = noise.relaxed(aged, z[RELAXATION], settled, total, mean)
            if exponent is not None:
                aged = aged * noise.drift_factor(exponent, age, drift)
            np.copyto(out, aged, where=where)
        return out

    def read_sigma(self, now: float, *, conductance: Array | None = None) -> Array:
        """Standard deviation (S) of one read of each cell at `now` s.

        Args:
            now: the chip's time, s.
            conductance: the conductances at `now`, where the caller has them already.
        """
        present = self.conductance(now) if conductance is None else conductance
        sigma = noise.read_sigma(present, self.age(now), self.preset.read_noise, self._holding(self._aim))
        return self._only_used(sigma)

    # -- keeping ---------------------------------------------------------------------------------------------

    def state(self) -> dict[str, NDArray[Any]]:
        """Everything that a checkpoint needs, as plain arrays; what follows from card and key is not in it."""
        kept: dict[str, NDArray[Any]] = {
            "version": np.array(self.version),
            "target": self.target,
            "aim": self._aim,
            "written": self._written,
            "settled": self._settled,
            "wear": self.wear.copy(),
            "used": self.used.copy(),
            "unconverged": self.unconverged,
            "moments": np.array(self._moments),
            "event": np.array(-1 if self._event is None else self._event),
        }
        if self._group is not None:
            kept["group"] = self._group
        kept |= {n: v for n, v in (("stuck", self._stuck), ("nominal", self._nominal)) if v is not None}
        if self._event is None:
            kept |= {f"deviation_{plane}": z for plane, z in self._deviations.items()}
        return kept

    def restore(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Take over a `state` of cells of the same card, key and shape.

        Raises:
            ConfigError: the state is of cells of another shape.
        """
        if state["written"].shape != self.used.shape:
            raise ConfigError(
                f"state: holds cells of shape {state['written'].shape}, this array has {self.used.shape}"
            )
        self.version, event = int(state["version"]), int(state["event"])
        self._blank = self.version == 0
        self.target, self._aim, self._written = (state[n].copy() for n in ("target", "aim", "written"))
        self._settled, self.wear, self.unconverged, self.used = (
            state[n].copy() for n in ("settled", "wear", "unconverged", "used")
        )
        self._count = int(np.count_nonzero(self.used))
        self._moments, self._event = [float(m) for m in state["moments"]], None if event < 0 else event
        self._group = state["group"].copy() if "group" in state else None
        self._nominal = state["nominal"].copy() if "nominal" in state else None
        self.bounds = variation.ranges(self.preset.device, self._origin)
        self._fix(state["stuck"].copy() if "stuck" in state else None)
        self._deviations = {
            p: state[f"deviation_{p}"].copy() for p in (RELAXATION, DRIFT) if f"deviation_{p}" in state
        }
