"""EDITS: those that a visitor keeps in the tray, pins as A, opens from a file and takes away.

What is taken away is an edit file, a whole model with its edits, and the commands that make it again.
"""

import re
import shlex
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from slugdemo import edit as edit_files
from slugdemo import weights
from slugdemo.catalog import Model
from slugdemo.edit import Edit, clip_name
from slugdemo.errors import SlugError
from slugdemo.export import export, kind
from slugdemo.layer_names import label as layer_label
from slugdemo.search import where
from slugdemo.ui import see, step
from slugdemo.ui.forget import TITLES
from slugdemo.ui.state import AppState, digests
from slugdemo.ui.tasks import Watch
from slugdemo.ui.view import DIGEST, FARTHEST, KEPT, MARK, Kept, View, label, place

LONGEST = 40  # letters of a name
LARGEST = 2_000_000_000  # bytes of a model that is packed for a visitor
NOTHING = "A strength of 0 changes nothing: move the slider before taking the {} away."
SNIPPET = """from slugdemo import experiment
from slugdemo.config import CONFIGS

task = experiment.task({model!r}, {concept!r}, config={config}{anchor})
edit = experiment.erase(task{fixed}).edit
print(experiment.report(task, [edit]))"""


# ---- the tray


def tray(view: View) -> dict[str, Any]:
    """The tray as the page shows it, with a word when two edits share a layer."""
    rows = [
        {"name": kept.name or named(kept), "on": kept.on, "full": named(kept)} for kept in view.tray
    ]
    places = [kept.layer for kept in view.tray if kept.on and kept.layer]
    shared = sorted({layer_label(layer) for layer in places if places.count(layer) > 1})
    note = f"Two edits share {', '.join(shared)}: they add up." if shared else ""
    return {"rows": rows, "note": note}


def named(kept: Kept) -> str:
    """An edit of the tray in a few words."""
    what = layer_label(kept.layer) if kept.layer else kept.method
    return f"{label(kept.concept)} · {what} · {kept.strength:.3g}"


def keep(view: View) -> tuple[View, str]:
    """The view with its edit in the tray, and a sentence that says so."""
    if not view.strength:
        raise SlugError("A strength of 0 changes nothing: move the slider before keeping the edit.")
    new = view.edit
    same = [kept for kept in view.tray if kept.place == new.place]
    rest = [kept for kept in view.tray if kept not in same]
    if len(rest) >= KEPT:
        raise SlugError(f"The tray holds {KEPT} edits; take one out first.")
    new = replace(new, name=same[0].name if same else "")
    return replace(view, tray=(*rest, new)), f"Kept: {named(new)}."


def switched(view: View, number: int) -> tuple[View, str]:
    """The view with one edit of the tray switched on or off, and a sentence."""
    kept = _at(view, number)
    said = f"{named(kept)}: {'off' if kept.on else 'on'}."
    return _with(view, number, replace(kept, on=not kept.on)), said


def dropped(view: View, number: int) -> tuple[View, str]:
    """The view without one edit of the tray, and a sentence."""
    gone = _at(view, number)
    return _with(view, number), f"Taken out: {named(gone)}. Undo brings it back."


def renamed(view: View, number: int, name: str) -> tuple[View, str]:
    """The view with another name for one edit of the tray, and a sentence."""
    kept = _at(view, number)
    name = " ".join(name.replace("~", " ").split())[:LONGEST]
    said = f"It is called “{name or named(kept)}” now."
    return _with(view, number, replace(kept, name=name)), said


def pin(view: View) -> tuple[View, str]:
    """The view with what is looked at pinned as A, or with nothing pinned, and a sentence."""
    if view.pin:
        return replace(view, pin=""), "A is unpinned."
    pinned = replace(view, pin=view.query())
    return pinned, "Pinned as A: what you change now is shown as B beside it."


def _at(view: View, number: int) -> Kept:
    if not 0 <= number < len(view.tray):
        raise SlugError("There is no such edit in the tray.")
    return view.tray[number]


def _with(view: View, number: int, *new: Kept) -> View:
    return replace(view, tray=(*view.tray[:number], *new, *view.tray[number + 1 :]))


# ---- the view that is pinned as A


def pinned(state: AppState, view: View, watch: Watch) -> dict[str, Any]:
    """What the pinned view A shows in each block, to stand beside B; {} when nothing is pinned."""
    pin = view.pinned()
    if pin is None:
        return {}
    pin = state.settled(pin)
    if pin.strength is None or not pin.chosen:
        raise SlugError("The pinned view has no edit or no strength: pin another one.")
    watch.say("Preparing A")
    return {
        "name": named(pin.edit),
        "concept": label(pin.concept),
        "layer": pin.layer,
        "place": place(pin.edit),
        "step": pin.strength,
        "kind": state.kind(pin.model),
        "same": (pin.model, pin.concept) == (view.model, view.concept),
        "curve": step.show(state, pin, watch)["figure"]["data"],
        "see": see.show(state, pin, watch),
        "collateral": see.collateral(state, pin, watch),
        "ladder": see.show_ladder(state, pin, watch)["rows"],
    }


# ---- an edit from a file


def opened(
    state: AppState, view: View, watch: Watch, *, visitor: str, name: str, given: str
) -> View:
    """The view with the edit of a file: shown again where it can be made here, else in the tray.

    Raises SlugError for a file that is no edit or that was made for other weights.
    """
    del name
    path = Path(given)
    clip, unet = digests(state.opened(view.model))
    try:
        found = edit_files.load(path, weights=clip, unet=unet)
    except SlugError:
        raise
    except Exception as error:  # many kinds, by damaged files
        raise SlugError(f"{path.name[:60]} cannot be read as an edit.") from error
    watch.say("Comparing the file with what is made here")
    strength = round(found.strength, 4)
    if (again := _again(state, view, found, watch)) is not None:
        return replace(again, strength=strength, trace=())
    if not 0 <= strength <= FARTHEST:
        raise SlugError(
            f"{where(found, strength)}: the page shows strengths up to {FARTHEST:g} only."
        )
    secret = state.uploads.bring(visitor, found)
    kept = Kept(f"{found.concept[:60]}{MARK}{secret}", "", strength, method=found.method)
    return replace(view, tray=(*view.tray, kept)).checked()


def _again(state: AppState, view: View, found: Edit, watch: Watch) -> View | None:
    """The view of the very same edit where the page has it or makes it itself; else None."""
    shipped = {name for names in state.forgettable.values() for name in names}
    if found.concept not in shipped or not 0 < found.strength <= FARTHEST:
        return None
    view = view.of_concept(concept=found.concept)
    if not found.layer:
        mine = replace(view, method=found.method, digest=found.digest[:DIGEST])
        mine = replace(mine, anchor=found.about.get("replace_by", "")[:200])
        return mine if state.edits.peek((view.model, *mine.edit.place)) else None
    mine = view.of_layer(clip_name(found.layer), found.method)
    try:
        own = state.edit(mine, mine.edit, watch)
    except SlugError:
        return None
    if own.delta.keys() != found.delta.keys():
        return None
    return mine if weights.cosine(own.delta, found.delta) > 0.9999 else None


# ---- what can be taken away


def edit_file(state: AppState, view: View, watch: Watch, *, room: Path) -> Path:
    """The edit that is looked at, as a safetensors file in `room`."""
    if not view.chosen or not view.strength:
        raise SlugError(NOTHING.format("edit"))
    edit = state.edit(view, view.edit, watch)
    edit = edit.noted(host=view.model, picture_seed=str(view.seed), query=_public(view))
    path = room / f"{_file_name(view, view.model)}.safetensors"
    path.unlink(missing_ok=True)
    edit_files.save(path, edit)
    return path


def model_file(state: AppState, view: View, watch: Watch, *, room: Path, name: str) -> Path:
    """A model with every edit that is on, in its own format, packed as a zip file in `room`."""
    model = state.model(name)
    if model not in targets(state, view) or model.folder is None:
        raise SlugError(f"{name} does not carry what this edit changes.")
    wanted = state.applied(view, watch)
    if not wanted:
        raise SlugError(NOTHING.format("model"))
    if model.bytes > LARGEST:
        raise SlugError(f"{name} is too large to be packed here: use the shell command instead.")
    many = "1 edit" if len(wanted) == 1 else f"{len(wanted)} edits"
    watch.say(f"Writing {name} with {many}")
    folder = room / _file_name(view, name)
    if not folder.exists():
        export(model.folder, wanted, folder)
    return _packed(folder, watch)


def _packed(folder: Path, watch: Watch) -> Path:
    path = folder.with_suffix(".zip")
    files = [each for each in sorted(folder.rglob("*")) if each.is_file()]
    with zipfile.ZipFile(path, "w") as packed:  # weights hardly shrink: stored as they are
        for number, file in enumerate(files, 1):
            watch.say(f"Packing {file.name}", number, len(files))
            packed.write(file, Path(folder.name) / file.relative_to(folder))
    return path


def targets(state: AppState, view: View) -> list[Model]:
    """The open models that carry the CLIP of this one, and that CLIP itself: one for each format.

    An edit of a U-Net fits its own model alone, and one of a tower those that have this tower.
    """
    mine = state.model(view.model)
    opened = dict(state.models.items())
    if mine.name not in opened or not view.layer:
        return [mine]
    clip = opened[mine.name].clip
    tower = "vlm" if view.layer.startswith("visual.") else "diffusion"
    names = {name for name, other in opened.items() if other.clip.digest == clip.digest}
    return [
        model
        for model in state.offers
        if model == mine
        or (model.name in {*names, clip.name} and model.kind in ("zero-shot", tower))
    ]


def take_away(state: AppState, view: View, *, digest: str = "") -> dict[str, Any]:
    """What can be taken away now, and the commands that make it again.

    `digest` is that of the model's CLIP where it is known; else the model is opened.
    """
    if not view.chosen or view.strength is None:
        return {}
    own = MARK in view.concept
    names = {"model": view.model, "concept": label(view.concept), "method": view.method}
    names |= {"replaced by": view.edit.anchor} if view.edit.anchor else {}
    return {
        "models": [_target(model) for model in targets(state, view)],
        "python": "" if own else SNIPPET.format(**_said(view, state.kind(view.model))),
        "shell": "" if own else _shell(view),
        "own": own,
        "name": _file_name(view, view.model),
        "facts": names
        | {"layer": view.layer, "strength": view.strength, "digest": view.digest}
        | {"seed": view.seed, "prompt": view.words, "link": _public(view)}
        | {"tray": [_kept(kept) for kept in view.tray if kept.on]}
        | {"weights": digest or state.opened(view.model).clip.digest},
    }


def _said(view: View, kind: str) -> dict[str, str]:
    """What fills the snippet."""
    changed = _changed(view)
    config = f"CONFIGS[{kind!r}]" + (f".changed({changed!r})" if changed else "")
    layer = f", layer={view.layer!r}" if view.layer else ""
    fixed = f"{layer}, strength={view.strength!r}"
    anchor = f", anchor={view.edit.anchor!r}" if view.edit.anchor else ""
    names = {"model": view.model, "concept": view.concept}
    return {**names, "config": config, "fixed": fixed, "anchor": anchor}


def _changed(view: View) -> dict[str, str]:
    """What differs from the config to begin with."""
    keys = ("method", "granularity", "alignment")
    return {key: value for key in keys if (value := getattr(view, key)) != getattr(View, key)}


def _target(model: Model) -> dict[str, str]:
    form = kind(model.folder).name if model.folder else TITLES[model.kind]
    return {"name": model.name, "format": form, "size": f"{model.bytes / 1e6:.0f} MB"}


def _shell(view: View) -> str:
    given = {"model": view.model, "concept": view.concept, **_changed(view)}
    if view.layer:
        given["layer"] = view.layer
    if view.edit.anchor:
        given["replace-by"] = view.edit.anchor
    given |= {
        "strength": f"{view.strength:g}",
        "out": f"{_file_name(view, view.model)}.safetensors",
    }
    parts = [f"--{key} {shlex.quote(value)}" for key, value in given.items()]
    return "python -m slugdemo erase " + " ".join(parts)


def _kept(kept: Kept) -> str:
    return f"{label(kept.concept)} {place(kept)} {kept.strength:g}"


def _public(view: View) -> str:
    """The link's query without what only the visitor knows."""
    return re.sub(r"(%2523|%23|\+%23|%2B%2523)[0-9a-f]{16}", "", view.query())


def _file_name(view: View, model: str) -> str:
    made = f"forget-{label(view.concept)}-{model}"
    return re.sub(r"[^a-z0-9]+", "-", made.lower()).strip("-")
