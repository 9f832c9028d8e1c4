"""A benchmark's rows as a table of methods: means over concepts, intervals, ranks.

In UnlearnCanvas's terms for Stable Diffusion (UA, IRA, CRA; style and object), and in accuracies
for the other kinds of models. Knows rows only.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from slugdemo.evaluation import metrics

BETTER_LESS = (  # of all other metrics more is better
    "forget_acc",
    "forget_acc@5",
    "judge-FID",
    "judge-KID",
    "distance to never saw it",
    "layers",
    "parameters",
    "bytes",
)
DRAWS = 400  # resamplings of the concepts behind the interval of a rank


def methods(frame: pd.DataFrame, kinds: Mapping[str, str]) -> pd.DataFrame:
    """One row a model, kind of concept, method and metric: mean, 95 % interval, n, seconds, rank.

    `kinds` says which concepts are styles ("style") and which are things (anything else). The
    rank is among the methods measured on the same concepts, with its interval over resampled
    concepts. Rows of attacks and of the search split are left out.
    """
    some = frame[(frame["attack"] == "") & (frame["split"] == "report") & (frame["metric"] != "")]
    some = some.assign(
        domain=["style" if kinds.get(c) == "style" else "thing" for c in some["concept"]]
    )
    found = []
    for (model, domain, metric), part in some.groupby(["model", "domain", "metric"]):
        values = part.pivot_table(index="concept", columns="method", values="value")
        seconds = part.groupby("method")["seconds"].mean()
        ranks = _ranks(values, less=metric in BETTER_LESS)
        for method in values.columns:
            mean, (low, high) = metrics.mean(values[method].dropna().tolist())
            rank, rank_low, rank_high = ranks[method]
            found.append(
                {
                    "model": model,
                    "concepts": domain,
                    "method": method,
                    "metric": metric,
                    "mean": mean,
                    "low": low,
                    "high": high,
                    "n": int(values[method].count()),
                    "seconds": float(seconds[method]),
                    "rank": rank,
                    "rank_low": rank_low,
                    "rank_high": rank_high,
                }
            )
    return pd.DataFrame(found)


def _ranks(values: pd.DataFrame, *, less: bool) -> dict[str, tuple[int, int, int]]:
    """The rank of each method by its mean, and its 95 % interval over resampled concepts."""
    whole = values.dropna()
    if whole.empty:
        return dict.fromkeys(values.columns, (0, 0, 0))
    dice = np.random.default_rng(0)
    drawn = [whole.to_numpy()[dice.integers(len(whole), size=len(whole))] for _ in range(DRAWS)]
    ranks = np.array([_places(sample.mean(0), less=less) for sample in drawn])  # (DRAWS, M)
    own = _places(whole.to_numpy().mean(0), less=less)
    low, high = np.percentile(ranks, [2.5, 97.5], axis=0).round().astype(int)
    return {
        str(method): (int(own[at]), int(low[at]), int(high[at]))
        for at, method in enumerate(values.columns)
    }


def _places(means: Sequence[float] | np.ndarray, *, less: bool) -> np.ndarray:
    """The place of each mean, 1 for the best; equals share the better place."""
    signed = np.asarray(means) if less else -np.asarray(means)
    return np.array([1 + int((signed < value - 1e-12).sum()) for value in signed])
