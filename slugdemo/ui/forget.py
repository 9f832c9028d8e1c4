"""FORGET: which model, which concept, by which method, and the very pictures that stand for it."""

import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from PIL.Image import Image

from slugdemo import catalog
from slugdemo import data as examples
from slugdemo import images as pictures
from slugdemo.benchmark import shipped
from slugdemo.catalog import Model
from slugdemo.concept import PLAIN, Example, prompt
from slugdemo.config import CONFIGS
from slugdemo.errors import SlugError
from slugdemo.evaluation.eval_set import DRAWN_SEED, left_out, recognised
from slugdemo.images import source
from slugdemo.methods import METHODS
from slugdemo.methods.method import GROUPS
from slugdemo.ui.state import CONCEPT_TITLES, DRAWN, AppState
from slugdemo.ui.tasks import Watch
from slugdemo.ui.view import MARK, View, label

SHOWN = 10
THUMB = 48  # pixels of a thumbnail
TITLES = {"zero-shot": "Zero-shot", "diffusion": "Stable Diffusion", "vlm": "VLM"}
READS = {
    "zero-shot": "classifies pictures; both towers can be edited",
    "diffusion": "draws pictures; its text tower is CLIP's",
    "vlm": "answers questions; its vision tower is CLIP's",
}
FEWEST, MOST = 3, 50  # pictures that a visitor may give
LONGEST = 40  # letters of a name


def choices(state: AppState) -> dict[str, Any]:
    """Everything that can be chosen: models and methods by kind, concepts with a thumbnail each."""
    every = (*state.offers, *state.published)
    models: list[dict[str, Any]] = [
        {"title": title, "note": READS[kind], "rows": [_model(m) for m in every if m.kind == kind]}
        for kind, title in TITLES.items()
    ]
    if refused := catalog.refused():
        rows = [{"name": name, "note": why, "here": False} for name, why in refused.items()]
        note = "beside the models, for the reasons given"
        models.append({"title": "Cannot be opened", "note": note, "rows": rows})
    thumbs = _thumbs(state)
    concepts = [
        {
            "title": CONCEPT_TITLES[kind],
            "rows": [{"name": name, "src": thumbs[name]} for name in names],
        }
        for kind, names in state.forgettable.items()
    ]
    groups = {method.group for method in METHODS.values()}
    order = [group for group in GROUPS if group in groups]
    order += sorted(groups - {*order})
    methods = [{"title": group, "rows": _methods(group, every)} for group in order]
    return {"models": models, "concepts": concepts, "methods": methods}


def _methods(group: str, models: Sequence[Model]) -> list[dict[str, Any]]:
    return [
        {
            "name": method.name,
            "seconds": {
                model.name: shipped.seconds(model.name, method.name, method.seconds)
                for model in models
            },
            "changes": method.changes,
            "cite": method.cite,
            "layer": method.of_layer is not None,
            "replaces": method.replaces,
            "unable": {model.name: why for model in models if (why := method.unable_on(model))},
        }
        for method in METHODS.values()
        if method.group == group
    ]


def _model(model: Model) -> dict[str, Any]:
    size = f"{model.bytes / 1e9:.1f} GB" if model.bytes > 1e9 else f"{model.bytes / 1e6:.0f} MB"
    there = model.place != "hub"
    needs = "" if there else f"not here: {size} to fetch, {model.minutes:.0f} min at 100 Mbit/s"
    return {"name": model.name, "note": size if there else needs, "here": there}


def _thumbs(state: AppState) -> dict[str, str]:
    """One small picture for each concept that is offered, without a style where there is one."""
    found: dict[str, str] = {}
    plainest = sorted(state.forget_pictures, key=lambda each: each.labels["style"] != PLAIN)
    wanted = {name for names in state.forgettable.values() for name in names}
    for example in plainest:
        for name in {*example.labels.values()} & wanted - {*found}:
            found[name] = _small(example)
    return found


def _small(example: Example) -> str:
    picture = pictures.read(example.image)
    picture.thumbnail((THUMB, THUMB))
    return source(picture, quality=70)


def chosen(state: AppState, view: View) -> dict[str, Any]:
    """What stands on the buttons that open the lists of models, concepts and methods."""
    kind = state.kind(view.model)
    return {
        "model": view.model,
        "host": TITLES[kind],
        "kind": kind,
        "concept": label(view.concept),
        "src": _small(state.concept(view.concept).forget[0]),
        "method": view.method,
        "anchor": view.anchor,
        "replaces": METHODS[view.method].replaces,
        "run": "Find layer and step" if METHODS[view.method].of_layer else f"Run {view.method}",
    }


def show(state: AppState, view: View) -> dict[str, Any]:
    """The pictures that stand for forgetting and for keeping, and what was left out of them."""
    concept = state.concept(view.concept)
    return {
        "groups": [
            _group("forget", f"Forget “{concept.name}”", concept.forget),
            _group("retain", "Keep the rest", concept.retain),
        ],
        "note": " ".join(concept.notes),
    }


def _group(role: str, title: str, every: Sequence[Example]) -> dict[str, Any]:
    some = [every[at * len(every) // SHOWN] for at in range(SHOWN)]
    some = list({str(each.image): each for each in some}.values())
    shown = [{"src": pictures.shown(each.image), "alt": each.caption} for each in some]
    return {"role": role, "title": title, "count": len(every), "pictures": shown}


# ---- a concept of the visitor's own


def named(text: str) -> str:
    """The name that a visitor typed, tidied up; raises SlugError when it is none."""
    name = " ".join(text.replace("#", " ").replace("~", " ").split())
    if not any(letter.isalpha() for letter in name):
        raise SlugError("Type a name for your concept first, such as “my mug”.")
    if len(name) > LONGEST:
        raise SlugError(f"This name has {len(name)} letters: use {LONGEST} at most.")
    return name


def uploaded(
    state: AppState, view: View, watch: Watch, *, visitor: str, name: str, given: list[str] | None
) -> View:
    """The view of a concept shown by pictures that the visitor gives.

    Raises SlugError for a missing name, too few or too many pictures, and for bad ones, which it
    names.
    """
    name, paths = named(name), given or []
    if not FEWEST <= len(paths) <= MOST:
        raise SlugError(f"Choose {FEWEST} to {MOST} pictures of “{name}”: you chose {len(paths)}.")
    shown = []
    for number, path in enumerate(map(Path, paths), 1):
        watch.say(f"Reading picture {number} of {len(paths)}", number, len(paths))
        (example,) = examples.uploads([path], caption=prompt(name))
        picture = pictures.read(example.image)
        picture.thumbnail((512, 512))
        shown.append(picture)
    return _brought(state, view, visitor=visitor, name=name, shown=shown)


def drawn(
    state: AppState, view: View, watch: Watch, *, visitor: str, name: str, given: object
) -> View:
    """The view of a concept shown by pictures that Stable Diffusion draws (SLUG, sec. 4.3)."""
    del given
    name = named(name)
    artist = view.model if state.kind(view.model) == "diffusion" else state.artist()
    size = CONFIGS["diffusion"].size
    shown = state.opened(artist).host.generate(
        [catalog.names_known().words(name)] * DRAWN,
        seeds=range(DRAWN_SEED, DRAWN_SEED + DRAWN),
        steps=size.denoising,
        guidance=size.guidance,
        progress=watch.bar(f"{artist} draws “{name}” {DRAWN} times: denoising step"),
        cancelled=watch.stop.is_set,
    )
    kept = recognised(shown, name)
    notes = left_out(name, len(kept), DRAWN)
    return _brought(state, view, visitor=visitor, name=name, shown=kept, notes=notes)


def _brought(
    state: AppState,
    view: View,
    *,
    visitor: str,
    name: str,
    shown: Sequence[Image],
    notes: tuple[str, ...] = (),
) -> View:
    folder = Path(tempfile.mkdtemp(prefix="slugdemo-own-"))
    captions = [catalog.names_known().words(name)] * len(shown)
    made = examples.stored(shown, captions, directory=folder, concept=name)
    different = {str(example.image): example for example in made}
    if len(different) < FEWEST:
        raise SlugError(
            f"Only {len(different)} of the pictures differ: at least {FEWEST} are needed."
        )
    concept = catalog.own(name, different.values())
    concept = replace(concept, notes=notes + concept.notes)
    secret = state.uploads.bring(visitor, concept, folder=folder)
    return replace(view.of_concept(concept=f"{name}{MARK}{secret}"), pin="")
