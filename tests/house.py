"""A whole assets folder of tiny real models: pocket-clip, pocket-sd, pocket-llava, judge, pictures.

The pictures carry the labels that the tiny CLIP itself gives them, so that it knows its concepts.
"""

import io
import itertools
import json
from pathlib import Path

import pandas as pd
import tiny
import torch
from PIL import Image
from safetensors.torch import save_file

from slugdemo.concept import prompt, style_prompt
from slugdemo.evaluation.judge import Net
from slugdemo.models.clip import Clip
from slugdemo.models.diffusion import Diffusion
from slugdemo.sparse import Autoencoder, tower_digest

CONCEPTS = ("cat", "dog", "tree", "house", "wizard", "robot")
STYLES = ("plain", "neon", "sepia")
SPLITS = {"forget": 120, "retain": 90, "test": 90}


def pictures(count: int, *, seed: int) -> list[Image.Image]:
    """Pictures of a few coloured fields, so that a random CLIP tells them apart."""
    dice = torch.Generator().manual_seed(seed)
    fields = torch.randint(256, (count, 2, 2, 3), generator=dice).byte().numpy()
    size = (tiny.PIXELS, tiny.PIXELS)
    return [Image.fromarray(one).resize(size, Image.Resampling.NEAREST) for one in fields]


def webp(picture: Image.Image) -> bytes:
    packed = io.BytesIO()
    picture.save(packed, "webp", lossless=True)
    return packed.getvalue()


def seen(clip: Clip, shown: list[Image.Image], texts: list[str]) -> list[int]:
    """Which of some texts the CLIP finds in each picture, each text equally likely at heart."""
    with torch.no_grad():
        images = clip.encode_image(torch.stack([clip.transform(one) for one in shown]))
        scores = images @ clip.encode_text(clip.tokenize(texts)).T
    return scores.argmax(1).tolist()


def table(clip: Clip, count: int, *, seed: int) -> pd.DataFrame:
    shown = pictures(count, seed=seed)
    things = seen(clip, shown, [prompt(name) for name in CONCEPTS])
    looks = seen(clip, shown, [style_prompt(name) for name in STYLES])
    return pd.DataFrame(
        {
            "webp": [webp(one) for one in shown],
            "prompt": [prompt(CONCEPTS[a], STYLES[b]) for a, b in zip(things, looks, strict=True)],
            "concept": [CONCEPTS[at] for at in things],
            "style": [STYLES[at] for at in looks],
            "seed": range(count),
        }
    )


def build(folder: Path) -> Path:
    """`folder`, an assets folder whose four models share one tiny random CLIP."""
    model = tiny.clip_model()
    clip = Clip.from_folder(tiny.clip_folder(folder / "models" / "pocket-clip", model))
    pipe = tiny.pipeline(model)
    pipe.save_pretrained(folder / "models" / "pocket-sd")
    autoencoder(Diffusion(pipe)).save(folder / "sae" / "pocket-sd")
    for part in tiny.llava(model):
        part.save_pretrained(folder / "models" / "pocket-llava")
    judge(folder / "models" / "judge")
    return concepts(folder, clip)


def concepts(folder: Path, clip: Clip) -> Path:
    """`folder` with a list of concepts and pictures that `clip` labels."""
    (folder / "concepts").mkdir(parents=True)
    for seed, (split, count) in enumerate(SPLITS.items()):
        rows = table(clip, count, seed=seed)
        rows.to_parquet(folder / "concepts" / f"{split}.parquet")
    listing = [
        {"name": name, "kind": kind, "group": kind, "synonyms": [f"{name}s"], "forgettable": True}
        for name, kind in zip(CONCEPTS, ["object"] * 4 + ["character"] * 2, strict=True)
    ]
    listing += [
        {"name": name, "kind": "style", "group": "style", "forgettable": name != "plain"}
        for name in STYLES
    ]
    (folder / "concepts" / "concepts.json").write_text(json.dumps(listing))
    return folder


def judge(folder: Path) -> None:
    widths = [4, 4, 8]
    net = tiny.randomised(Net(len(CONCEPTS), len(STYLES), widths=widths), 3)
    folder.mkdir(parents=True)
    facts = {"concepts": CONCEPTS, "styles": STYLES, "widths": widths}
    (folder / "judge.json").write_text(json.dumps(facts))
    save_file(net.state_dict(), folder / "judge.safetensors")


def asked() -> list[str]:
    """Every name's prompts: things in every style, and styles alone."""
    return [prompt(*pair) for pair in itertools.product(CONCEPTS, STYLES)] + [
        *map(style_prompt, STYLES)
    ]


def autoencoder(model: Diffusion) -> Autoencoder:
    """A feature for each token of each prompt, active on states that are very much like it."""
    states = model.states(asked()).flatten(0, 1)  # (texts x tokens, D)
    mean = states.mean(0)
    apart = states - mean
    directions = torch.nn.functional.normalize(apart, dim=1)
    return Autoencoder(
        mean=mean,
        scale=torch.tensor(1.0),
        encoder=directions.T,
        bias=-0.9 * apart.norm(dim=1),
        decoder=directions,
        active=3,
        tower=tower_digest(model.text),
    )
