"""FORGET, a concept of one's own: a name, and pictures that are given or drawn."""

import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from PIL.Image import Image

from slugdemo import data as examples
from slugdemo import images as pictures
from slugdemo import weights
from slugdemo.concept import Example, prompt
from slugdemo.edit import Edit, load
from slugdemo.errors import SlugError
from slugdemo.ui.exams import GUIDANCE, STEPS
from slugdemo.ui.jobs import Watch
from slugdemo.ui.session import World
from slugdemo.ui.view import MARK, Kept, View

FEWEST, MOST = 3, 50  # pictures that a visitor may give
LONGEST = 40  # letters of a name
DRAWN, FIRST_SEED = 12, 5_000_000  # pictures that are drawn, and the noise of the first


def named(text: str) -> str:
    """The name that a visitor typed, tidied up; raises SlugError when it is none."""
    name = " ".join(text.replace("#", " ").replace("~", " ").split())
    if not any(letter.isalpha() for letter in name):
        raise SlugError("Type a name for your concept first, such as “my mug”.")
    if len(name) > LONGEST:
        raise SlugError(f"This name has {len(name)} letters: keep it below {LONGEST}.")
    return name


def given(
    world: World, view: View, watch: Watch, *, visitor: str, name: str, given: list[str] | None
) -> View:
    """The view of a concept shown by pictures that the visitor gives.

    Raises SlugError for a missing name, too few or too many pictures, and for bad ones, which it
    names.
    """
    name, paths = named(name), given or []
    if not FEWEST <= len(paths) <= MOST:
        raise SlugError(f"Choose {FEWEST} to {MOST} pictures of “{name}”; these are {len(paths)}.")
    folder = Path(tempfile.mkdtemp(prefix="slugdemo-own-"))
    images = []
    for number, path in enumerate(map(Path, paths), 1):
        watch.say(f"Reading picture {number} of {len(paths)}", number, len(paths))
        (image,) = examples.uploads([path], caption=prompt(name))
        images.append(image)
    shown = [_small(one) for one in images]
    made = examples.stored(shown, [prompt(name)] * len(shown), directory=folder, concept=name)
    return _brought(world, view, visitor=visitor, name=name, made=made, folder=folder)


def _small(example: Example) -> Image:
    picture = pictures.read(example.image)
    picture.thumbnail((512, 512))
    return picture


def drawn(
    world: World, view: View, watch: Watch, *, visitor: str, name: str, given: object
) -> View:
    """The view of a concept shown by pictures that Stable Diffusion draws (SLUG, sec. 4.3)."""
    del given
    name = named(name)
    artists = [one.name for one in world.shelf.offers if one.kind == "diffusion"]
    if not artists:
        raise SlugError("No model here can draw: upload pictures instead.")
    artist = view.model if view.model in artists else artists[0]
    images = world.diffusion(artist).generate(
        [prompt(name)] * DRAWN,
        seeds=range(FIRST_SEED, FIRST_SEED + DRAWN),
        steps=STEPS,
        guidance=GUIDANCE,
        progress=watch.bar(f"{artist} draws “{name}” {DRAWN} times: denoising step"),
        cancelled=watch.stop.is_set,
    )
    folder = Path(tempfile.mkdtemp(prefix="slugdemo-own-"))
    made = examples.stored(images, [prompt(name)] * DRAWN, directory=folder, concept=name)
    return _brought(world, view, visitor=visitor, name=name, made=made, folder=folder)


def _brought(
    world: World, view: View, *, visitor: str, name: str, made: Sequence[Example], folder: Path
) -> View:
    different = {str(one.image): one for one in made}
    if len(different) < FEWEST:
        raise SlugError(
            f"Only {len(different)} of the pictures differ: at least {FEWEST} are needed."
        )
    retain = world.results.get("retain", lambda: examples.parquet(_retain(world)))
    others = [one for one in retain if one.labels["concept"] != name]
    concept = examples.concept(name, different.values(), others)
    secret = world.guests.bring(visitor, concept, folder=folder)
    return View(view.model, f"{name}{MARK}{secret}", seed=view.seed, tray=view.tray, past=view.past)


def _retain(world: World) -> Path:
    return world.shelf.folder / "concepts" / "retain.parquet"


def edit_file(
    world: World, view: View, watch: Watch, *, visitor: str, name: str, given: str
) -> View:
    """The view with the edit of a file: shown again where it can be made here, else in the tray.

    Raises SlugError for a file that is no edit or that was made for other weights.
    """
    del name
    path = Path(given)
    try:
        found = load(path, weights=world.clip(view.model).digest)
    except SlugError:
        raise
    except Exception as error:  # many kinds, by damaged files
        raise SlugError(f"{path.name[:60]} cannot be read as an edit.") from error
    watch.say("Comparing the file with what is made here")
    if _known(world, view, found, watch):
        return replace(
            view, concept=found.concept, layer=found.layer, step=round(found.step, 4), trace=()
        )
    secret = world.guests.bring(visitor, found)
    kept = Kept(f"{found.concept[:60]}{MARK}{secret}", found.layer, round(found.step, 4))
    return replace(view, tray=(*view.tray, kept)).checked()


def _known(world: World, view: View, found: Edit, watch: Watch) -> bool:
    """Whether the page makes the very same edit itself."""
    if found.concept not in {one.name for one in world.shelf.offered} or not 0 < found.step <= 1:
        return False
    try:
        own = world.edit(view.model, Kept(found.concept, found.layer, found.step), watch)
    except SlugError:
        return False
    return (
        own.direction.keys() == found.direction.keys()
        and weights.cosine(own.direction, found.direction) > 0.9999
    )
