"""The evaluation set around a concept: shipped names, held-out pictures, the judge, drawn examples.

Knows the catalog and the judge; knows no search and no method.
"""

import os
from contextlib import suppress
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

from slugdemo import catalog, data
from slugdemo.concept import Concept
from slugdemo.errors import SlugError
from slugdemo.evaluation.judge import Judge
from slugdemo.evaluation.prompt_set import DENOISING, GUIDANCE, VALIDATION_SEED, EvalSet
from slugdemo.models.loading import Opened
from slugdemo.weights import digest

DRAWN_SEED = 5_000_000  # of pictures that a model draws to be forgotten


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


def drawn(here: Opened, name: str, *, count: int, seed: int = DRAWN_SEED) -> Path:
    """A folder with pictures of `name` that the model itself makes, as the paper does for characters.

    They stay in the cache folder, so that the same request is drawn once. Raises SlugError for a
    model that draws nothing.
    """
    if here.kind != "diffusion":
        raise SlugError(f"{here.model.name} draws no pictures: give a folder of pictures instead.")
    names = catalog.names_known()
    unet = digest(here.host.pipeline().unet)
    facts = f"{here.clip.digest} {unet} {names.words(name)} {count} {seed}"
    key = sha256(facts.encode()).hexdigest()[:24]
    folder = catalog.cache() / "drawn" / key
    if not folder.is_dir():
        shown = here.host.generate(
            [names.words(name)] * count,
            seeds=range(seed, seed + count),
            steps=DENOISING,
            guidance=GUIDANCE,
        )
        draft = folder.with_name(f"{key}.{os.getpid()}.part")
        draft.mkdir(parents=True, exist_ok=True)
        for at, picture in enumerate(shown):
            picture.save(draft / f"{at:04d}.png")
        with suppress(OSError):  # somebody else has drawn the same meanwhile
            draft.replace(folder)
    return folder
