"""COMPARE: one concept by every method of the field, on the same model, pictures, seeds and judge.

Runs methods, controls and the model that never saw the concept, and remembers what they gave; runs
a method on several concepts, together or one after another.
Knows the engine and shipped results; the page adds that a run can be watched and stopped.
"""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, NamedTuple

from slugdemo import catalog, experiment, inside, search
from slugdemo.benchmark import cells, shipped
from slugdemo.concept import Concept, prompt
from slugdemo.config import CONFIGS
from slugdemo.edit import Edit
from slugdemo.errors import SlugError
from slugdemo.evaluation.prompt_set import Measurement
from slugdemo.experiment import CONTROLS
from slugdemo.images import source
from slugdemo.many import ORDERS, Joint
from slugdemo.methods import METHODS, named
from slugdemo.models.base import Cancelled
from slugdemo.results import Result, harmonic, plain
from slugdemo.task import Task
from slugdemo.ui import jobs, see
from slugdemo.ui.state import AppState
from slugdemo.ui.tasks import Watch
from slugdemo.ui.view import DIGEST, MARK, View, share

UNSEEN = "never saw it"
CONTROLLED = View.method  # the method whose edit the controls stand beside
EXPLAINED = "sae"  # the method whose features can be looked at
COUNTS = (1, 2, 3)  # concepts of a live run on many


@dataclass(frozen=True)
class Run:
    """What a row of the table gave here, and the view of its edit, for those that have one.

    `whole`: judged on all of the report split; `old` is what the row showed before.
    """

    seconds: float
    peak_bytes: int
    size: Mapping[str, float]  # layers, parameters and bytes of its edit; nothing without one
    measured: tuple[Measurement, ...] = ()
    whole: bool = False
    at: float = 0.0  # seconds since 1970
    view: View | None = None
    old: Mapping[str, float] = field(default_factory=dict)
    pictures: tuple[dict[str, Any], ...] = ()


class Subject(NamedTuple):
    """What is judged: a model with an edit (None: as it is), what that took, and its view."""

    task: Task
    edit: Edit | None
    seconds: float = 0.0
    peak_bytes: int = 0
    view: View | None = None

    @property
    def edits(self) -> list[Edit]:
        """The edit, if there is one."""
        return [self.edit] if self.edit else []


def known(state: AppState, view: View, name: str) -> "Run | str | None":
    """What a row gave here, or why it could not; None when nobody has run it."""
    return state.shown.peek(_key(view, name))


def shipped_rows(view: View, name: str) -> list[Result]:
    """What came with the app of a row: rates on the report split; perhaps nothing."""
    kept = [row for row in _shipped(view, name) if row.attack == ""]
    together = harmonic(_shipped(view, name))
    return [*kept, together] if together else kept


def _shipped(view: View, name: str) -> list[Result]:
    if view.anchor and name in METHODS and METHODS[name].replaces:
        return []
    told = cells.REFERENCE if name == UNSEEN else name
    kept = [row for row in shipped.rows(view.model, view.concept) if row.method == told]
    return [row for row in kept if row.split == "report"]


def unable(state: AppState, view: View, name: str) -> str:
    """Why a row cannot be run on the view's model, in a sentence; "" when it can.

    Raises SlugError for a name that is none.
    """
    if name in CONTROLS:
        return ""
    if name != UNSEEN:
        return named(name).unable_on(state.model(view.model), view.anchor)
    if MARK in view.concept:
        return "No model was trained without a concept of your own."
    try:
        experiment.reference_name(state.kind(view.model), view.concept, view.model)
    except SlugError as why:
        return str(why)
    return ""


def run(
    state: AppState,
    view: View,
    watch: Watch,
    names: Sequence[str],
    *,
    shown: Callable[[], None],
) -> str:
    """Runs rows of the table one after another, then draws their pictures; what to say in the end.

    `shown` is called as rows grow. A row that cannot be run for this concept says why. Raises
    SlugError for a name that is none or cannot serve the model.
    """
    for name in names:
        if reason := unable(state, view, name):
            raise SlugError(reason)
    said, made = "", dict[str, Subject]()
    for number, name in enumerate(names):
        watch.say(f"Running {name}", number, len(names))
        try:
            made |= _run(state, view, watch, name, shown)
            said = told(state, view, name)
        except Cancelled:
            raise
        except SlugError as problem:
            said = str(problem)
            state.shown.put(_key(view, name), said)
        shown()
    if state.kind(view.model) == "diffusion" and made:
        _draw(state, view, made)
        shown()
    return said if len(names) == 1 else f"{len(names)} rows were run."


def told(state: AppState, view: View, name: str) -> str:
    """What a row gave, in a sentence."""
    found = known(state, view, name)
    if not isinstance(found, Run):
        return found or ""
    rates = [f"{m.metric.replace('_', ' ')} {share(m.after)} of {m.n}" for m in found.measured[:3]]
    return f"{name}: {', '.join(rates)}, {found.seconds:.1f} s."


def opened(state: AppState, view: View, name: str) -> View:
    """The view of the edit that a method gave, for the slider, the ladder and all else.

    Raises SlugError when it has not been run here, or is no method.
    """
    found = known(state, view, named(name).name)
    if not isinstance(found, Run) or found.view is None:
        raise SlugError(f"{name} has not been run here yet: run it, then open its edit.")
    mine = found.view
    return replace(
        view, method=name, layer=mine.layer, digest=mine.digest, strength=mine.strength, trace=()
    )


def _key(view: View, name: str) -> tuple[str, ...]:
    anchor = view.anchor if name in METHODS and METHODS[name].replaces else ""
    place = (view.model, view.concept, view.alignment, view.granularity)
    return "compare", *place, name, anchor


def _run(
    state: AppState, view: View, watch: Watch, name: str, shown: Callable[[], None]
) -> dict[str, Subject]:
    """Judges a row, which is shown as soon as a few pictures are; what was judged, by name."""
    done: dict[str, Subject] = {}
    if name in CONTROLS and not isinstance(known(state, view, CONTROLLED), Run):
        done = _run(state, view, watch, CONTROLLED, shown)
    old = _values(state, view, name)
    subject = _subject(state, view, watch, name)
    size = experiment.size(subject.edit) if subject.edit else {}
    found = Run(subject.seconds, subject.peak_bytes, size, view=subject.view, old=old)
    if name in METHODS:
        _check_known(state, view, subject.task)

    def hear(rows: tuple[Measurement, ...]) -> None:
        nonlocal found
        found = replace(found, measured=rows, at=time.time())
        state.shown.put(_key(view, name), found)
        shown()

    far = state.workers.run(jobs.report, subject.task, hear, subject.edits, beside=name != UNSEEN)
    more = [*_in_clip(state, view, subject), *far]
    found = replace(found, measured=(*found.measured, *more), whole=True)
    state.shown.put(_key(view, name), found)
    return done | {name: subject}


def _check_known(state: AppState, view: View, task: Task) -> None:
    """Raises SlugError when the model does not know the concept, by a score made beforehand if any."""
    entry = state.entry(view.model, view.concept)
    if entry is None or entry.before is None:
        state.workers.run(jobs.check_known, task, jobs.unheard)
    else:
        search.check_known(entry.concept, entry.before)


def _values(state: AppState, view: View, name: str) -> dict[str, float]:
    """What a row shows now."""
    found = known(state, view, name)
    if isinstance(found, Run):
        return {measured.metric: measured.after for measured in found.measured}
    return {row.metric: row.value for row in shipped_rows(view, name) if row.metric}


def _subject(state: AppState, view: View, watch: Watch, name: str) -> Subject:
    if name == UNSEEN:
        return Subject(experiment.unseen_task(state.task(view, watch)), None)
    if name in CONTROLS:
        return _control(state, view, watch, name)
    task = state.task(replace(view, method=name), watch)
    made = state.workers.run(jobs.make, task, jobs.unheard)
    edit = made.edit
    if not edit.layer:
        state.keep(view, edit)
    alone = replace(
        view,
        method=name,
        layer=task.layer(edit.layer).layer if edit.layer else "",
        digest="" if edit.layer else edit.digest[:DIGEST],
        strength=round(edit.strength, 4),
    )
    return Subject(task, edit, made.seconds, made.peak_bytes, alone)


def _control(state: AppState, view: View, watch: Watch, name: str) -> Subject:
    """A control beside the edit by CONTROLLED, which has been run."""
    task = state.task(replace(view, method=CONTROLLED), watch)
    beside = known(state, view, CONTROLLED)
    if not isinstance(beside, Run) or beside.view is None:
        raise SlugError(f"{name} is a control of {CONTROLLED}: run {CONTROLLED} first.")
    began = time.perf_counter()
    given = state.edit(view, beside.view.edit, watch)
    edit = state.workers.run(jobs.control, task, jobs.unheard, given, name)
    if edit is None:
        raise SlugError(f"There is no {name} beside this edit by {CONTROLLED}.")
    return Subject(task, edit, time.perf_counter() - began)


def _in_clip(state: AppState, view: View, subject: Subject) -> tuple[Measurement, ...]:
    """What the model's own CLIP still recognises, zero-shot on held-out pictures."""
    task = subject.task
    if task.kind == "zero-shot":
        return ()
    host = see.zero_shot(state, view, task)
    before = host.score(task.concept.name, strength=0.0)
    after = host.edited(subject.edits).score(task.concept.name, strength=1.0)
    return (
        Measurement("clip_left", before.forget_acc, after.forget_acc, after.n_forget),
        Measurement("clip_kept", before.retain_acc, after.retain_acc, after.n_retain),
    )


# ---- the gallery


def asked(state: AppState, view: View) -> dict[str, str]:
    """The prompts of the gallery by their roles: the ladder's three, and the target in other words."""
    found = {part.role: part.prompt for part in see.cast(state, view)}
    for words in catalog.other_words(view.concept)[:1]:
        found["paraphrase"] = prompt(words)
    return found


def _draw(state: AppState, view: View, made: Mapping[str, Subject]) -> None:
    """The gallery's pictures of all that was made: one denoising run for what shares a U-Net."""
    prompts = [*asked(state, view).values()]
    models = {subject.task.opened.model.name: subject.task for subject in made.values()}
    for model, task in models.items():
        names = [name for name, one in made.items() if one.task.opened.model.name == model]
        edits = [made[name].edits for name in names]
        rows = state.workers.run(jobs.draw, task, jobs.unheard, prompts, edits, view.seed)
        for name, row in zip(names, rows, strict=True):
            shown = tuple(
                {"src": source(cell.picture, quality=90), "text": cell.text, "share": cell.share}
                for cell in row
            )
            found = known(state, view, name)
            if isinstance(found, Run):
                state.shown.put(_key(view, name), replace(found, pictures=shown))


# ---- one row in full


def detail(state: AppState, view: View, watch: Watch, name: str) -> dict[str, Any]:
    """What a row did inside: cosines of pictures and names, and a map of features, both twice.

    Raises SlugError for a row that has not been run here, or is no method.
    """
    mine = opened(state, view, name)
    found = known(state, view, name)
    far = found.view.strength if isinstance(found, Run) and found.view else 0.0
    edit = state.edit(mine, mine.edit, watch).at(far or 0.0)
    task = state.task(mine, watch)
    watch.say("Comparing before and after")
    matrix = inside.cosine_matrix(task, [edit])
    points = inside.embedding_map(task, [edit])
    return {
        "name": name,
        "asked": time.time(),
        "matrix": asdict(matrix),
        "map": [asdict(point) for point in points],
    }


def features(state: AppState, view: View, watch: Watch) -> dict[str, Any]:
    """What the features mean that sae turns off: captions, shares and pictures, made once.

    {"asked", "rows", "reason" why there are none, ""}.
    """

    def make() -> list[dict[str, Any]]:
        watch.say("Looking at the features")
        task = state.task(replace(view, method=EXPLAINED), watch)
        found = state.workers.run(jobs.meanings, task, jobs.unheard, view.seed)
        return [
            {
                "feature": meaning.feature,
                "share": meaning.share,
                "shots": [
                    {"caption": text, "src": source(picture, quality=85)}
                    for text, picture in zip(meaning.captions, pictures, strict=True)
                ],
            }
            for meaning, pictures in found
        ]

    key = ("features", view.model, view.concept, view.seed)
    try:
        return {"asked": time.time(), "rows": state.shown.get(key, make), "reason": ""}
    except Cancelled:
        raise
    except SlugError as problem:
        return {"asked": time.time(), "rows": [], "reason": str(problem)}


# ---- many concepts in one model, together or one after another


def curves(state: AppState, view: View) -> dict[str, Any]:
    """The curves: {"orders", "methods" that can be run live, "count", "lines", "reason"}."""
    kind = state.kind(view.model)
    model = state.model(view.model)
    able = [method.name for method in METHODS.values() if not method.unable_on(model)]
    live = [row for order in ORDERS for name in able for row in _live(state, view, order, name)]
    mine = {(row.method, row.order) for row in live}
    kept = [row for row in shipped.joint(view.model) if (row.method, row.order) not in mine]
    reason = (
        "" if kind != "vlm" else "A model that answers questions is erased one concept at a time."
    )
    return {
        "orders": ORDERS,
        "methods": [] if reason else able,
        "count": COUNTS[-1],
        "reason": reason,
        "lines": [*_lines(kept, "shipped"), *_lines(live, "here")],
    }


def run_many(
    state: AppState, view: View, watch: Watch, name: str, order: str, *, shown: Callable[[], None]
) -> str:
    """A live run on a few concepts, the view's first; what to say in the end.

    Raises SlugError for a method or an order that is none, and for a concept of one's own.
    """
    method, found = named(name), list[Joint]()
    watch.say(f"{method.name} on {COUNTS[-1]} concepts, {order}")
    names = _concepts(state, view)

    def hear(rows: list[Joint]) -> None:
        found.extend(rows)
        state.shown.put(_many_key(view, order, method.name), tuple(found))
        shown()

    here = state.opened(view.model)
    task = Task(here, state.concept(view.concept), CONFIGS[here.kind])
    task = task.watched(watch.progress, watch.stop.is_set)
    state.workers.run(jobs.erase_many, task, hear, names, method.name, order, COUNTS)
    last = {row.metric: row for row in found[-2:]}
    left, kept = last["forget_acc"], last["retain_acc"]
    return (
        f"{method.name}, {left.count} concepts {order}: {left.value:.0%} of {left.n} pictures of "
        f"them are left, {kept.value:.0%} of {kept.n} others are kept."
    ).replace("%", " %")


def _concepts(state: AppState, view: View) -> list[str]:
    """The view's concept and the next ones of its kind."""
    if MARK in view.concept:
        raise SlugError(
            "Many concepts can be erased among the shipped ones only: choose one of them."
        )
    concept: Concept = state.concept(view.concept)
    style = concept.domain == "style"
    alike = [some for kind, some in state.forgettable.items() if (kind == "style") == style]
    names = [name for some in alike for name in some]
    at = names.index(concept.name)
    return (names[at:] + names[:at])[: COUNTS[-1]]


def _many_key(view: View, order: str, method: str) -> tuple[str, ...]:
    return "many", view.model, view.concept, order, method


def _live(state: AppState, view: View, order: str, method: str) -> tuple[Joint, ...]:
    return state.shown.peek(_many_key(view, order, method)) or ()


def _lines(rows: Iterable[Joint], source: str) -> list[dict[str, Any]]:
    """One line for each method, order and metric, with its points in order of their counts."""
    lines: dict[tuple[str, str, str], dict[str, Any]] = {}
    for row in sorted(rows, key=lambda row: row.count):
        key = (row.method, row.order, row.metric)
        names = {"method": row.method, "order": row.order, "metric": row.metric}
        line = lines.setdefault(key, {**names, "source": source, "how": row.how, "points": []})
        line["points"].append(plain([row.count, row.value, row.n, row.low, row.high, row.concept]))
        line["how"] = row.how or line["how"]
    return [*lines.values()]
