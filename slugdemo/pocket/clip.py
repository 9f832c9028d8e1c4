"""Training of pocket-clip: an open_clip.CLIP on the sprite world, and its folder.

First the text tower learns to find anchors: one a concept, a style and a ground, of what a caption says (anchors.py);
from then on it is locked (LiT, Zhai et al. 2022). Then the vision tower, which starts as a stack of small convolutions
(convolutional.py), learns to find the anchors of what a picture shows. Last it learns against the text tower:
contrastive, with every caption that is true of a picture counted as a match (UniCL, Yang et al. 2022), over some of the
batch's own captions and over prompts of all concepts and styles in varying words.
"""
import json
from collections.abc import Callable, Mapping, Sequence
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
from slugdemo.pocket.anchors import Anchors, Facts, contrast
from slugdemo.pocket.convolutional import convolutional
from slugdemo.pocket.muon import optimisers
from slugdemo.pocket.styles import KEEPS_BACKGROUND, STYLES
from slugdemo.pocket.training import Average, Run, device, faster, halves, picks, set_rate, warm_cosine
from slugdemo.pocket.words import caption, named, style_prompt, style_wording, wording
from slugdemo.pocket.world import Scene

SEED = 21
CONTEXT = 32
CAPTIONS = 32                                   # of a batch's pictures, how many bring their own caption
SEEING = 0.75                                   # share of the steps in which the vision tower learns the anchors
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

    @property
    def facts(self) -> Facts:
        """What is said."""
        return Facts(self.concepts, self.style, self.ground)

    def fits(self, scene: Scene) -> bool:
        """Whether everything said is true of the scene."""
        return (self.concepts <= {t.concept for t in scene.things} and self.style in (None, scene.style)
                and self.ground in (None, scene.ground))


def facts(scene: Scene) -> Facts:
    """What a picture of the scene shows; some styles leave nothing of the ground."""
    shown = frozenset(t.concept for t in scene.things)
    return Facts(shown, scene.style, scene.ground if scene.style in KEEPS_BACKGROUND else None)


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


def both_ways(logits: Tensor, match: Tensor) -> Tensor:
    """The contrast of rows and of columns, averaged."""
    return (contrast(logits, match) + contrast(logits.T, match.T)) / 2


def train(album: Album, tokenizer: CLIPTokenizer, work: Path, *, concepts: Sequence[str], steps: int,
          start: open_clip.CLIP | None = None) -> open_clip.CLIP:
    """The trained CLIP, on the CPU.

    From `start` where given, whose text tower stays as it is: pocket-sd has learnt to read it.
    """
    model = start or fresh(len(tokenizer))
    if start is None:
        seeing = max(1, int(SEEING * steps))
        anchors = Anchors(concepts, model.text_projection.shape[1], seed=SEED)
        read(model, anchors, tokenizer, album.scenes, work, steps=min(READINGS, steps))
        convolutional(model.visual, album.batch(torch.arange(min(len(album), 600))), seed=SEED)
        see(model, anchors, album, work, steps=seeing)
        steps -= seeing
    agree(model, tokenizer, album, work, concepts=concepts, steps=max(1, steps))
    return model.eval().requires_grad_(True)


def see(model: open_clip.CLIP, anchors: Anchors, album: Album, work: Path, *, steps: int, batch: int = 96,
        rate: float = 1.2e-3) -> None:
    """Teach the vision tower, in place, to find the anchors of what a picture shows; the anchors move too."""
    where = device()
    pupil = nn.ModuleDict({"visual": model.visual, "anchors": anchors}).to(where)
    faster(model.visual.transformer, steps)

    def terms(step: int) -> dict[str, Tensor]:
        which = picks(len(album), batch, seed=SEED, step=step).sort().values
        with halves(where):
            seen = model.visual(album.batch(which).to(where))
        return anchors(F.normalize(seen.float(), dim=-1), [facts(album.scenes[i]) for i in which.tolist()])

    rates = optimisers(pupil, lr=rate, blocks="visual.transformer.resblocks", boost=2.0)
    learn(pupil, rates, terms, {"concept": 1.0, "style": 0.3, "ground": 0.1}, work / "see", steps)
    pupil.cpu()


def read(model: open_clip.CLIP, anchors: Anchors, tokenizer: CLIPTokenizer, scenes: Sequence[Scene], work: Path, *,
         steps: int, batch: int = 128, rate: float = 2e-3) -> None:
    """Teach the text tower, in place, to find the anchors of what a caption says; the anchors move too."""
    where, concepts = device(), anchors.names["concept"]
    pupil = nn.ModuleDict({"model": model, "anchors": anchors}).to(where)
    model.visual.requires_grad_(False)

    def terms(step: int) -> dict[str, Tensor]:
        rng = np.random.default_rng((SEED + 1, step))
        some, stock = rng.choice(len(scenes), batch // 2), bank(concepts, rng)
        heard = [claim(scenes[i], rng) for i in some] + [stock[i] for i in rng.choice(len(stock), batch // 2)]
        return anchors(encode_text(model, tokens(tokenizer, heard).to(where)), [c.facts for c in heard])

    rates = optimisers(pupil, lr=rate, blocks="model.transformer.resblocks")
    learn(pupil, rates, terms, {"concept": 1.0, "style": 1.0, "ground": 1.0}, work / "read", steps)
    model.visual.requires_grad_(True)
    pupil.cpu()


def agree(model: open_clip.CLIP, tokenizer: CLIPTokenizer, album: Album, work: Path, *, concepts: Sequence[str],
          steps: int, batch: int = 96, rate: float = 4e-4) -> None:
    """Teach the vision tower, in place, to agree with the locked text tower."""
    where = device()
    school = School(model.to(where), tokenizer, concepts)
    faster(model.visual.transformer, steps)

    def terms(step: int) -> dict[str, Tensor]:
        which = picks(len(album), batch, seed=SEED + 2, step=step).sort().values
        with halves(where):
            return school(album.batch(which).to(where), [album.scenes[i] for i in which.tolist()],
                          np.random.default_rng((SEED, step)))

    rates = optimisers(school, lr=rate, blocks="model.visual.transformer.resblocks", boost=2.0)
    learn(school, rates, terms, {"pairs": 1.0, "concept": 1.0, "style": 0.5}, work / "clip", steps)
    with torch.no_grad():
        model.logit_scale.clamp_(0, np.log(100))
    model.cpu()


def learn(pupil: nn.Module, rates: Mapping[str, torch.optim.Optimizer], terms: Callable[[int], dict[str, Tensor]],
          shares: Mapping[str, float], folder: Path, steps: int) -> None:
    """Descend the sum of `terms(step)`, each times its share; the pupil ends with its average weights (EMA)."""
    mean = Average(pupil, 0.998)
    run = Run(folder, {"weights": sum(p.numel() for p in pupil.parameters())}, steps,
              {"pupil": pupil, **rates, "mean": mean})

    def update(step: int) -> Mapping[str, float]:
        now = terms(step)
        descend(sum(share * now[name] for name, share in shares.items()), pupil, rates, step, steps)
        mean.follow(pupil, step)
        return {name: value.item() for name, value in now.items()}

    run.loop(update)
    mean.put_into(pupil)


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
