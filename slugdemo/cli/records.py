"""What was found as plain records, for --json and for tables. Knows values only; prints nothing."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from slugdemo.attacks import Attack
from slugdemo.catalog import Model
from slugdemo.cost import peak_memory
from slugdemo.edit import Edit
from slugdemo.evaluation.prompt_set import Measurement
from slugdemo.experiment import Erasure
from slugdemo.layer_names import label
from slugdemo.layers import LayerScore
from slugdemo.methods.method import Method
from slugdemo.search import Attempt, Score

Facts = dict[str, Any]
Table = Callable[[Sequence[Mapping[str, object]], Sequence[str]], str]


def model(found: Model) -> Facts:
    """A model of the catalog."""
    size, wait = round(found.bytes / 1e6, 1), round(found.minutes, 1)
    return asdict(found) | {"megabytes": size, "minutes": wait}


def method(found: Method, on: Model | None = None) -> Facts:
    """A method of the registry; with a model also why it cannot serve that, "" where it can."""
    unable = {"unable": found.unable_on(on)} if on else {}
    return unable | {
        "name": found.name,
        "group": found.group,
        "hosts": found.hosts,
        "parts": found.parts,
        "needs": found.needs,
        "cite": found.cite,
        "deviations": found.deviations,
    }


def attack(found: Attack) -> Facts:
    """An attack of the registry."""
    names = ("name", "group", "hosts", "parts", "access", "needs", "cite", "deviations", "seconds")
    return {name: getattr(found, name) for name in names}


def layer(score: LayerScore, *, front: Sequence[LayerScore]) -> Facts:
    """A layer's score, its name in words, and whether it is on the front."""
    return asdict(score) | {"name": label(score.layer), "front": score in front}


def score(found: Score) -> Facts:
    """A measured strength; what a forget-only evaluation left unmeasured is null."""
    return {
        "strength": found.strength,
        "forget_acc": found.forget_acc,
        "retain_acc": found.retain_acc,
        "forget_interval": found.forget_interval,
        "retain_interval": found.retain_interval,
        "n_forget": found.n_forget,
        "n_retain": found.n_retain,
        **found.parts,
    }


def measurement(row: Measurement) -> Facts:
    """A rate or an amount on the report split: what it was, what it is, and its 95 % interval."""
    return {
        "metric": row.metric,
        "before": row.before,
        "after": row.after,
        "n": row.n,
        "interval": row.interval,
    }


def attempt(found: Attempt) -> Facts:
    """One layer that was tried, with every step of its search."""
    return {
        "layer": found.edit.layer,
        "name": label(found.edit.layer),
        "strength": found.edit.strength,
        "lambda": found.edit.lam,
        "feasible": found.choice.feasible,
        "forget_acc": found.choice.score.forget_acc,
        "retain_acc": found.choice.score.retain_acc,
        "trace": [score(each) for each in found.trace],
    }


def erasure(found: Erasure, *, measured: Sequence[Measurement], edit_bytes: int) -> Facts:
    """All that `erase` says of one concept; `edit_bytes` is the size of its edit."""
    task, edit, config = found.task, found.edit, found.task.config
    attempts = found.search.attempts if found.search else ()
    return {
        "model": task.opened.model.name,
        "concept": task.concept.name,
        "kind": task.concept.kind,
        "method": edit.method,
        "layer": edit.layer or None,
        "strength": edit.strength,
        "step": edit.strength if edit.layer else None,
        "unit": edit.unit,
        "lambda": edit.lam,
        "rule": config.tuning.rule,
        "alignment": config.alignment,
        "granularity": config.granularity,
        "top": config.evaluation_size.top,
        "margin": config.tuning.effective.margin,
        "feasible": found.feasible,
        "headline": found.headline,
        "reason": found.reason,
        "forget_before": found.before.forget_acc,
        "forget_after": found.after.forget_acc,
        "retain_before": found.before.retain_acc,
        "retain_after": found.after.retain_acc,
        "n_forget": found.after.n_forget,
        "n_retain": found.after.n_retain,
        "intervals": {
            "forget": found.after.forget_interval,
            "retain": found.after.retain_interval,
        },
        "evaluations": 1 + sum(len(each.trace) for each in attempts),
        "seconds": task.clock.seconds | {"total": sum(task.clock.seconds.values())},
        "peak_memory_bytes": peak_memory(),
        "edit_bytes": edit_bytes,
        "held_out": [measurement(row) for row in measured],
        "attempts": [attempt(each) for each in attempts],
    }


def half_size(edit: Edit) -> int:
    """The bytes of an edit's tensors in float16."""
    return 2 * sum(tensor.numel() for tensor in edit.delta.values())


def summary(facts: Facts, table: Table) -> str:
    """What `erase` found, for people: the result first."""
    lines = [f"{facts['concept']} in {facts['model']}, by {facts['method']}", facts["reason"]]
    if facts["attempts"]:
        columns = ["name", "strength", "lambda", "feasible", "forget_acc", "retain_acc"]
        lines += ["", table(facts["attempts"], columns)]
    if facts["held_out"]:
        held = table(facts["held_out"], ["metric", "before", "after", "n", "interval"])
        lines += ["", "On the report split, which no search has seen:", held]
    spent = ", ".join(f"{phase} {took:.1f} s" for phase, took in facts["seconds"].items())
    memory, size = facts["peak_memory_bytes"] / 1e6, facts["edit_bytes"] / 1e6
    return "\n".join([*lines, "", f"{spent}; {memory:.0f} MB at most; the edit has {size:.2f} MB."])
