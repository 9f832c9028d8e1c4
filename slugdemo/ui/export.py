"""Take away: what a visitor may carry home, and the commands that make it again."""

import re
import shlex
import zipfile
from pathlib import Path
from typing import Any

from slugdemo import edit as edits
from slugdemo.catalog import Model
from slugdemo.errors import SlugError
from slugdemo.export import export, kind
from slugdemo.ui.forget import TITLES
from slugdemo.ui.state import AppState
from slugdemo.ui.tasks import Watch
from slugdemo.ui.view import MARK, Kept, View, label, place

LARGEST = 2_000_000_000  # bytes of a model that is packed for a visitor
NOTHING = "A strength of 0 changes nothing: move the slider before taking the {} away."
SNIPPET = """from slugdemo import experiment
from slugdemo.config import CONFIGS

task = experiment.task({model!r}, {concept!r}, config={config}{anchor})
edit = experiment.erase(task{fixed}).edit
print(experiment.report(task, [edit]))"""


def edit_file(state: AppState, view: View, watch: Watch, *, room: Path) -> Path:
    """The edit that is looked at, as a safetensors file in `room`."""
    if not view.chosen or not view.strength:
        raise SlugError(NOTHING.format("edit"))
    edit = state.edit(view, view.edit, watch)
    edit = edit.noted(host=view.model, picture_seed=str(view.seed), query=_public(view))
    path = room / f"{_named(view, view.model)}.safetensors"
    path.unlink(missing_ok=True)
    edits.save(path, edit)
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
    folder = room / _named(view, name)
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


def show(state: AppState, view: View, *, weights: str = "") -> dict[str, Any]:
    """What can be taken away now, and the commands that make it again.

    `weights` is the digest of the model's CLIP where it is known; else the model is opened.
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
        "name": _named(view, view.model),
        "facts": names
        | {"layer": view.layer, "strength": view.strength, "digest": view.digest}
        | {"seed": view.seed, "prompt": view.words, "link": _public(view)}
        | {"tray": [_kept(kept) for kept in view.tray if kept.on]}
        | {"weights": weights or state.opened(view.model).clip.digest},
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
    given |= {"strength": f"{view.strength:g}", "out": f"{_named(view, view.model)}.safetensors"}
    parts = [f"--{key} {shlex.quote(value)}" for key, value in given.items()]
    return "python -m slugdemo erase " + " ".join(parts)


def _kept(kept: Kept) -> str:
    return f"{label(kept.concept)} {place(kept)} {kept.strength:g}"


def _public(view: View) -> str:
    """The link's query without what only the visitor knows."""
    return re.sub(r"(%2523|%23|\+%23|%2B%2523)[0-9a-f]{16}", "", view.query())


def _named(view: View, model: str) -> str:
    made = f"forget-{label(view.concept)}-{model}"
    return re.sub(r"[^a-z0-9]+", "-", made.lower()).strip("-")
