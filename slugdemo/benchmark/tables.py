"""The README's tables, made of the rows of a benchmark. Knows rows and Markdown only."""

import re
from collections.abc import Callable, Sequence

import pandas as pd

from slugdemo.errors import SlugError
from slugdemo.evaluation import metrics

ORDER = ("original", "reference", "slug")  # first; the others in the order of their names
RATES = {
    "pocket-sd": {"ua": "UA", "ira": "IRA", "cra": "CRA"},
    "pocket-clip": {"forget_acc": "left", "retain_acc": "kept"},
    "pocket-llava": {"forget_acc": "left", "retain_acc": "kept"},
}
FEWEST = 2  # concepts behind a row


def filled(text: str, frame: pd.DataFrame, styles: Sequence[str]) -> str:
    """A Markdown text whose tables between "<!-- table: methods MODEL -->" (or "attacks MODEL") and
    "<!-- end -->" are made anew. Raises SlugError for a mark that names no table."""
    made: dict[str, Callable[[str], str]] = {
        "methods": lambda model: methods(frame, model, styles),
        "attacks": lambda model: attacks(frame, model),
    }

    def table(found: re.Match) -> str:
        kind, _, model = found["what"].partition(" ")
        if kind not in made or model not in RATES:
            raise SlugError(f"There is no table of {found['what']!r}.")
        return f"<!-- table: {found['what']} -->\n{made[kind](model)}\n<!-- end -->"

    return re.sub(r"<!-- table: (?P<what>[^>]*?) -->\n.*?<!-- end -->", table, text, flags=re.S)


def methods(frame: pd.DataFrame, model: str, styles: Sequence[str]) -> str:
    """One row for each method: rates over the things and the styles that a reference never saw.

    Rates are pooled over the pictures of these concepts, with 95 % Wilson intervals; the seconds
    are the median over concepts. Methods that were not measured on all of them are left out.
    """
    some = frame[(frame["split"] == "report") & (frame["attack"] == "")]
    every = {*some[some["method"] == "reference"]["concept"]}  # of any model
    some = some[(some["model"] == model) & some["metric"].isin(RATES[model])]
    some = some[some["concept"].isin(every)]
    groups = {"things": every - {*styles}, "styles": every & {*styles}}
    heads = [f"{group}: {title}" for group in groups for title in RATES[model].values()]
    lines = [_line(["", *heads, "seconds"]), "|---" * (len(heads) + 2) + "|"]
    for name in _ordered(some["method"].unique()):
        rows = some[some["method"] == name]
        if {*rows["concept"]} != every:
            continue
        cells = [
            _rate(rows[(rows["metric"] == metric) & rows["concept"].isin(concepts)])
            for concepts in groups.values()
            for metric in RATES[model]
        ]
        seconds = rows.groupby("concept")["seconds"].first()
        timed = seconds[seconds >= 0].median()  # NaN: not on record, as the machine was busy
        shown = "" if name in ORDER[:2] or pd.isna(timed) else f"{timed:.1f}"
        lines.append(_line([name, *cells, shown]))
    return "\n".join(lines)


def attacks(frame: pd.DataFrame, model: str) -> str:
    """One row for each attack: the share of its trials that bring the concept back.

    Pooled over the concepts on which every column was attacked, whose number and trials stand
    behind it. The columns are the original, the reference and the methods that were attacked.
    """
    some = frame[(frame["model"] == model) & (frame["metric"] == "success") & (frame["n"] > 0)]
    names = _ordered(some["method"].unique())
    lines = [_line(["", *names, "concepts", "trials"]), "|---" * (len(names) + 3) + "|"]
    for attack, rows in some.groupby("attack"):
        both = rows.pivot_table(index="concept", columns="method", values=["value", "n"]).dropna()
        if len(both) < FEWEST or {*both["n"].columns} != {*names}:
            continue
        hits = (both["value"] * both["n"]).sum() / both["n"].sum()
        trials = int(both["n"].sum().max())
        cells = [f"{hits[name]:.2f}" for name in names]
        lines.append(_line([str(attack), *cells, str(len(both)), str(trials)]))
    return "\n".join(lines)


def _ordered(names: Sequence[str]) -> list[str]:
    return [*(n for n in ORDER if n in names), *sorted(n for n in names if n not in ORDER)]


def _rate(rows: pd.DataFrame) -> str:
    n = int(rows["n"].sum())
    if not n:
        return ""
    value = float((rows["value"] * rows["n"]).sum() / n)
    low, high = metrics.wilson(value, n)
    return f"{value:.3f} [{low:.3f}, {high:.3f}]"


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def merged(shipped: pd.DataFrame, fresh: pd.DataFrame) -> pd.DataFrame:
    """Shipped rows with those that were made anew in their place.

    A cell is known by its model, concept, method, attack, attacked model and seed.
    A cell whose fresh rows only say why it cannot be has those.
    """
    keys = ["model", "concept", "method", "attack", "on", "seed"]
    new = {*fresh[keys].itertuples(index=False, name=None)}
    old = [tuple(row) not in new for row in shipped[keys].itertuples(index=False, name=None)]
    return pd.concat([shipped[old], fresh], ignore_index=True)
