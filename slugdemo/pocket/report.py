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
from PIL import Image
from torch import Tensor
from transformers import AutoProcessor, LlavaForConditionalGeneration

from slugdemo.evaluation.judge import Judge
from slugdemo.evaluation.metrics import wilson
from slugdemo.models.diffusion import Diffusion
from slugdemo.models.names import text_model, vision_model
from slugdemo.pocket import dialogue
from slugdemo.pocket.clip import encode_text
from slugdemo.pocket.pictures import GUIDANCE, STEPS
from slugdemo.pocket.words import prompt, style_prompt
from slugdemo.pocket.world import HELD_OUT, Scene, Sprites, render, rendered, scenes

UNSEEN = 1_000_003  # seed of renderings that no training used
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


def on_world(sprites: Sprites, clip: ZeroShot, judge: Judge, *, each: int = 2) -> Iterator[Figure]:
    """Zero-shot and judge on unseen renderings of the training hands and of the held-out hand."""
    count = each * len(sprites.names) * len(judge.styles)
    for label, hands, bars in (
        ("unseen renderings", sprites.trained, (0.97, 0.98)),
        (f"held-out hand ({HELD_OUT})", [HELD_OUT], (None, None)),
    ):
        if not set(hands) <= set(sprites.hands):
            continue
        planned = scenes(sprites, count, seed=UNSEEN, hands=hands)
        pixels = torch.cat([p.float() / 127.5 - 1 for p in rendered(sprites, planned)])
        verdict = judge.pixels(pixels)
        answers = {
            "pocket-clip zero-shot": clip.names(pixels),
            "judge": (
                [judge.concepts[i] for i in verdict.concept.argmax(1).tolist()],
                [judge.styles[i] for i in verdict.style.argmax(1).tolist()],
            ),
        }
        for (who, (things, looks)), bar in zip(answers.items(), bars, strict=True):
            for kind, said, true in (
                ("concept", things, [s.things[0].concept for s in planned]),
                ("style", looks, [s.style for s in planned]),
            ):
                yield share(
                    f"{who}, {kind}, {label}",
                    [a == b for a, b in zip(said, true, strict=True)],
                    bar,
                )


def picture(webp: bytes) -> Image.Image:
    """A shipped picture from its row."""
    return Image.open(BytesIO(webp)).convert("RGB")


def on_shipped(pictures: pd.DataFrame, clip: ZeroShot) -> Iterator[Figure]:
    """Zero-shot on the shipped test pictures."""
    arrays = [np.asarray(picture(webp)) for webp in pictures.webp]
    pixels = torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2).float() / 127.5 - 1
    things, looks = clip.names(pixels)
    yield share(
        "pocket-clip zero-shot, concept, shipped test pictures", list(pictures.concept == things)
    )
    yield share(
        "pocket-clip zero-shot, style, shipped test pictures", list(pictures["style"] == looks)
    )


def on_prompts(
    host: Diffusion, judge: Judge, *, seeds: Sequence[int] = (0, 1)
) -> tuple[list[Figure], pd.DataFrame]:
    """Whether the judge sees what the prompt names, every concept x every style x seeds; and the rows behind it."""
    rows = []
    wanted = [(c, s, UNSEEN + seed) for c in judge.concepts for s in judge.styles for seed in seeds]
    for start in range(0, len(wanted), 54):
        some = wanted[start : start + 54]
        pictures = host.generate(
            [prompt(c, s) for c, s, _ in some],
            seeds=[k for *_, k in some],
            steps=STEPS,
            guidance=GUIDANCE,
        )
        verdict = judge(pictures)
        for i, ((concept, style, seed), picture) in enumerate(zip(some, pictures, strict=True)):
            rows.append(
                {
                    "concept": concept,
                    "style": style,
                    "seed": seed,
                    "picture": picture,
                    "sees": judge.concepts[int(verdict.concept[i].argmax())],
                    "looks": judge.styles[int(verdict.style[i].argmax())],
                }
            )
    table = pd.DataFrame(rows)
    return [
        share("pocket-sd, judge agrees on the concept", list(table.concept == table.sees), 0.93),
        share("pocket-sd, judge agrees on the style", list(table["style"] == table.looks), 0.97),
    ], table


def sampling(host: Diffusion, concepts: Sequence[str]) -> Figure:
    """Seconds for 8 pictures at the default number of steps, the best of three."""
    spent = []
    for round_ in range(3):
        began = time.perf_counter()
        host.generate(
            [prompt(c) for c in concepts[:8]],
            seeds=range(9000 + 8 * round_, 9008 + 8 * round_),
            steps=STEPS,
            guidance=GUIDANCE,
        )
        spent.append(time.perf_counter() - began)
    return Figure(f"pocket-sd, 8 pictures, {STEPS} steps", min(spent), bar=3.0, less=True, unit="s")


def on_questions(folder: Path, sprites: Sprites, *, count: int = 519) -> Iterator[Figure]:
    """pocket-llava's answers on unseen renderings of the training hands."""
    model = LlavaForConditionalGeneration.from_pretrained(folder, dtype=torch.float32).eval()
    reader = AutoProcessor.from_pretrained(folder)
    single = scenes(sprites, count, seed=UNSEEN + 1, hands=sprites.trained)
    double = scenes(sprites, count, seed=UNSEEN + 2, hands=sprites.trained, pairs=1.0)
    for label, shown, turn, bar in (
        ("name, one thing", single, dialogue.what, 0.95),
        ("style", single, dialogue.style, 0.95),
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
    rng = np.random.default_rng(UNSEEN)
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
def towers(models: Path, clip: ZeroShot, host: Diffusion) -> Iterator[Figure]:
    """The largest difference between pocket-clip's towers and the two hosts' own."""
    text = text_model(clip.model).state_dict()
    mine = host.text.state_dict()
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
    yield Figure("all of assets/", sum(found), bar=100, less=True, unit="MB")
    yield Figure("largest file", max(found), bar=25, less=True, unit="MB")
