"""Data -> plotly figures, as plain dictionaries.

Colours are the names of the page's own CSS variables ("--forget"), which the browser fills in, so
that every plot follows light, dark and projector. Knows no models.
"""

import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from slugdemo.layer_names import kind, short
from slugdemo.layers import LayerScore, harm
from slugdemo.search import Score

Figure = dict[str, Any]
SYMBOLS = {
    "attention q, k, v": "diamond",
    "attention output": "circle",
    "MLP input": "triangle-up",
    "MLP output": "triangle-down",
    "MLP": "triangle-up",
    "norm": "x",
    "projection": "star",
    "patch convolution": "square",
}
GAP = 0.06  # between two panels, of the whole width
UNREAD = 0.5  # the width of a panel of which nothing can be edited, beside one that can
PERCENT: Figure = {"ticksuffix": " %", "hoverformat": ".1f"}  # of an axis in per cent
FLOOR = 1e-4  # |alignment| below this is drawn here
TOWERS = ("text", "vision")
TITLES = {"text": "Text tower", "vision": "Vision tower"}


def scatter(
    scores: Sequence[LayerScore],
    front: Collection[str],
    *,
    editable: Collection[str],
    selected: str,
    alignment: str = "absolute",
    shapes: Mapping[str, str] | None = None,
) -> Figure:
    """Importance over alignment, log-log (linear along signed alignment), one panel for each tower (SLUG, fig. 2).

    The front is joined and named, other layers are small crosses, layers that cannot be edited here
    are fainter still, the selected one wears a ring.
    """
    data, notes, widths = [], [], []
    towers = [tower for tower in TOWERS if any(score.tower == tower for score in scores)]
    for number, tower in enumerate(towers, 1):
        axis = {
            "xaxis": f"x{number}",
            "yaxis": f"y{number}",
            "alignment": alignment,
            "shapes": shapes or {},
        }
        mine = [score for score in scores if score.tower == tower]
        used = [score for score in mine if score.layer in editable]
        best = [score for score in used if score.layer in front]
        rest = [score for score in used if score.layer not in front]
        data += [_crosses(rest, axis, "--muted"), _crosses(_without(mine, used), axis, "--faint")]
        data += [_front(best, axis), *_ring([s for s in mine if s.layer == selected], axis)]
        read = TITLES[tower] if used else f"{tower.capitalize()} · unread"
        notes.append(_title(read, number))
        widths.append(1.0 if used else UNREAD)
    return {"data": data, "layout": _panels(scores, widths, notes, alignment)}


def _without(scores: Sequence[LayerScore], some: Sequence[LayerScore]) -> list[LayerScore]:
    names = {score.layer for score in some}
    return [score for score in scores if score.layer not in names]


def _crosses(scores: Sequence[LayerScore], axis: dict, colour: str) -> Figure:
    return _trace(scores, axis) | {
        "mode": "markers",
        "marker": {"symbol": "x-thin", "size": 6, "line": {"width": 1.4, "color": colour}},
    }


def _front(scores: Sequence[LayerScore], axis: dict) -> Figure:
    scores = sorted(scores, key=lambda score: harm(score, alignment=axis["alignment"]))
    return _trace(scores, axis) | {
        "mode": "lines+markers+text",
        "text": [short(score.layer) for score in scores],
        "textposition": "top left",  # the page finds each a better place, since it knows the size
        "textfont": {"size": 11, "color": "--ink"},
        "cliponaxis": False,
        "line": {"width": 1, "dash": "dot", "color": "--muted"},
        "marker": {
            "symbol": [SYMBOLS.get(kind(score.layer), "circle") for score in scores],
            "size": 10,
            "color": "--ink",
            "line": {"width": 1, "color": "--card"},
        },
    }


def _ring(scores: Sequence[LayerScore], axis: dict) -> list[Figure]:
    ring = {"symbol": "circle-open", "size": 20, "line": {"width": 3}, "color": "--chosen"}
    trace = _trace(scores, axis) | {"mode": "markers", "marker": ring}
    return [trace] if scores else []


def _trace(scores: Sequence[LayerScore], axis: dict) -> Figure:
    return {
        "type": "scatter",
        "x": _across(scores, axis["alignment"]),
        "y": [score.importance or None for score in scores],
        "customdata": [
            [
                score.layer,
                short(score.layer),
                score.params,
                score.alignment,
                axis["shapes"].get(score.layer, ""),
            ]
            for score in scores
        ],
        "hovertemplate": "<b>%{customdata[1]}</b><br>importance %{y:.3g}"
        "<br>alignment %{customdata[3]:+.3f}<br>%{customdata[4]}<extra></extra>",
        "showlegend": False,
        "xaxis": axis["xaxis"],
        "yaxis": axis["yaxis"],
    }


def _across(scores: Sequence[LayerScore], alignment: str) -> list[float]:
    """Where the layers stand from left to right."""
    if alignment == "signed":
        return [score.alignment for score in scores]
    return [max(harm(score), FLOOR) for score in scores]


def _title(text: str, number: int) -> Figure:
    return {
        "text": f"<b>{text}</b>",
        "xref": f"x{number} domain",
        "yref": f"y{number} domain",
        "x": 0,
        "y": 1.0,
        "xanchor": "left",
        "yanchor": "bottom",
        "yshift": 4,
        "showarrow": False,
        "font": {"size": 12, "color": "--ink"},
    }


def _panels(
    scores: Sequence[LayerScore], widths: list[float], notes: list[Figure], alignment: str
) -> Figure:
    x = _across(scores, alignment)
    y = [score.importance for score in scores if score.importance]
    layout = _plain() | {"annotations": notes, "margin": {"l": 52, "r": 12, "t": 22, "b": 34}}
    room = (1 - GAP * (len(widths) - 1)) / sum(widths)
    at = 0.0
    for number, width in enumerate(widths, 1):
        domain = [at, min(1.0, at + width * room)]
        at = domain[1] + GAP
        cos = "cos" if alignment == "signed" else "|cos|"
        title = f"gradient alignment {cos}" if width == max(widths) else cos
        scale = _linear if alignment == "signed" else _log
        layout[f"xaxis{number}"] = scale(title, x) | {"anchor": f"y{number}", "domain": domain}
        layout[f"yaxis{number}"] = _log("importance" if number == 1 else "", y) | {
            "anchor": f"x{number}",
            "showticklabels": number == 1,
        }
    return layout


def _linear(title: str, values: Sequence[float]) -> Figure:
    low, high = min(*values, 0.0), max(*values, 0.0)
    room = 0.08 * (high - low) + 0.02
    return _axis(title) | {"range": [low - room, high + room], "nticks": 5}


def _log(title: str, values: Sequence[float]) -> Figure:
    low, high = (math.log10(pick(values)) if values else 0.0 for pick in (min, max))
    room = 0.12 * (high - low) + 0.1
    return _axis(title) | {
        "type": "log",
        "range": [low - room, high + 1.5 * room],
        "dtick": 1,
        "exponentformat": "power",
    }


def _axis(title: str) -> Figure:
    return {
        "title": {"text": title, "standoff": 4, "font": {"size": 12}},
        "tickfont": {"size": 11},
        "tickangle": 0,
        "gridcolor": "--line",
        "linecolor": "--line",
        "zeroline": False,
        "ticks": "",
        "color": "--muted",
        "fixedrange": True,
    }


def _plain() -> Figure:
    return {
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "font": {"family": "--type", "size": 12, "color": "--muted"},
        "hoverlabel": {"bgcolor": "--card", "bordercolor": "--line", "font": {"color": "--ink"}},
        "showlegend": False,
        "hovermode": "closest",
        "dragmode": False,
    }


def curve(
    scores: Sequence[Score],
    trace: Sequence[Score],
    *,
    strength: float,
    ratio: float,
    farthest: float,
) -> Figure:
    """What is left of the concept and of everything else along the strength, with 95 % intervals.

    Both axes are in per cent; the points of the two lines carry their n and their strength.

    The search's own evaluations are open marks, the chosen strength an upright line; where `ratio`
    is finite the second axis above reads in the paper's lambda = strength * ratio.
    """
    scores = sorted({score.strength: score for score in (*trace, *scores)}.values(), key=_strength)
    data = [
        *_line(scores, "forget", "--forget", "solid", "circle"),
        *_line([s for s in scores if s.n_retain], "retain", "--retain", "dash", "square"),
        _marks(trace, "forget", "--forget", "circle-open"),
        _marks([s for s in trace if s.n_retain], "retain", "--retain", "square-open"),
    ]
    layout = _plain() | {
        "margin": {"l": 52, "r": 58, "t": 20, "b": 20},
        "xaxis": _axis("") | PERCENT | {"range": [0, 101 * farthest]},
        "yaxis": _axis("still recognised") | PERCENT | {"range": [-4, 106]},
        "shapes": [_upright(strength)],
        "annotations": _ends(scores) if scores else [],
        "hovermode": "x",
    }
    if math.isfinite(ratio):
        above = _axis("") | {"overlaying": "x", "side": "top", "showgrid": False, "nticks": 6}
        above |= {"range": [0, farthest * ratio * 1.01], "tickprefix": "λ "}
        layout["xaxis2"] = above | {"showtickprefix": "first"}
        data.append({"type": "scatter", "x": [0], "y": [None], "xaxis": "x2", "hoverinfo": "skip"})
    return {"data": data, "layout": layout}


def _strength(score: Score) -> float:
    return score.strength


def _rate(score: Score, side: str) -> float:
    return score.forget_acc if side == "forget" else score.retain_acc


def _line(scores: Sequence[Score], side: str, colour: str, dash: str, symbol: str) -> list[Figure]:
    x = [100 * score.strength for score in scores]
    band = [getattr(score, f"{side}_interval") for score in scores]
    ring = [100 * low for low, _ in band] + [100 * high for _, high in band][::-1]
    area: Figure = {
        "type": "scatter",
        "x": x + x[::-1],
        "y": ring,
        "fill": "toself",
        "mode": "none",
    }
    area |= {"fillcolor": f"{colour}-veil", "hoverinfo": "skip"}
    points = [[getattr(score, f"n_{side}"), score.strength] for score in scores]
    line: Figure = {"type": "scatter", "x": x, "y": [100 * _rate(score, side) for score in scores]}
    line |= {"mode": "lines+markers", "line": {"color": colour, "dash": dash, "width": 2}}
    line |= {"marker": {"symbol": symbol, "size": 5, "color": colour}, "customdata": points}
    hover = "%{y:.0f} % of %{customdata[0]}<extra>" + side + "</extra>"
    line |= {"name": side, "hovertemplate": hover}
    return [area, line]


def _marks(scores: Sequence[Score], side: str, colour: str, symbol: str) -> Figure:
    mark: Figure = {"symbol": symbol, "size": 12, "color": colour, "line": {"width": 2}}
    x = [100 * score.strength for score in scores]
    y = [100 * _rate(score, side) for score in scores]
    return {"type": "scatter", "mode": "markers", "x": x, "y": y, "marker": mark} | {
        "hoverinfo": "skip"
    }


def _upright(strength: float) -> Figure:
    line = {"color": "--chosen", "width": 3}
    ends = {"x0": 100 * strength, "x1": 100 * strength, "y0": 0, "y1": 1}
    return {"type": "line", **ends, "yref": "paper", "line": line}


def _ends(scores: Sequence[Score]) -> list[Figure]:
    """The names of the two lines at their right ends, moved apart when they would collide."""
    full = [score for score in scores if score.n_retain] or [scores[-1]]
    ends = {"forget": scores[-1].forget_acc, "retain": full[-1].retain_acc}
    near = abs(ends["forget"] - ends["retain"]) < 0.12
    upper = max(ends, key=lambda side: (ends[side], side == "retain"))
    notes = []
    for side, value in ends.items():
        shift = (8 if side == upper else -8) if near else 0
        at = {"x": 1, "xref": "paper", "y": 100 * value, "xanchor": "left", "xshift": 6}
        font = {"size": 12, "color": f"--{side}-ink"}
        notes.append(
            at | {"text": f"<b>{side}</b>", "yshift": shift, "showarrow": False, "font": font}
        )
    return notes
