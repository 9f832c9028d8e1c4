"""Training of pocket-clip: an open_clip.CLIP on the sprite world, and its folder.

First the text tower learns what captions say: it finds one anchor a concept, a style and a ground (proxies,
Movshovitz-Attias et al. 2017), which are then thrown away. Then it is locked (LiT, Zhai et al. 2022), and the vision
tower learns against it: contrastive, with every caption that is true of a picture counted as a match (UniCL, Yang et
al. 2022), over some of the batch's own captions and over prompts of all concepts and styles in varying words.

The vision tower starts as a stack of small convolutions (convolutional.py).
"""
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import open_clip
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import CLIPTokenizer

from slugdemo.pocket.album import Album
from slugdemo.pocket.convolutional import convolutional
from slugdemo.pocket.muon import optimisers
from slugdemo.pocket.styles import KEEPS_BACKGROUND, STYLES
from slugdemo.pocket.training import Average, Run, device, faster, halves, picks, set_rate, warm_cosine
from slugdemo.pocket.words import caption, named, style_prompt, style_wording, wording
from slugdemo.pocket.world import GROUNDS, Scene

SEED = 21
CONTEXT = 32
CAPTIONS = 32                                   # of a batch's pictures, how many bring their own caption
ALONE = 0.35                                    # share of the steps before the captions join, which slow the start
WORDINGS = 8                                    # of every concept's and style's prompt
READINGS = 600                                  # steps of the text tower, 128 captions each


def config(vocabulary: int) -> dict:
    """open_clip's model config: two towers of six blocks, 192 wide."""
    return {"embed_dim": 192, "quick_gelu": True,
            "vision_cfg": {"image_size": 64, "patch_size": 8, "layers": 6, "width": 192, "head_width": 32},
            "text_cfg": {"context_length": CONTEXT, "vocab_size": vocabulary, "layers": 6, "width": 192, "heads": 6,
                         "hf_tokenizer_name": "."}}


@dataclass(frozen=True)
class Claim:
    """A caption and what it says: a picture matches when all of it is true."""

    text: str
    concepts: frozenset[str] = frozenset()
    style: str | None = None
    ground: str | None = None

    def fits(self, scene: Scene) -> bool:
        """Whether everything said is true of the scene."""
        return (self.concepts <= {t.concept for t in scene.things} and self.style in (None, scene.style)
                and self.ground in (None, scene.ground))


def claim(scene: Scene, rng: np.random.Generator) -> Claim:
    """A true caption of the scene; style and ground are mentioned now and then."""
    names = [t.concept for t in scene.things]
    style = scene.style if scene.style != "plain" and rng.random() < 0.6 else None
    seen = scene.style in KEEPS_BACKGROUND and rng.random() < 0.4
    ground = scene.ground if seen else None
    return Claim(caption(names, rng, style=style, ground=ground), frozenset(names), style, ground)


def bank(concepts: Sequence[str], rng: np.random.Generator | None) -> list[Claim]:
    """One claim a concept, then one a style; in fresh words, or by name alone without `rng`."""
    things = [Claim(f"a picture of {wording(c, rng) if rng else named(c)}", frozenset({c})) for c in concepts]
    return things + [Claim(style_prompt(style_wording(s, rng) if rng else s), style=s) for s in STYLES]


def encode_text(model: open_clip.CLIP, tokens: Tensor) -> Tensor:
    """Unit text features (N, D); positions after the longest text are not computed."""
    longest = int(tokens.argmax(1).max()) + 1
    x = model.token_embedding(tokens[:, :longest]) + model.positional_embedding[:longest]
    x = model.ln_final(model.transformer(x, attn_mask=model.attn_mask[:longest, :longest]))
    return F.normalize(x[torch.arange(len(x)), tokens.argmax(1)] @ model.text_projection, dim=-1)


def contrast(logits: Tensor, match: Tensor) -> Tensor:
    """Mean over rows of the mean negative log-probability of their matches; rows without a match are left out."""
    rows = match.any(1)
    if not rows.any():
        return logits.sum() * 0
    share = match[rows].float()
    return -((logits[rows].log_softmax(1) * share).sum(1) / share.sum(1)).mean()


def both_ways(logits: Tensor, match: Tensor) -> Tensor:
    """The contrast of rows and of columns, averaged."""
    return (contrast(logits, match) + contrast(logits.T, match.T)) / 2


def train(album: Album, tokenizer: CLIPTokenizer, work: Path, *, concepts: Sequence[str], steps: int,
          batch: int = 96, rate: float = 1.2e-3, start: open_clip.CLIP | None = None) -> open_clip.CLIP:
    """The trained CLIP (EMA weights of the vision tower), on the CPU.

    From `start` where given, whose text tower stays as it is: pocket-sd has learnt to read it.
    """
    where = device()
    if start is None:
        start = fresh(len(tokenizer))
        read(start, tokenizer, album.scenes, work, concepts=concepts, steps=min(READINGS, steps))
        convolutional(start.visual, album.batch(torch.arange(min(len(album), 600))), seed=SEED)
    school = School(start, tokenizer, concepts).to(where)
    model = school.model
    faster(model.visual.transformer, steps)
    rates = optimisers(school, lr=rate, blocks="model.visual.transformer.resblocks", boost=2.0)
    mean = Average(model, 0.998)
    run = Run(work / "clip", {"model": config(len(tokenizer)), "batch": batch}, steps,
              {"school": school, **rates, "mean": mean})

    def update(step: int) -> Mapping[str, float]:
        which = picks(len(album), batch, seed=SEED, step=step).sort().values
        with halves(where):
            terms = school(album.batch(which).to(where), [album.scenes[i] for i in which.tolist()],
                           np.random.default_rng((SEED, step)))
        pairs = terms["pairs"] if step >= ALONE * steps else 0.0
        descend(pairs + terms["concept"] + 0.3 * terms["style"], school, rates, step, steps)
        with torch.no_grad():
            model.logit_scale.clamp_(0, np.log(100))
        mean.follow(model, step)
        return {name: value.item() for name, value in terms.items()}

    run.loop(update)
    mean.put_into(model)
    return model.cpu().eval().requires_grad_(True)


def read(model: open_clip.CLIP, tokenizer: CLIPTokenizer, scenes: Sequence[Scene], work: Path, *,
         concepts: Sequence[str], steps: int, batch: int = 128, rate: float = 2e-3) -> None:
    """Teach the text tower, in place, which concepts, style and ground a caption names."""
    where = device()
    reader = Reader(model, tokenizer, concepts).to(where)
    rates = optimisers(reader, lr=rate, blocks="model.transformer.resblocks")
    mean = Average(model, 0.99)
    run = Run(work / "words", {"model": config(len(tokenizer)), "batch": batch}, steps,
              {"reader": reader, **rates, "mean": mean})

    def update(step: int) -> Mapping[str, float]:
        rng = np.random.default_rng((SEED + 1, step))
        some = rng.choice(len(scenes), batch // 2)
        stock = bank(concepts, rng)
        heard = [claim(scenes[i], rng) for i in some] + [stock[i] for i in rng.choice(len(stock), batch // 2)]
        terms = reader(heard)
        descend(sum(terms[name] for name in ("concept", "style", "ground")), reader, rates, step, steps)
        mean.follow(model, step)
        return {name: value.item() for name, value in terms.items()}

    run.loop(update)
    mean.put_into(model)
    model.cpu()


def descend(loss: Tensor, learner: nn.Module, rates: Mapping[str, torch.optim.Optimizer], step: int,
            steps: int) -> None:
    """One step of every optimiser at its warmed-up, cosine-shaped rate; gradients clipped to norm 2."""
    for optimiser in rates.values():
        set_rate(optimiser, warm_cosine(step, steps, warmup=60))
        optimiser.zero_grad(set_to_none=True)
    loss.backward()
    nn.utils.clip_grad_norm_(learner.parameters(), 2.0)
    for optimiser in rates.values():
        optimiser.step()


def fresh(vocabulary: int) -> open_clip.CLIP:
    """The untrained CLIP."""
    torch.manual_seed(SEED)
    return open_clip.CLIP(**config(vocabulary))


class Reader(nn.Module):
    """A text tower in training, with one anchor a concept, a style and a ground."""

    def __init__(self, model: open_clip.CLIP, tokenizer: CLIPTokenizer, concepts: Sequence[str]) -> None:
        super().__init__()
        self.model, self.tokenizer = model, tokenizer
        self.names = {"concept": list(concepts), "style": list(STYLES), "ground": list(GROUNDS)}
        width = model.text_projection.shape[1]
        self.anchors = nn.ParameterDict({n: torch.randn(len(names), width) for n, names in self.names.items()})

    def forward(self, claims: Sequence[Claim]) -> dict[str, Tensor]:
        """How far captions are from the anchors of what they say, and the share of concepts that are found."""
        texts = encode_text(self.model, tokens(self.tokenizer, claims).to(self.anchors["style"].device))
        logits = {n: self.model.logit_scale.exp() * texts @ F.normalize(a, dim=-1).T for n, a in self.anchors.items()}
        said = {name: torch.zeros(len(claims), len(all_), dtype=torch.bool) for name, all_ in self.names.items()}
        for row, one in enumerate(claims):
            for name, things in (("concept", one.concepts), ("style", {one.style}), ("ground", {one.ground})):
                for thing in things - {None}:
                    said[name][row, self.names[name].index(thing)] = True
        said = {name: match.to(texts.device) for name, match in said.items()}
        rows = said["concept"].any(1)
        found = said["concept"][rows].gather(1, logits["concept"][rows].argmax(1, keepdim=True)).float().mean()
        return {**{name: contrast(logits[name], said[name]) for name in logits}, "hit": found}


def tokens(tokenizer: CLIPTokenizer, claims: Sequence[Claim]) -> Tensor:
    """The claims' texts as token ids (N, 32)."""
    return tokenizer([c.text for c in claims], padding="max_length", truncation=True, max_length=CONTEXT,
                     return_tensors="pt").input_ids


class School(nn.Module):
    """A CLIP whose vision tower is in training; its text tower is locked."""

    def __init__(self, model: open_clip.CLIP, tokenizer: CLIPTokenizer, concepts: Sequence[str]) -> None:
        super().__init__()
        self.model, self.tokenizer, self.concepts = model, tokenizer, list(concepts)
        for name, weight in model.named_parameters():
            weight.requires_grad_(name.startswith("visual.") or name == "logit_scale")
        stocks = [bank(concepts, np.random.default_rng((SEED, i)) if i else None) for i in range(WORDINGS)]
        self.stock = stocks[0]
        self._prompts = torch.stack([self._texts(stock) for stock in stocks])  # (WORDINGS, C + S, D)

    def forward(self, pictures: Tensor, scenes: Sequence[Scene], rng: np.random.Generator) -> dict[str, Tensor]:
        """The loss terms and, as numbers, the share of concepts found among all and the logit scale."""
        some = rng.choice(len(scenes), min(CAPTIONS, len(scenes)), replace=False)
        own = [claim(scenes[i], rng) for i in some]
        images = F.normalize(self.model.encode_image(pictures), dim=-1)
        scale, count = self.model.logit_scale.exp(), len(self.concepts)
        words = torch.from_numpy(rng.integers(WORDINGS, size=len(self.stock)))
        prompts = self._prompts[words, torch.arange(len(words))].to(images.device)
        logits, match = scale * images @ prompts.T, self._match(self.stock, scenes).to(images.device)
        hit = match.gather(1, logits[:, :count].argmax(1, keepdim=True)).float().mean()
        return {"pairs": both_ways(scale * images @ self._texts(own).T, self._match(own, scenes).to(images.device)),
                "concept": contrast(logits[:, :count], match[:, :count]),
                "style": contrast(logits[:, count:], match[:, count:]), "hit": hit, "scale": scale.detach()}

    @torch.no_grad()
    def _texts(self, claims: Sequence[Claim]) -> Tensor:
        return encode_text(self.model, tokens(self.tokenizer, claims).to(self.model.logit_scale.device))

    @staticmethod
    def _match(claims: Sequence[Claim], scenes: Sequence[Scene]) -> Tensor:
        return torch.tensor([[c.fits(s) for c in claims] for s in scenes])


def save(model: open_clip.CLIP, tokenizer: CLIPTokenizer, folder: Path) -> None:
    """Write an open_clip local-dir: config, fp16 weights, tokenizer."""
    folder.mkdir(parents=True, exist_ok=True)
    weights = {name: value.half().contiguous() for name, value in model.state_dict().items()}
    save_file(weights, folder / "open_clip_model.safetensors")
    tokenizer.save_pretrained(folder)
    half = {"mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bicubic", "resize_mode": "shortest"}
    settings = {"model_cfg": config(len(tokenizer)), "preprocess_cfg": half}
    (folder / "open_clip_config.json").write_text(json.dumps(settings, indent=2))
