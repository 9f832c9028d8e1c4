"""Take it away: what a visitor may carry home."""

import re
import tempfile
from pathlib import Path

from slugdemo import edit as edits
from slugdemo.errors import SlugError
from slugdemo.ui.jobs import Watch
from slugdemo.ui.session import Kept, View, World


def edit_file(world: World, view: View, watch: Watch) -> Path:
    """The edit that is looked at, as a safetensors file of its own in a fresh folder."""
    if not view.layer or not view.step:
        raise SlugError("A step of 0 changes nothing: move the step before downloading the edit.")
    edit = world.edit(view.model, Kept(view.concept, view.layer, view.step), watch)
    edit = edit.noted(host=view.model, seed=str(view.seed), query=view.query())
    name = re.sub(r"[^a-z0-9]+", "-", f"forget-{view.concept}-{view.model}".lower()).strip("-")
    path = Path(tempfile.mkdtemp(prefix="slugdemo-")) / f"{name}.safetensors"
    edits.save(path, edit)
    return path
