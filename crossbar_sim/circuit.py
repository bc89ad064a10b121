"""What surrounds the cells: tiles, wires, converters, and how weights are spread over cells; frozen, in SI units."""

from __future__ import annotations

from dataclasses import dataclass

from crossbar_sim.checks import not_negative, one_of, positive, require

CODINGS = ("one_sided", "two_sided", "offset")
PAIRS = ("columns", "rows", "arrays")
SCALES = ("column", "matrix")
SPLITS = ("equal", "full")
OFFSETS = ("digital", "unit_column")
REMEDIES = ("none", "mask", "compensate")
STAGES = ("analog", "digital")
ADC_RANGES = ("calibrated", "max")
ADC_SCOPES = ("array", "slice", "tile", "column")
SCALINGS = ("static", "per_vector_absmax")
LADDERS = ("driven", "gated")
CELLS = ("1t1r", "1r")


@dataclass(frozen=True)
class Tiles:
    """The arrays of the chip: word lines (`rows`), bit lines (`cols`) and how many tiles there are."""

    rows: int = 256
    cols: int = 256
    count: int = 0

    def __post_init__(self) -> None:
        require(1 <= self.rows <= 1024, "Tiles.rows", f"must be 1 to 1024 (got {self.rows})")
        require(2 <= self.cols <= 1024, "Tiles.cols", f"must be 2 to 1024 (got {self.cols})")
        require(self.count >= 0, "Tiles.count", f"must not be negative (got {self.count})")


@dataclass(frozen=True)
class Process:
    """How cells are made, which decides their area alone: feature size F (`node`, m), and a transistor beside each cell or none."""

    node: float
    cell: str = "1t1r"

    def __post_init__(self) -> None:
        positive(self, "node")
        one_of("Process.cell", self.cell, CELLS)


@dataclass(frozen=True)
class Wires:
    """Resistance of one wire segment (ohm) of word and bit lines, and the circuit (crossbar_sim.wires).

    "driven": word lines are driven at their left end, bit lines sensed at their bottom end. "gated": 1T1R, a one-bit input opens
    or closes a row, supply and sum line run along the column; both have segments of `r_bl`.
    """

    r_wl: float = 0.0
    r_bl: float = 0.0
    ladder: str = "driven"

    @property
    def present(self) -> bool:
        """Whether any wire has resistance."""
        return self.r_wl > 0 or self.r_bl > 0

    def __post_init__(self) -> None:
        not_negative(self, "r_wl", "r_bl")
        one_of("Wires.ladder", self.ladder, LADDERS)


@dataclass(frozen=True)
class WeightMapping:
    """How a weight becomes cells; D = W/scale in [-1, 1].

    coding: "one_sided" G+ = max(D, 0), G- = max(-D, 0); "two_sided" G+- = (1 +- D)/2; "offset" one cell, G = (1 + D)/2 (all in
    units of the span above g_min). pair: where the two cells of a pair sit: in neighbouring "columns", in neighbouring
    "rows" driven with +V and -V (NeuRRAM), or in two "arrays". slices: cells of one weight digit each, digit base = levels;
    `weight_bits` b makes W an integer of b - 1 magnitude bits ("one_sided"; else b bits), 0: as many as the slices hold. Best when
    levels^slices is near 2^(b - 1): where the top slice uses few of its levels, its errors weigh more against the weight.
    copies: cells in parallel that hold the same value; the mean of k devices counts. scale: full scale per
    output ("column") or per matrix. split: "equal" fills the fewest tiles evenly, "full" to the brim. offset: the offset is
    subtracted digitally or by a "unit_column" in each tile. spare_columns: outputs per tile kept for repair. remedy: what the
    partner of an unconverged cell is asked for: nothing, the same conductance ("mask": the weight reads 0) or what
    restores the weight ("compensate").
    """

    coding: str = "one_sided"
    pair: str = "columns"
    slices: int = 1
    weight_bits: int = 0
    copies: int = 1
    scale: str = "column"
    split: str = "equal"
    offset: str = "digital"
    spare_columns: int = 0
    remedy: str = "none"

    def __post_init__(self) -> None:
        for name, known in (
            ("coding", CODINGS),
            ("pair", PAIRS),
            ("scale", SCALES),
            ("split", SPLITS),
            ("offset", OFFSETS),
            ("remedy", REMEDIES),
        ):
            one_of(f"WeightMapping.{name}", getattr(self, name), known)
        for name in ("slices", "copies"):
            value = getattr(self, name)
            require(1 <= value <= 16, f"WeightMapping.{name}", f"must be 1 to 16 (got {value})")
        require(
            self.weight_bits == 0 or 2 <= self.weight_bits <= 16,
            "WeightMapping.weight_bits",
            f"must be 0 or 2 to 16 (got {self.weight_bits})",
        )
        not_negative(self, "spare_columns")
        require(
            self.remedy == "none" or self.coding != "offset",
            "WeightMapping.remedy",
            f"{self.remedy!r} needs a pair; coding 'offset' has none",
        )

    @property
    def signs(self) -> int:
        """Cells of different sign per weight: 2 for a pair, 1 for offset coding."""
        return 1 if self.coding == "offset" else 2

    @property
    def largest_integer(self) -> int:
        """What `weight_bits` b makes of a full-scale weight: 2^(b-1) - 1 ("one_sided") or 2^b - 1; 0 where b is 0."""
        return int(2 ** (self.weight_bits - (self.coding == "one_sided")) - 1) if self.weight_bits else 0


@dataclass(frozen=True)
class Periphery:
    """Converters around a tile. 0 bits means an ideal converter.

    The DAC makes codes of K levels, K = 2^(dac_bits-1) - 1 (`signed`) or 2^dac_bits - 1. An unsigned DAC drives negative inputs as 0.
    Full scale is `read_voltage` (V) for `read_width` (s). `plane_bits` 0 drives a whole level at once; d drives planes of d bits of the
    code's magnitude, LSB first, one after another. accumulate: planes are added before ("analog", one conversion:
    acc <- (acc + part)/2^d) or after conversion ("digital"). subtract: the currents of a pair, likewise.

    The ADC has 2^adc_bits codes, `columns_per_adc` columns share one. Its range is "calibrated" (Chip.calibrate, or explicit: Ranges) or
    "max" (what full-scale inputs on full-scale cells could give), one per array, slice, tile or column (`adc_scope`).
    `adc_offset` (codes) and `adc_gain` (relative) are standard deviations over the ADCs, drawn once per ADC; `adc_noise` (codes, rms) is
    the noise of every conversion, as at the ADC's input.
    `column_clip` (units of the ADC's range: full-scale input x full-scale cell; 0: none) limits what a column can deliver.
    scaling: the DAC's full scale is fixed ("static") or follows max|x| of each vector, digitally ("per_vector_absmax").
    """

    dac_bits: int = 0
    adc_bits: int = 0
    read_voltage: float = 0.0
    read_width: float = 0.0
    columns_per_adc: int = 1
    signed: bool = True
    plane_bits: int = 0
    accumulate: str = "analog"
    subtract: str = "analog"
    adc_range: str = "calibrated"
    adc_scope: str = "array"
    adc_offset: float = 0.0
    adc_gain: float = 0.0
    adc_noise: float = 0.0
    column_clip: float = 0.0
    scaling: str = "static"

    def __post_init__(self) -> None:
        require(
            self.dac_bits == 0 or 1 + self.signed <= self.dac_bits <= 8,
            "Periphery.dac_bits",
            f"must be 0 (ideal) or {1 + self.signed} to 8 (got {self.dac_bits})",
        )
        require(
            self.adc_bits == 0 or 2 <= self.adc_bits <= 16,
            "Periphery.adc_bits",
            f"must be 0 (ideal) or 2 to 16 (got {self.adc_bits})",
        )
        require(
            self.columns_per_adc >= 1,
            "Periphery.columns_per_adc",
            f"must be at least 1 (got {self.columns_per_adc})",
        )

        for name, known in (
            ("accumulate", STAGES),
            ("subtract", STAGES),
            ("adc_range", ADC_RANGES),
            ("adc_scope", ADC_SCOPES),
            ("scaling", SCALINGS),
        ):
            one_of(f"Periphery.{name}", getattr(self, name), known)
        require(
            0 <= self.plane_bits <= self.magnitude_bits,
            "Periphery.plane_bits",
            f"must be 0 to {self.magnitude_bits}, the bits of a code's magnitude (got {self.plane_bits})",
        )
        not_negative(self, "adc_offset", "adc_gain", "adc_noise", "column_clip", "read_voltage", "read_width")
        require(
            self.adc_gain < 0.15,
            "Periphery.adc_gain",
            f"must be below 0.15, so that no ADC inverts (got {self.adc_gain:g})",
        )
        for name in ("adc_noise", "column_clip"):
            value = getattr(self, name)
            require(
                not value or self.adc_bits > 0,
                f"Periphery.{name}",
                f"needs an ADC with codes (adc_bits is 0, {name} {value:g}); set adc_bits, or {name} to 0",
            )

    @property
    def magnitude_bits(self) -> int:
        """Bits of a code's magnitude."""
        return max(self.dac_bits - self.signed, 0)

    @property
    def planes(self) -> int:
        """Drive phases of one product."""
        return -(-self.magnitude_bits // self.plane_bits) if self.plane_bits else 1

    @property
    def dac_scale(self) -> int:
        """K, the largest code of the DAC."""
        return int(2**self.magnitude_bits - 1)
