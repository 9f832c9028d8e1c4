"""Measures the pocket models as they are committed: every figure with n and a 95 % interval."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
import open_clip
import pandas as pd
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, StableDiffusionPipeline
from PIL import Image
from torch import Tensor
from transformers import AutoProcessor, LlavaForConditionalGeneration

from slugdemo.evaluation.judge import Judge
from slugdemo.evaluation.metrics import wilson
from slugdemo.evaluation.prompt_set import JUDGED_DENOISING as STEPS
from slugdemo.evaluation.prompt_set import JUDGED_GUIDANCE as GUIDANCE
from slugdemo.models.diffusion import Diffusion
from slugdemo.models.names import text_model, vision_model
from slugdemo.pocket import dialogue, sae
from slugdemo.pocket.clip import SIDE as LOOKED_AT
from slugdemo.pocket.clip import encode_text
from slugdemo.pocket.names import UNSEEN, Names
from slugdemo.pocket.vae import psnr
from slugdemo.pocket.words import prompt, style_prompt
from slugdemo.pocket.world import HELD_OUT, SIDE, Scene, Sprites, render, rendered, scenes
from slugdemo.sparse import Autoencoder, explained
from slugdemo.sparse import load as autoencoder

FRESH = 1_000_003  # seed of renderings that no training used
ASK = "USER: <image>\n{} ASSISTANT:"


@dataclass(frozen=True)
class Figure:
    """One measured share (or plain number, with n = 0), its bar, and whether more or less is better."""

    name: str
    value: float
    n: int = 0
    bar: float | None = None
    less: bool = False
    unit: str = ""

    @property
    def interval(self) -> tuple[float, float]:
        """95 % Wilson interval of a share; the value itself for other numbers."""
        return wilson(self.value, self.n) if self.n else (self.value, self.value)

    @property
    def met(self) -> bool | None:
        """Whether the bar is met; None where there is none."""
        if self.bar is None:
            return None
        return self.value <= self.bar if self.less else self.value >= self.bar


def share(name: str, hits: Sequence[bool] | Tensor, bar: float | None = None) -> Figure:
    """A share of hits as a figure."""
    return Figure(name, float(np.mean(np.asarray(hits, dtype=float))), len(hits), bar)


@dataclass(frozen=True)
class ZeroShot:
    """pocket-clip with the features of all concept and style prompts."""

    model: open_clip.CLIP
    concepts: list[str]
    styles: list[str]
    texts: Tensor

    @classmethod
    def load(cls, folder: Path, judge: Judge) -> "ZeroShot":
        """pocket-clip as open_clip loads it, on the judge's list of names."""
        model = open_clip.create_model(f"local-dir:{folder}").eval()
        words = [prompt(c) for c in judge.concepts] + [style_prompt(s) for s in judge.styles]
        with torch.inference_mode():
            texts = encode_text(model, open_clip.get_tokenizer(f"local-dir:{folder}")(words))
        return cls(model, judge.concepts, judge.styles, texts)

    @torch.inference_mode()
    def names(self, pixels: Tensor) -> tuple[list[str], list[str]]:
        """The best concept and the best style for pixels (N, 3, 64, 64) in [-1, 1]."""
        seen = (
            torch.cat([self.model.encode_image(some, normalize=True) for some in pixels.split(256)])
            @ self.texts.T
        )
        count = len(self.concepts)
        return (
            [self.concepts[i] for i in seen[:, :count].argmax(1).tolist()],
            [self.styles[i] for i in seen[:, count:].argmax(1).tolist()],
        )


def everything(assets: Path, sprites: Sprites | None) -> tuple[list[Figure], pd.DataFrame]:
    """Every figure that can be measured with what there is, and the judged pictures of pocket-sd.

    Without sprites no rendering is looked at; without reference models none is compared.
    """
    models = assets / "models"
    judge, model = Judge.load(models / "judge"), Diffusion.from_folder(models / "pocket-sd")
    clip = ZeroShot.load(models / "pocket-clip", judge)
    figures = list(on_renderings(sprites, clip, judge)) if sprites else []
    if (assets / "concepts" / "test.parquet").is_file():
        figures += on_shipped(pd.read_parquet(assets / "concepts" / "test.parquet"), clip)
    table = judged(model, judge)
    figures += [
        *agreement("pocket-sd", table, (0.99, 0.98)),
        *bare(models / "pocket-sd", judge),
        *passes(model, judge.concepts),
    ]
    if sprites:
        figures.append(reconstruction(models / "pocket-sd", sprites))
    if (models / "reference-clip").is_dir() and sprites:
        figures += on_reference_clip(models / "reference-clip", clip, sprites, judge)
    if (models / "reference-sd").is_dir():
        figures += on_reference_sd(Diffusion.from_folder(models / "reference-sd"), table, judge)
    figures += towers(models, clip, model)
    if (assets / "sae" / "pocket-sd").is_dir():
        names = Names(tuple(judge.concepts), tuple(judge.styles))
        figures += on_features(autoencoder(assets / "sae" / "pocket-sd"), model, names)
    if sprites and (models / "pocket-llava").is_dir():
        figures += on_questions(models / "pocket-llava", sprites)
    return [*figures, *sizes(assets)], table


def looked_at(sprites: Sprites, planned: Sequence[Scene]) -> Tensor:
    """Pictures of the scenes as pocket-clip and the judge look at them, (N, 3, 64, 64) in [-1, 1]."""
    return torch.cat(
        [F.avg_pool2d(p.float() / 127.5 - 1, SIDE // LOOKED_AT) for p in rendered(sprites, planned)]
    )


def on_renderings(
    sprites: Sprites, clip: ZeroShot, judge: Judge, *, each: int = 2
) -> Iterator[Figure]:
    """Zero-shot and judge on unseen renderings of the training artists and of the held-out artist."""
    count = each * len(judge.concepts) * len(judge.styles)
    for label, artists, bars in (
        ("unseen renderings", sprites.trained, ((0.99, None), (0.99, 0.985))),
        (f"held-out artist ({HELD_OUT})", [HELD_OUT], ((0.65, None), (None, None))),
    ):
        if not set(artists) <= set(sprites.artists):
            continue
        planned = scenes(sprites, count, seed=FRESH, artists=artists)
        pixels = looked_at(sprites, planned)
        verdict = judge.pixels(pixels)
        answers = {
            "pocket-clip zero-shot": clip.names(pixels),
            "judge": (
                [judge.concepts[i] for i in verdict.concept.argmax(1).tolist()],
                [judge.styles[i] for i in verdict.style.argmax(1).tolist()],
            ),
        }
        for (who, (things, looks)), bar in zip(answers.items(), bars, strict=True):
            right = [a == s.things[0].concept for a, s in zip(things, planned, strict=True)]
            yield share(f"{who}, concept, {label}", right, bar[0])
            right = [a == s.style for a, s in zip(looks, planned, strict=True)]
            yield share(f"{who}, style, {label}", right, bar[1])


def picture(webp: bytes) -> Image.Image:
    """A shipped picture from its row."""
    return Image.open(BytesIO(webp)).convert("RGB")


def on_shipped(pictures: pd.DataFrame, clip: ZeroShot) -> Iterator[Figure]:
    """Zero-shot on the shipped test pictures."""
    small = (LOOKED_AT, LOOKED_AT)
    arrays = [
        np.asarray(picture(webp).resize(small, Image.Resampling.BICUBIC)) for webp in pictures.webp
    ]
    pixels = torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2).float() / 127.5 - 1
    things, looks = clip.names(pixels)
    yield share(
        "pocket-clip zero-shot, concept, shipped test pictures", list(pictures.concept == things)
    )
    yield share(
        "pocket-clip zero-shot, style, shipped test pictures", list(pictures["style"] == looks)
    )


def judged(model: Diffusion, judge: Judge, *, seeds: Sequence[int] = (0, 1)) -> pd.DataFrame:
    """One picture of every concept in every style for every seed, and what the judge sees in it."""
    rows = []
    wanted = [(c, s, FRESH + seed) for c in judge.concepts for s in judge.styles for seed in seeds]
    for start in range(0, len(wanted), 54):
        some = wanted[start : start + 54]
        pictures = model.generate(
            [prompt(c, s) for c, s, _ in some],
            seeds=[k for *_, k in some],
            steps=STEPS,
            guidance=GUIDANCE,
        )
        seen = verdicts(judge, pictures)
        for (concept, style, seed), shown, (sees, looks) in zip(some, pictures, seen, strict=True):
            told = {"concept": concept, "style": style, "seed": seed}
            rows.append({**told, "picture": shown, "sees": sees, "looks": looks})
    return pd.DataFrame(rows)


def verdicts(judge: Judge, pictures: Sequence[Image.Image]) -> list[tuple[str, str]]:
    """The concept and the style that the judge sees in each picture."""
    verdict = judge(pictures)
    numbers = zip(verdict.concept.argmax(1).tolist(), verdict.style.argmax(1).tolist(), strict=True)
    return [(judge.concepts[concept], judge.styles[style]) for concept, style in numbers]


def agreement(name: str, table: pd.DataFrame, bars: tuple[float, float]) -> list[Figure]:
    """Whether the judge sees what the prompt names."""
    return [
        share(f"{name}, judge agrees on the concept", list(table.concept == table.sees), bars[0]),
        share(f"{name}, judge agrees on the style", list(table["style"] == table.looks), bars[1]),
    ]


def bare(folder: Path, judge: Judge, *, count: int = 200) -> Iterator[Figure]:
    """The pipeline as diffusers loads it, called with nothing but prompts: 50 steps, guidance 7.5."""
    pipe = StableDiffusionPipeline.from_pretrained(folder)
    pipe.set_progress_bar_config(disable=True)
    rng = np.random.default_rng(FRESH)
    wanted = [
        (str(rng.choice(judge.concepts)), str(rng.choice(judge.styles))) for _ in range(count)
    ]
    seen: list[tuple[str, str]] = []
    for start in range(0, count, 25):
        some = wanted[start : start + 25]
        noise = [torch.Generator().manual_seed(FRESH + start + i) for i in range(len(some))]
        seen += verdicts(judge, pipe([prompt(*pair) for pair in some], generator=noise).images)
    for place, kind, bar in ((0, "concept", 0.97), (1, "style", 0.95)):
        right = [a[place] == b[place] for a, b in zip(seen, wanted, strict=True)]
        yield share(f"pocket-sd, bare pipeline, {kind}", right, bar)


def passes(model: Diffusion, concepts: Sequence[str]) -> list[Figure]:
    """U-Net passes a picture as the app draws it, and its wall time beside that of 15 steps."""
    return [
        Figure("pocket-sd, U-Net passes a picture", 2 * STEPS, bar=12, less=True),
        Figure(
            f"pocket-sd, wall time of {STEPS} steps as a share of that of 15",
            _seconds(model, concepts, STEPS) / _seconds(model, concepts, 15),
        ),
    ]


def _seconds(model: Diffusion, concepts: Sequence[str], steps: int) -> float:
    """Seconds for 8 pictures, the best of three."""
    spent = []
    for turn in range(3):
        began, first = (
            time.perf_counter(),
            9000 + 100 * steps + 8 * turn,
        )  # seeds not remembered yet
        words = [prompt(c) for c in concepts[:8]]
        model.generate(
            words, seeds=range(first, first + len(words)), steps=steps, guidance=GUIDANCE
        )
        spent.append(time.perf_counter() - began)
    return min(spent)


@torch.inference_mode()
def reconstruction(folder: Path, sprites: Sprites, *, count: int = 256) -> Figure:
    """How well the autoencoder reproduces unseen renderings of the training artists, in dB."""
    coder = AutoencoderKL.from_pretrained(folder / "vae", torch_dtype=torch.float32)
    errors = []
    for pictures in rendered(sprites, scenes(sprites, count, seed=FRESH, artists=sprites.trained)):
        pixels = pictures.float() / 127.5 - 1
        shown = coder.decode(coder.encode(pixels).latent_dist.mean).sample
        errors.append((shown - pixels).square().mean((1, 2, 3)))
    return Figure(
        "autoencoder, reconstruction", psnr(torch.cat(errors).mean()).item(), bar=28, unit="dB"
    )


def on_reference_clip(
    folder: Path, clip: ZeroShot, sprites: Sprites, judge: Judge
) -> Iterator[Figure]:
    """reference-clip beside pocket-clip on what both have seen, and what it says for the rest."""
    reference = ZeroShot.load(folder, judge)
    count = 2 * len(judge.concepts) * len(judge.styles)
    planned = scenes(sprites, count, seed=FRESH, artists=sprites.trained)
    pixels = looked_at(sprites, planned)
    table = pd.DataFrame(
        {"concept": [s.things[0].concept for s in planned], "style": [s.style for s in planned]}
    )
    known = ~(table.concept.isin(UNSEEN) | table["style"].isin(UNSEEN))
    said = {"pocket": clip.names(pixels), "reference": reference.names(pixels)}
    for place, kind in enumerate(("concept", "style")):
        right = {who: (table[kind] == names[place])[known].mean() for who, names in said.items()}
        yield behind(f"reference-clip, {kind}s that it knows", right["reference"], right["pocket"])
        yield from _unseen("reference-clip", table[kind], pd.Series(said["reference"][place]))


def on_reference_sd(model: Diffusion, table: pd.DataFrame, judge: Judge) -> Iterator[Figure]:
    """reference-sd beside pocket-sd on what both have seen, and what it draws for the rest."""
    own = judged(model, judge)
    known = ~(own.concept.isin(UNSEEN) | own["style"].isin(UNSEEN))
    for kind, sees in (("concept", "sees"), ("style", "looks")):
        right = [(some[kind] == some[sees])[known].mean() for some in (own, table)]
        yield behind(f"reference-sd, {kind}s that it knows", *right)
        yield from _unseen("reference-sd", own[kind], own[sees])


def behind(name: str, reference: float, shipped: float) -> Figure:
    """How far the reference lies behind the shipped model, a difference of shares."""
    return Figure(f"{name}, behind the shipped model", shipped - reference, bar=0.01, less=True)


def _unseen(who: str, asked: pd.Series, answered: pd.Series) -> Iterator[Figure]:
    """For every name that was never seen, the share of right answers and the answer given most often."""
    for name in UNSEEN:
        given = answered[asked == name]
        if len(given):
            most = given.value_counts().index[0]
            yield share(f"{who}, never saw {name!r}: most often {most!r}", list(given == name))


def on_questions(folder: Path, sprites: Sprites, *, count: int = 519) -> Iterator[Figure]:
    """pocket-llava's answers on unseen renderings of the training artists."""
    model = LlavaForConditionalGeneration.from_pretrained(folder, dtype=torch.float32).eval()
    reader = AutoProcessor.from_pretrained(folder)
    single = scenes(sprites, count, seed=FRESH + 1, artists=sprites.trained)
    double = scenes(sprites, count, seed=FRESH + 2, artists=sprites.trained, pairs=1.0)
    for label, shown, turn, bar in (
        ("name, one thing", single, dialogue.what, 0.97),
        ("style", single, dialogue.style, 0.97),
        ("background", single, dialogue.ground, None),
        ("both names, two things", double, dialogue.what, 0.80),
    ):
        turns = [turn(s) for s in shown]
        said = answers(model, reader, sprites, shown, turns[0].question)
        yield share(
            f"pocket-llava, {label}", [a == t.answer for a, t in zip(said, turns, strict=True)], bar
        )
    yield from _presence(model, reader, sprites, single)


def _presence(
    model: LlavaForConditionalGeneration,
    reader: AutoProcessor,
    sprites: Sprites,
    single: Sequence[Scene],
) -> Iterator[Figure]:
    rng = np.random.default_rng(FRESH)
    asked = [
        s.things[0].concept if i % 2 else str(rng.choice(sprites.names))
        for i, s in enumerate(single)
    ]
    turns = [dialogue.there(s, concept) for s, concept in zip(single, asked, strict=True)]
    said = [
        answers(model, reader, sprites, [s], t.question)[0]
        for s, t in zip(single[:200], turns, strict=False)
    ]
    yield share(
        "pocket-llava, yes or no",
        [a[:3] == t.answer[:3] for a, t in zip(said, turns, strict=False)],
    )


@torch.inference_mode()
def answers(
    model: LlavaForConditionalGeneration,
    reader: AutoProcessor,
    sprites: Sprites,
    shown: Sequence[Scene],
    question: str,
) -> list[str]:
    """The model's own answer to one question about every scene."""
    said = []
    for start in range(0, len(shown), 64):
        pixels = render(sprites, shown[start : start + 64]).permute(0, 2, 3, 1).numpy()
        inputs = reader(
            images=[Image.fromarray(p) for p in pixels],
            text=[ASK.format(question)] * len(pixels),
            return_tensors="pt",
        )
        out = model.generate(**inputs, max_new_tokens=24)[:, inputs.input_ids.shape[1] :]
        said += [a.strip() for a in reader.batch_decode(out, skip_special_tokens=True)]
    return said


@torch.inference_mode()
def on_features(own: Autoencoder, model: Diffusion, names: Names) -> Iterator[Figure]:
    """What the sparse autoencoder explains of captions that it was not trained on."""
    texts = sae.fresh(names)
    rows = sae.states(model, texts)
    yield Figure("sparse autoencoder, variance explained, held-out captions", explained(own, rows))
    never = ~(own.activations(rows) > 0).any(0)
    yield share("sparse autoencoder, features on no held-out caption", never)


@torch.inference_mode()
def activations(assets: Path, table: pd.DataFrame) -> Tensor | None:
    """How active each feature is on the prompt of each judged picture (N, F), if there are features."""
    if not (assets / "sae" / "pocket-sd").is_dir():
        return None
    model = Diffusion.from_folder(assets / "models" / "pocket-sd")
    texts = [prompt(*pair) for pair in zip(table.concept, table["style"], strict=True)]
    return sae.answered(autoencoder(assets / "sae" / "pocket-sd"), model, texts)


@torch.inference_mode()
def towers(models: Path, clip: ZeroShot, model: Diffusion) -> Iterator[Figure]:
    """The largest difference between pocket-clip's towers and those of the two models that share them."""
    text = text_model(clip.model).state_dict()
    mine = model.text.state_dict()
    yield Figure(
        "pocket-sd's text tower against pocket-clip's, largest difference",
        max((text[n] - mine[n]).abs().max().item() for n in mine),
        bar=1e-5,
        less=True,
    )
    if not (models / "pocket-llava").is_dir():
        return
    vision = vision_model(clip.model).state_dict()
    llava = LlavaForConditionalGeneration.from_pretrained(
        models / "pocket-llava", dtype=torch.float32
    )
    other = llava.model.vision_tower.state_dict()
    yield Figure(
        "pocket-llava's vision tower against pocket-clip's, largest difference",
        max((vision[n] - other[n]).abs().max().item() for n in other),
        bar=1e-5,
        less=True,
    )


def sizes(assets: Path) -> Iterator[Figure]:
    """All of assets/ and its largest file, in MB."""
    found = [f.stat().st_size / 1e6 for f in assets.rglob("*") if f.is_file()]
    yield Figure("all of assets/", sum(found), bar=120, less=True, unit="MB")
    yield Figure("largest file", max(found), bar=25, less=True, unit="MB")
