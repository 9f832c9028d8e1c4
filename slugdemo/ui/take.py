"""Take it away: what a visitor may carry home, and the commands that make it again."""

import re
import shlex
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from slugdemo import edit as edits
from slugdemo.catalog import Model
from slugdemo.errors import SlugError
from slugdemo.export import export, kind
from slugdemo.layers import UNITS
from slugdemo.ui.forget import TITLES
from slugdemo.ui.jobs import Watch
from slugdemo.ui.session import World
from slugdemo.ui.view import MARK, Kept, View, label

LARGEST = 2_000_000_000  # bytes of a model that is packed for a visitor
NOTHING = "A step of 0 changes nothing: move the step before taking the {} away."
SNIPPET = """from slugdemo.catalog import concept
from slugdemo.models.loading import opened
from slugdemo.config import SETTINGS
from slugdemo.experiment import Study

model = opened({model!r})
study = Study(model, concept({concept!r}), {setting})
edit = study.direction({layer!r}).at({step!r})
print(study.rows([edit]))"""


def edit_file(world: World, view: View, watch: Watch, *, room: Path) -> Path:
    """The edit that is looked at, as a safetensors file in `room`."""
    if not view.layer or not view.step:
        raise SlugError(NOTHING.format("edit"))
    edit = world.edit(view.model, Kept(view.concept, view.layer, view.step), watch)
    edit = edit.noted(host=view.model, seed=str(view.seed), query=_public(view))
    path = room / f"{_named(view, view.model)}.safetensors"
    path.unlink(missing_ok=True)
    edits.save(path, edit)
    return path


def model_file(world: World, view: View, watch: Watch, *, room: Path, name: str) -> Path:
    """A model with every edit that is on, in its own format, packed as a zip file in `room`."""
    offer = world.shelf.offer(name)
    if offer not in targets(world, view):
        raise SlugError(f"{name} does not carry the tower that this edit changes.")
    wanted = world.edits(view, watch)
    if not wanted:
        raise SlugError(NOTHING.format("model"))
    if offer.bytes > LARGEST:
        raise SlugError(f"{name} is too large to be packed here: use the shell command instead.")
    watch.say(f"Writing {name} with {len(wanted)} edit(s)")
    folder = room / _named(view, name)
    if not folder.exists():
        export(offer.folder, wanted, folder)
    return _packed(folder, watch)


def _packed(folder: Path, watch: Watch) -> Path:
    path = folder.with_suffix(".zip")
    files = [one for one in sorted(folder.rglob("*")) if one.is_file()]
    with zipfile.ZipFile(path, "w") as packed:  # weights hardly shrink: stored as they are
        for number, file in enumerate(files, 1):
            watch.say(f"Packing {file.name}", number, len(files))
            packed.write(file, Path(folder.name) / file.relative_to(folder))
    return path


def targets(world: World, view: View) -> list[Model]:
    """The models here that carry the tower of the chosen layer: one for each format."""
    tower = "vlm" if view.layer.startswith("visual.") else "diffusion"
    mine = world.shelf.offer(view.model)
    family = mine.name.split("-")[0]
    return [
        one
        for one in world.shelf.offers
        if one == mine
        or (
            (one.kind in ("zero-shot", tower) and one.place == mine.place == "embedded")
            and one.name.split("-")[0] == family
        )
    ]


def show(world: World, view: View) -> dict[str, Any]:
    """What can be taken away now, and the commands that make it again."""
    if not view.layer or view.step is None:
        return {}
    own = MARK in view.concept
    names = {"model": view.model, "concept": label(view.concept)}
    return {
        "models": [_target(one) for one in targets(world, view)],
        "python": "" if own else SNIPPET.format(**_said(view)),
        "shell": "" if own else _shell(view),
        "own": own,
        "name": _named(view, view.model),
        "facts": names
        | {"layer": view.layer, "step": view.step, "seed": view.seed, "prompt": view.words}
        | {"tray": [_kept(one) for one in view.tray if one.on], "link": _public(view)}
        | {"weights": world.clip(view.model).digest},
    }


def _said(view: View) -> dict[str, Any]:
    """What fills the snippet."""
    setting = "SETTINGS[model.kind]"
    if view.unit != UNITS[0]:
        setting += f".changed({{'unit': {view.unit!r}}})"
    return {
        "model": view.model,
        "concept": view.concept,
        "layer": view.layer,
        "step": view.step,
        "setting": setting,
    }


def _target(model: Model) -> dict[str, str]:
    form = kind(model.folder).name if model.folder else TITLES[model.kind]
    return {"name": model.name, "format": form, "size": f"{model.bytes / 1e6:.0f} MB"}


def _shell(view: View) -> str:
    given = {"model": view.model, "concept": view.concept, "layer": view.layer}
    given |= {"step": f"{view.step:g}", "out": f"{_named(view, view.model)}.safetensors"}
    if view.unit != UNITS[0]:
        given["unit"] = view.unit
    parts: Sequence[str] = [f"--{key} {shlex.quote(value)}" for key, value in given.items()]
    return "python -m slugdemo erase " + " ".join(parts)


def _kept(kept: Kept) -> str:
    return f"{label(kept.concept)} {kept.layer} {kept.step:g}"


def _public(view: View) -> str:
    """The link's query without what only the visitor knows."""
    return re.sub(r"(%2523|%23|\+%23|%2B%2523)[0-9a-f]{16}", "", view.query())


def _named(view: View, model: str) -> str:
    made = f"forget-{label(view.concept)}-{model}"
    return re.sub(r"[^a-z0-9]+", "-", made.lower()).strip("-")
