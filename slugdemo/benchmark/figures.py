"""A measured figure with its bar. Knows numbers only."""

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from time import perf_counter


@dataclass(frozen=True)
class Figure:
    """One number, what it shall be, and how it came about.

    `less`: smaller is better. `interval` and `n` stand where the number is a mean over items.
    """

    name: str
    value: float
    bar: float | None = None
    less: bool = True
    unit: str = ""
    n: int = 0
    interval: tuple[float, float] | None = None
    details: dict[str, object] = field(default_factory=dict)

    @property
    def met(self) -> bool | None:
        """Whether the bar is met; None where there is none."""
        if self.bar is None:
            return None
        return self.value <= self.bar if self.less else self.value >= self.bar

    def facts(self) -> dict[str, object]:
        """The figure as plain data."""
        sign = "<=" if self.less else ">="
        return {
            "name": self.name,
            "value": self.value,
            "unit": self.unit,
            "bar": None if self.bar is None else f"{sign} {self.bar:g}",
            "met": self.met,
            "n": self.n,
            "interval": self.interval,
            **self.details,
        }


def seconds(work: Callable[[], object]) -> float:
    """How long one call takes."""
    began = perf_counter()
    work()
    return perf_counter() - began


def ratio(
    ours: Callable[[], object], theirs: Callable[[], object], *, repeat: int
) -> tuple[float, dict[str, object]]:
    """The median of ours / theirs, measured in turns, after one warm-up of each; and the times."""
    ours(), theirs()
    pairs = [(seconds(ours), seconds(theirs)) for _ in range(repeat)]
    details: dict[str, object] = {
        "seconds": median([a for a, _ in pairs]),
        "against": median([b for _, b in pairs]),
    }
    return median([a / b for a, b in pairs]), details | {"repeat": repeat}


def median(values: Sequence[float]) -> float:
    """The middle value."""
    return float(statistics.median(values))
