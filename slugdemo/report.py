"""What was found, as plain data for machines and as tables for people.

Numbers that are no numbers become null. Knows values only; prints nothing.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from slugdemo.catalog import Model
from slugdemo.config import Setting
from slugdemo.cost import peak_memory
from slugdemo.edit import Edit
from slugdemo.evaluation import Row
from slugdemo.experiment import Study
from slugdemo.layers import LayerScore
from slugdemo.methods.slug import Attempt
from slugdemo.search import Point

Facts = dict[str, Any]


def dumps(value: object) -> str:
    """`value` as strict JSON: NaN and infinities are null, paths are strings."""
    return json.dumps(plain(value), indent=1, allow_nan=False, ensure_ascii=False)


def plain(value: object) -> Any:  # noqa: ANN401
    """`value` in the types that JSON has."""
    if isinstance(value, Mapping):
        return {str(key): plain(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(one) for one in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return str(value) if isinstance(value, Path) else value


def table(facts: Sequence[Mapping[str, object]], columns: Sequence[str]) -> str:
    """The columns of some records as aligned text, numbers to the right."""
    cells = [[_cell(one.get(column)) for column in columns] for one in facts]
    rows = [list(columns), *cells]
    widths = [max(len(row[at]) for row in rows) for at in range(len(columns))]
    right = [all(_number(one.get(column)) for one in facts) for column in columns]

    def line(row: Sequence[str]) -> str:
        parts = zip(row, widths, right, strict=True)
        return "  ".join(c.rjust(w) if r else c.ljust(w) for c, w, r in parts).rstrip()

    return "\n".join(line(row) for row in rows)


def _number(value: object) -> bool:
    return value is None or (isinstance(value, (int, float)) and not isinstance(value, bool))


def _cell(value: object) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.3g}" if 0 < abs(value) < 0.1 else f"{value:.3f}"
    if isinstance(value, (list, tuple)):
        return " .. ".join(_cell(one) for one in value)
    return str(value)


def model(one: Model) -> Facts:
    """A model of the catalog."""
    return asdict(one) | {"megabytes": round(one.bytes / 1e6, 1), "minutes": round(one.minutes, 1)}


def score(one: LayerScore, *, front: Sequence[LayerScore]) -> Facts:
    """A layer's score, and whether it is on the front."""
    return asdict(one) | {"front": one in front}


def point(one: Point) -> Facts:
    """A measured step; what a glance left unmeasured is null."""
    return {
        "step": one.step,
        "forget": one.forget,
        "retain": one.retain,
        "forget_interval": one.forget_interval,
        "retain_interval": one.retain_interval,
        "n_forget": one.n_forget,
        "n_retain": one.n_retain,
        **one.parts,
    }


def row(one: Row) -> Facts:
    """A held-out figure."""
    return one._asdict() | {"interval": one.interval}


def attempt(one: Attempt) -> Facts:
    """One layer that was tried, with every step of its search."""
    found = one.choice.point
    return {
        "layer": one.score.layer,
        "step": one.edit.step,
        "lambda": one.edit.lam,
        "feasible": one.choice.feasible,
        "forget": found.forget,
        "retain": found.retain,
        "importance": one.score.importance,
        "alignment": one.score.alignment,
        "trace": [point(one) for one in one.trace],
    }


def erased(study: Study, outcome: Any, *, rows: Sequence[Row], size: int) -> Facts:  # noqa: ANN401
    """All that `erase` says of one concept; `size` is that of its edit in bytes."""
    edit, found, setting = outcome.edit, outcome.point, study.setting
    return {
        "model": study.opened.model.name,
        "concept": study.concept.name,
        "kind": study.concept.kind,
        "layer": edit.layer,
        "step": edit.step,
        "lambda": edit.lam,
        "rule": setting.rule,
        "by": setting.by,
        "unit": setting.unit,
        "top": setting.size.top,
        "beyond": setting.beyond,
        "feasible": outcome.feasible,
        "reason": outcome.reason,
        "forget_before": outcome.before.forget,
        "forget_after": found.forget,
        "retain_before": outcome.before.retain,
        "retain_after": found.retain,
        "n_forget": found.n_forget,
        "n_retain": found.n_retain,
        "intervals": {"forget": found.forget_interval, "retain": found.retain_interval},
        "evaluations": 1 + sum(len(one.trace) for one in outcome.attempts),
        "seconds": study.clock.seconds | {"total": sum(study.clock.seconds.values())},
        "peak_memory_bytes": peak_memory(),
        "edit_bytes": size,
        "held_out": [row(one) for one in rows],
        "attempts": [attempt(one) for one in outcome.attempts],
    }


def half_size(edit: Edit) -> int:
    """The bytes of an edit's tensors in float16."""
    return 2 * sum(tensor.numel() for tensor in edit.direction.values())


def summary(facts: Facts) -> str:
    """What `erase` found, for people."""
    lines = [
        f"{facts['concept']} in {facts['model']}: {facts['layer']}, step {facts['step']:.3f} of its "
        f"norm (lambda {facts['lambda']:.4g}).",
        facts["reason"],
        "",
        table(facts["attempts"], ["layer", "step", "feasible", "forget", "retain"]),
    ]
    if facts["held_out"]:
        held = table(facts["held_out"], ["measure", "before", "after", "n", "interval"])
        lines += ["", "On pictures that no search has seen:", held]
    spent = ", ".join(f"{phase} {took:.1f} s" for phase, took in facts["seconds"].items())
    memory, size = facts["peak_memory_bytes"] / 1e6, facts["edit_bytes"] / 1e6
    return "\n".join([*lines, "", f"{spent}; {memory:.0f} MB at most; the edit has {size:.2f} MB."])


def settings(setting: Setting) -> Facts:
    """The numbers that a result depends on."""
    return asdict(setting)
