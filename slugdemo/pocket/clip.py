"""Training of pocket-clip: an open_clip.CLIP on the sprite world, and its folder.

Loss: contrastive, with every caption that is true of a picture counted as a match (UniCL, Yang et al. 2022), over
the batch's own captions and over a bank of concept and style prompts in varying words. Both towers also learn to
find one anchor a concept and a style (proxies, Movshovitz-Attias et al. 2017), which breaks the tie between two
untrained towers; the anchors are thrown away. The text tower, which learns much faster, is locked early (LiT, Zhai
et al. 2022). Half of the patches are dropped while training (FLIP, Li et al. 2023), none in its last tenth.
A convolutional tutor, quickly trained and thrown away, shows every patch what to look for (token distillation): a
small vision transformer finds edges and parts on its own only after many hours. It is not the judge.
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

from slugdemo.judge import Net
from slugdemo.pocket.album import Album
from slugdemo.pocket.muon import optimisers
from slugdemo.pocket.styles import KEEPS_BACKGROUND, STYLES
from slugdemo.pocket.training import Average, Run, device, faster, halves, picks, set_rate, warm_cosine
from slugdemo.pocket.words import caption, style_prompt, style_wording, wording
from slugdemo.pocket.world import Scene

SEED = 21
CONTEXT = 32
CAPTIONS = 32                                   # of a batch's pictures, how many bring their own caption
BANK = 24                                       # concept prompts a step; style prompts are always all there
LOCKED = 0.12                                   # after this share of the steps the text tower stays as it is
DROPPED = 0.5                                   # share of patches dropped while training


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


def bank(concepts: Sequence[str], rng: np.random.Generator) -> list[Claim]:
    """One claim a concept in fresh words, then one claim a style."""
    things = [Claim(f"a picture of {wording(c, rng)}", frozenset({c})) for c in concepts]
    return things + [Claim(style_prompt(style_wording(s, rng)), style=s) for s in STYLES]


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
          batch: int = 96, rate: float = 1.2e-3, tutor: Net | None = None,
          start: open_clip.CLIP | None = None) -> open_clip.CLIP:
    """The trained CLIP (EMA weights), on the CPU.

    From `start` where given, whose text tower is then locked throughout: pocket-sd has learnt to read it.
    """
    where = device()
    school = School(start or fresh(len(tokenizer)), tokenizer, concepts, tutor=tutor).to(where)
    model = school.model
    faster(model.visual.transformer, steps)
    rates = optimisers(school, lr=rate, blocks="model.transformer.resblocks", boost=2.0)
    mean = Average(model, 0.998)
    locked = 0 if start else int(LOCKED * steps)
    run = Run(work / "clip", {"model": config(len(tokenizer)), "batch": batch}, steps,
              {"school": school, **rates, "mean": mean})

    def update(step: int) -> Mapping[str, float]:
        school.glimpse.share = 1 - DROPPED if step < 0.9 * steps else 1.0
        if step == locked:
            mean.put_into(model, text_names(model))
        if step >= locked:
            for name in text_names(model):
                model.get_parameter(name).requires_grad_(False)
        which = picks(len(album), batch, seed=SEED, step=step).sort().values
        torch.manual_seed(SEED + step)
        with halves(where):
            terms = school(album.batch(which).to(where), [album.scenes[i] for i in which.tolist()],
                           np.random.default_rng((SEED, step)))
        for optimiser in rates.values():
            set_rate(optimiser, warm_cosine(step, steps, warmup=60))
            optimiser.zero_grad(set_to_none=True)
        sum(WEIGHTS[name] * value for name, value in terms.items() if name in WEIGHTS).backward()
        nn.utils.clip_grad_norm_(school.parameters(), 2.0)
        for optimiser in rates.values():
            optimiser.step()
        with torch.no_grad():
            model.logit_scale.clamp_(0, np.log(100))
        mean.follow(model, step)
        return {name: value.item() for name, value in terms.items()}

    run.loop(update)
    mean.put_into(model)
    model.visual.patch_dropout, model.visual.output_tokens = nn.Identity(), False
    return model.cpu().eval()


def fresh(vocabulary: int) -> open_clip.CLIP:
    """The untrained CLIP; its patches know their places from the start (2-D sines and cosines)."""
    torch.manual_seed(SEED)
    model = open_clip.CLIP(**config(vocabulary))
    side = model.visual.grid_size[0]
    with torch.no_grad():
        model.visual.positional_embedding[1:] = 0.3 * places(side, model.visual.positional_embedding.shape[1])
    return model


def places(side: int, width: int) -> Tensor:
    """Sine and cosine codes of a square grid of patches, (side * side, width)."""
    pace = 1 / 100 ** (torch.arange(width // 4) / (width // 4))
    angle = torch.arange(side)[:, None] * pace                                # (side, width / 4)
    line = torch.cat((angle.sin(), angle.cos()), 1)
    grid = torch.cat((line[:, None].expand(-1, side, -1), line[None].expand(side, -1, -1)), -1)
    return grid.reshape(side * side, width)


WEIGHTS = {"pairs": 1.0, "concept": 1.0, "style": 0.5, "seen": 1.0, "read": 0.5, "tutor": 2.0}
TUTORED = 3                                     # blocks of the tutor up to its 8 x 8 map, one cell a patch


def text_names(model: open_clip.CLIP) -> list[str]:
    """The names of the text tower's parameters."""
    return [n for n, _ in model.named_parameters() if not n.startswith("visual.") and n != "logit_scale"]


class Glimpse(nn.Module):
    """Keeps a random share of the patches in training and remembers which, `kept` (N, P)."""

    def __init__(self) -> None:
        super().__init__()
        self.share, self.kept = 1.0, torch.empty(0, 0, dtype=torch.long)

    def forward(self, tokens: Tensor) -> Tensor:
        """Class token and patches (N, 1 + 64, W) to class token and kept patches (N, 1 + P, W)."""
        count, patches = tokens.shape[0], tokens.shape[1] - 1
        self.kept = torch.rand(count, patches).argsort(1)[:, :round(self.share * patches)].to(tokens.device)
        places = self.kept[..., None].expand(-1, -1, tokens.shape[2])
        return torch.cat((tokens[:, :1], tokens[:, 1:].gather(1, places)), 1)


class School(nn.Module):
    """A CLIP in training, with its anchors: one unit vector a concept and a style, shared by both towers."""

    def __init__(self, model: open_clip.CLIP, tokenizer: CLIPTokenizer, concepts: Sequence[str], *,
                 tutor: Net | None = None) -> None:
        super().__init__()
        self.glimpse = model.visual.patch_dropout = Glimpse()
        model.visual.output_tokens = True
        self._tutor = [tutor.eval().requires_grad_(False)] if tutor else []    # not a part: it is never saved
        self.retell = nn.Linear(model.visual.positional_embedding.shape[1], tutor.width(TUTORED)) if tutor else None
        self.model, self.tokenizer, self.concepts = model, tokenizer, list(concepts)
        self.anchors = nn.Parameter(torch.randn(len(concepts) + len(STYLES), model.text_projection.shape[1]))

    def forward(self, pictures: Tensor, scenes: Sequence[Scene], rng: np.random.Generator) -> dict[str, Tensor]:
        """The loss terms and, as numbers, the share of concepts found among all anchors and the logit scale."""
        some = rng.choice(len(scenes), min(CAPTIONS, len(scenes)), replace=False)
        own = [claim(scenes[i], rng) for i in some]
        asked = rng.choice(self.concepts, min(BANK, len(self.concepts)), replace=False)
        stock = bank([str(c) for c in asked], rng)
        pooled, patches = self.model.encode_image(pictures)
        images = F.normalize(pooled, dim=-1)
        texts = self._texts([*own, *stock])
        scale = self.model.logit_scale.exp()
        logits, match = scale * images @ texts.T, self._match([*own, *stock], scenes)
        things, looks = slice(len(own), len(own) + len(asked)), slice(len(own) + len(asked), None)
        mine = slice(0, len(own))
        return {"pairs": both_ways(logits[:, mine], match[:, mine]),
                "concept": both_ways(logits[:, things], match[:, things]),
                "style": contrast(logits[:, looks], match[:, looks]),
                **self._anchored(images, texts[len(own):], scenes, stock, scale),
                **self._tutored(pictures, patches), "scale": scale.detach()}

    def _tutored(self, pictures: Tensor, patches: Tensor) -> dict[str, Tensor]:
        """How far the patches (N, P, W) are from what the tutor sees at their places."""
        if self.retell is None:
            return {}
        with torch.no_grad():
            cells = self._tutor[0].cells(pictures, TUTORED).flatten(2).transpose(1, 2)     # (N, 64, D)
        places = self.glimpse.kept[..., None].expand(-1, -1, cells.shape[-1])
        return {"tutor": (1 - F.cosine_similarity(self.retell(patches), cells.gather(1, places), dim=-1)).mean()}

    def _anchored(self, images: Tensor, texts: Tensor, scenes: Sequence[Scene], stock: Sequence[Claim],
                  scale: Tensor) -> dict[str, Tensor]:
        """How far pictures and bank prompts are from the anchors of what they show and say."""
        anchors, count = F.normalize(self.anchors, dim=-1), len(self.concepts)
        claims = [Claim("", frozenset({c})) for c in self.concepts] + [Claim("", style=s) for s in STYLES]
        seen, fits = scale * images @ anchors.T, self._match(claims, scenes)
        hit = fits[torch.arange(len(scenes)), seen[:, :count].argmax(1)].float().mean()
        named = {(c.concepts, c.style): i for i, c in enumerate(claims)}
        target = torch.tensor([named[c.concepts, c.style] for c in stock], device=texts.device)
        return {"seen": contrast(seen[:, :count], fits[:, :count]) + 0.5 * contrast(seen[:, count:], fits[:, count:]),
                "read": F.cross_entropy(scale * texts @ anchors.T, target), "hit": hit}

    def _match(self, claims: Sequence[Claim], scenes: Sequence[Scene]) -> Tensor:
        return torch.tensor([[c.fits(s) for c in claims] for s in scenes], device=self.anchors.device)

    def _texts(self, claims: Sequence[Claim]) -> Tensor:
        tokens = self.tokenizer([c.text for c in claims], padding="max_length", truncation=True, max_length=CONTEXT,
                                return_tensors="pt").input_ids
        return encode_text(self.model, tokens.to(self.anchors.device))


def save(model: open_clip.CLIP, tokenizer: CLIPTokenizer, folder: Path) -> None:
    """Write an open_clip local-dir: config, fp16 weights, tokenizer."""
    folder.mkdir(parents=True, exist_ok=True)
    weights = {name: value.half().contiguous() for name, value in model.state_dict().items()}
    save_file(weights, folder / "open_clip_model.safetensors")
    tokenizer.save_pretrained(folder)
    half = {"mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bicubic", "resize_mode": "shortest"}
    settings = {"model_cfg": config(len(tokenizer)), "preprocess_cfg": half}
    (folder / "open_clip_config.json").write_text(json.dumps(settings, indent=2))
