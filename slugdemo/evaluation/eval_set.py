"""The evaluation set around a concept: shipped names, held-out pictures, the judge, drawn examples.

Knows the catalog and the judge; knows no search and no method.
"""

import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

from PIL.Image import Image

from slugdemo import catalog, data, files
from slugdemo.concept import Concept, domain
from slugdemo.errors import SlugError
from slugdemo.evaluation.judge import Judge
from slugdemo.evaluation.prompt_set import DENOISING, GUIDANCE, VALIDATION_SEED, EvalSet
from slugdemo.models.loading import Opened
from slugdemo.weights import digest

DRAWN_SEED = 5_000_000  # of pictures that a model draws to be forgotten
FEWEST = 2  # pictures that a concept is shown by


def around(concept: Concept) -> EvalSet:
    """The shipped names and held-out pictures around a concept."""
    return EvalSet(
        tuple(catalog.names("concept")),
        tuple(catalog.names("style")),
        tuple(catalog.group(concept.name)),
        tuple(catalog.held_out()),
    )


def rehearsal(concept: Concept) -> tuple[Concept, EvalSet]:
    """The concept with half of its pictures, and an evaluation set that judges by the other half.

    For choosing settings without a look at the test pictures: what is held out here are pictures
    of the forget split, and noise that neither a search nor a test uses.
    """
    half = replace(concept, forget=concept.forget[::2])
    used = {str(example.image) for example in half.forget}
    shown = data.parquet(catalog.assets() / "concepts" / "forget.parquet")
    held = tuple(example for example in shown if str(example.image) not in used)
    return half, replace(around(concept), test=held, noise=VALIDATION_SEED)


def judge() -> Judge | None:
    """The shipped judge, if there is one."""
    folder = catalog.assets() / "models" / "judge"
    return Judge.load(folder) if (folder / "judge.json").is_file() else None


def recognised(shown: Sequence[Image], name: str) -> list[Image]:
    """The pictures in which the judge sees what `name` stands for; all when it does not know it."""
    names, seer = catalog.names_known(), judge()
    own = names.canonical(name)
    style = domain(names.kind(own)) == "style"
    if seer is None or own not in (seer.styles if style else seer.concepts):
        return list(shown)
    verdict = seer(shown)
    best = (verdict.style if style else verdict.concept).argmax(1).tolist()
    wanted = (seer.styles if style else seer.concepts).index(own)
    return [picture for picture, seen in zip(shown, best, strict=True) if seen == wanted]


def left_out(name: str, kept: int, count: int) -> tuple[str, ...]:
    """What to say of `count` drawn pictures when the judge sees the concept in `kept` of them.

    Raises SlugError when those are too few.
    """
    if kept == count:
        return ()
    own = catalog.names_known().canonical(name)
    said = f"The judge sees {own!r} in {kept} of the {count} pictures that were drawn of it"
    if kept < FEWEST:
        raise SlugError(f"{said}, and {FEWEST} are needed: give pictures of your own.")
    return (f"{said}; the others are left out.",)


def drawn(
    here: Opened, name: str, *, count: int, seed: int = DRAWN_SEED
) -> tuple[Path, tuple[str, ...]]:
    """A folder with pictures of `name` that the model itself makes, as the paper does for characters.

    Only those stay that the judge takes for it, where the judge knows the name; the second value
    says how many were left out. They stay in the cache folder, so that the same request is drawn
    once. Raises SlugError for a model that draws nothing, and when fewer than two pictures stay.
    """
    if here.kind != "diffusion":
        raise SlugError(f"{here.model.name} draws no pictures: give a folder of pictures instead.")
    words, seer = catalog.names_known().words(name), judge()
    looked = digest(seer.net) if seer else ""
    unet = digest(here.host.pipeline().unet)
    facts = f"{here.clip.digest} {unet} {words} {count} {seed} {looked}"
    key = sha256(facts.encode()).hexdigest()[:24]
    folder = files.writable_folder(catalog.cache() / "drawn") / key
    if not folder.is_dir():
        shown = here.host.generate(
            [words] * count,
            seeds=range(seed, seed + count),
            steps=DENOISING,
            guidance=GUIDANCE,
        )
        draft = folder.with_name(f"{key}.{os.getpid()}.part")
        draft.mkdir(exist_ok=True)
        for at, picture in enumerate(recognised(shown, name)):
            picture.save(draft / f"{at:04d}.png")
        with suppress(OSError):  # somebody else has drawn the same meanwhile
            draft.replace(folder)
    return folder, left_out(name, len(list(folder.iterdir())), count)
