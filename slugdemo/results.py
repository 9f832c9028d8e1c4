"""Result: one number that was measured, as a row; and found things as plain data.

Numbers that are no numbers become null. Knows values only; prints nothing.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from slugdemo.evaluation import metrics
from slugdemo.evaluation.prompt_set import Measurement

HARMONIC = "harmonic mean of forget, retain and robust"


@dataclass(frozen=True)
class Result:
    """One row: a metric of a method (or control, or reference) for one concept in one model.

    `attack` and `on` ("edited", "original", "reference") say what was attacked; `split` is
    "search" or "report"; `low` and `high` bound the 95 % interval; `digest` is that of the
    weights; `note` says why there is no value.
    """

    model: str
    concept: str
    method: str
    attack: str = ""
    on: str = "edited"
    metric: str = ""
    split: str = "report"
    value: float = math.nan
    n: int = 0
    low: float = math.nan
    high: float = math.nan
    seconds: float = math.nan
    peak_bytes: int = 0
    seed: int = 0
    digest: str = ""
    note: str = ""

    def of(self, metric: str, value: float, n: int, *, split: str = "report") -> "Result":
        """The same row for a rate measured on n items, with its Wilson interval."""
        low, high = metrics.wilson(value, n)
        return replace(self, metric=metric, value=value, n=n, low=low, high=high, split=split)

    def measured(self, row: Measurement) -> "Result":
        """The same row for what was measured on the report split."""
        low, high = row.interval
        return replace(self, metric=row.metric, value=row.after, n=row.n, low=low, high=high)

    def amount(self, metric: str, value: float, n: int = 0) -> "Result":
        """The same row for a number that is no rate and has no interval."""
        return replace(self, metric=metric, value=value, n=n)


def harmonic(results: Sequence[Result]) -> Result | None:
    """The harmonic mean of forget, retain and robust of one method on one concept.

    As `overall` says. None when one of the three was not measured.
    """
    rows = [row for row in results if row.on == "edited" and row.split == "report"]
    attacked = [row.value for row in rows if row.attack and row.metric == "success"]
    value = overall({row.metric: row.value for row in rows if not row.attack}, attacked)
    if value is None:
        return None
    about = next(row for row in rows if not row.attack)
    return replace(about, note="", low=math.nan, high=math.nan).amount(
        HARMONIC, value, len(attacked)
    )


def overall(rates: Mapping[str, float], attacked: Sequence[float]) -> float | None:
    """The harmonic mean of forget, retain and robust, from rates by metric and attacks' successes.

    Forget is UA, or 1 less what is still told of the concept; retain the mean of IRA and CRA, or
    the accuracy on everything else; robust 1 less the mean success of the attacks on the edited
    model. None when one of the three was not measured.
    """
    forget = rates.get("ua", 1 - rates.get("forget_acc", math.nan))
    kept = [rates[metric] for metric in ("ira", "cra") if metric in rates]
    retain = sum(kept) / len(kept) if kept else rates.get("retain_acc", math.nan)
    robust = 1 - sum(attacked) / len(attacked) if attacked else math.nan
    shares = (forget, retain, robust)
    return metrics.harmonic(shares) if all(map(math.isfinite, shares)) else None


def rows(results: list[Result]) -> list[dict[str, Any]]:
    """The results in the types that JSON has."""
    return [plain(asdict(result)) for result in results]


def dumps(value: object) -> str:
    """`value` as strict JSON in ASCII: NaN and infinities are null, paths are strings."""
    return json.dumps(plain(value), indent=1, allow_nan=False)


def plain(value: object) -> Any:  # noqa: ANN401
    """`value` in the types that JSON has."""
    if isinstance(value, Mapping):
        return {str(key): plain(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(inner) for inner in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return str(value) if isinstance(value, Path) else value
