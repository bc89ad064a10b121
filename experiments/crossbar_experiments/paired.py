"""How much better one method is than another, text by text, with a 95 % interval."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from crossbar_experiments.errors import BenchError
from crossbar_sim.errors import nearest

if TYPE_CHECKING:
    import pandas as pd

    from crossbar_experiments.store import Results

RUN = ["task", "seed", "chip_seed"]
REPLICATE = ["seed", "chip_seed"]
LEVEL = 0.95
NAN = float("nan")


@dataclass(frozen=True)
class Difference:
    """Accuracy of a label minus that of another, in points, and the ends of its paired 95 % interval.

    `runs` pairs of (task, seed, chip seed) entered; without any all numbers are NaN.
    """

    mean: float
    low: float
    high: float
    runs: int


def paired_difference(results: Results, *, chip: str, label: str, baseline: str) -> Difference:
    """The mean of correct(label) - correct(baseline) over shared test texts, tasks weighted equally.

    With d[t, s, i] in {-1, 0, 1} for task t, replicate s (a seed and chip seed) and test text i,
    mean = 1/T sum_t 1/S_t sum_s 1/n_ts sum_i d. Texts and replicates are crossed within a task; the variance
    is the two-way clustered one (Cameron, Gelbach and Miller 2011)

        V = V_text + V_replicate - V_both, and no less than V_text or V_replicate alone,

    each part being sum_t C_t / (C_t - 1) sum of squares of a task's C_t weighted deviations: of d from
    d[t, s], summed per text (V_text) or one by one (V_both), and of d[t, s] from d[t] (V_replicate; 0 with
    one replicate). The interval is Student's t with Welch-Satterthwaite degrees of freedom. Tasks are fixed, and
    replicates of different tasks independent. With one replicate the standard error is
    sqrt(sum_t s_t^2 / n_t) / T: the paired interval over texts.

    Raises:
        BenchError: an unknown label, two cells for one run, or predictions for different texts.
    """
    ours, theirs = _correct(results, chip, label), _correct(results, chip, baseline)
    pairs = ours.merge(theirs, on=[*RUN, "index"], suffixes=("", "_baseline"), validate="one_to_one")
    if not pairs["truth"].equals(pairs["truth_baseline"].rename("truth")):
        raise BenchError(
            f"compare: {label!r} and {baseline!r} on {chip} disagree on the true class of a text; "
            "compare runs of one data split"
        )
    if pairs.empty:
        return Difference(NAN, NAN, NAN, 0)
    pairs["d"] = 100.0 * (pairs["correct"] - pairs["correct_baseline"])
    runs = pairs.groupby(RUN, as_index=False)["d"].agg(["mean", "size"])
    by_task = runs.groupby("task")["mean"]
    runs["weight"] = 1.0 / (by_task.transform("size") * runs["task"].nunique())
    mean = math.fsum(runs["weight"] * runs["mean"])
    pairs = pairs.merge(runs, on=RUN)
    runs["deviation"] = runs["weight"] * (runs["mean"] - by_task.transform("mean"))
    pairs["deviation"] = pairs["weight"] * (pairs["d"] - pairs["mean"]) / pairs["size"]
    half = _half_width(
        _clustered(pairs, ["index"]), _clustered(runs, REPLICATE), _clustered(pairs, [*REPLICATE, "index"])
    )
    return Difference(mean, mean - half, mean + half, len(runs))


def one_cell_per_run(metrics: pd.DataFrame) -> None:
    """Check that no two cells answer for the same chip, label, task, seed and chip seed.

    Raises:
        BenchError: there are two; averaging them would mix two experiments.
    """
    double = metrics[metrics.duplicated(["chip", "label", *RUN], keep=False)]
    if not double.empty:
        first = double.iloc[0]
        cells = ", ".join(double["cell"].head(4))
        raise BenchError(
            f"results: cells {cells} answer for the same run ({first['label']}, {first['chip']}, "
            f"{first['task']}, seed {first['seed']}); keep the cells of one configuration"
        )


def check_label(metrics: pd.DataFrame, label: str, what: str) -> None:
    """Raise BenchError, with the nearest right name, where no cell has this label."""
    if label not in set(metrics["label"]):
        raise BenchError(f"{what}: no cell is labelled {label!r}{nearest(label, set(metrics['label']))}")


def _correct(results: Results, chip: str, label: str) -> pd.DataFrame:
    """Columns task, seed, chip_seed, index, truth, correct (0 or 1) of one label on one chip."""
    check_label(results.metrics, label, "compare")
    cells = results.metrics[(results.metrics["chip"] == chip) & (results.metrics["label"] == label)]
    one_cell_per_run(cells)
    texts = results.predictions.rename(columns={"label": "truth"})
    frame = cells[["cell", *RUN]].merge(texts, on="cell")
    frame["correct"] = (frame["truth"] == frame["predicted"]).astype(float)
    return frame[[*RUN, "index", "truth", "correct"]]


def _clustered(parts: pd.DataFrame, keys: list[str]) -> tuple[float, float]:
    """Variance of the sum of `deviation`, clustered by `keys` within a task, and its degrees of freedom."""
    sums = parts.groupby(["task", *keys], as_index=False)["deviation"].sum()
    counts = sums.groupby("task")["deviation"].transform("size")
    several = counts > 1
    squares = (sums["deviation"] ** 2 * counts / (counts - 1).where(several))[several]
    return math.fsum(squares), float(len(sums) - sums["task"].nunique())


def _half_width(
    texts: tuple[float, float], replicates: tuple[float, float], both: tuple[float, float]
) -> float:
    """Half of the interval from (variance, degrees of freedom) of the three clusterings."""
    from scipy.stats import t as student

    variance = max(texts[0] + replicates[0] - both[0], texts[0], replicates[0])
    parts = [part for part in (texts, replicates) if part[1] > 0]
    if not parts:
        return NAN
    spread = math.fsum(v**2 / freedom for v, freedom in parts)
    if spread == 0.0:
        return 0.0
    return float(student.ppf(0.5 + LEVEL / 2, variance**2 / spread)) * math.sqrt(variance)
