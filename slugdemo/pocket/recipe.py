"""The order of work: which album each model learns from, for how many steps, and where its folder goes."""

from dataclasses import dataclass
from pathlib import Path

import open_clip
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPTextModel, CLIPTokenizer, LlavaForConditionalGeneration

from slugdemo.benchmark.ledger import stamp
from slugdemo.errors import SlugError
from slugdemo.evaluation.judge import Judge
from slugdemo.models.diffusion import Diffusion
from slugdemo.models.names import text_model, vision_model
from slugdemo.pocket import cards, clip, judge, llava, unet, vae, varied
from slugdemo.pocket.album import Album, album, joined
from slugdemo.pocket.claims import CONTEXT
from slugdemo.pocket.tokens import tokenizer
from slugdemo.pocket.words import vocabulary
from slugdemo.pocket.world import CALM, GROUNDS, Sprites

STEPS = {"clip": 3500, "judge": 400, "vae": 1400, "unet": 3000, "polish": 800, "llava": 1000}
PICTURES = 48000  # of the wide album; the calm one has two thirds as many
ALBUM = 1  # its seed; others have fresh pictures to go onward with
PAIRS = 0.5  # share of two-thing scenes where these are to be understood
DRAWN_BY = "fluent_3d"  # the one hand that pocket-sd draws in


@dataclass(frozen=True)
class Kitchen:
    """The sprites, the folder of the models, the working folder, and how many pictures to render."""

    sprites: Sprites
    models: Path
    work: Path
    pictures: int = PICTURES
    onward: bool = False  # start from the weights in `models` instead of from none
    hands: tuple[
        str, ...
    ] = ()  # learn from these hands only; by default from all but the held-out one
    albums: tuple[int, ...] = ()  # seeds of the wide albums; by default `ALBUM`
    drawings: int = 4  # pictures that pocket-sd draws for llava, of each concept and style

    def wide(self, *, pairs: float = 0.15) -> Album:
        """All training hands, wide poses, this share of two-thing scenes: for clip, judge, vae and llava."""
        hands = self.hands or self.sprites.trained
        return joined(
            [
                album(self.sprites, self.work, self.pictures, seed=seed, hands=hands, pairs=pairs)
                for seed in self.albums or (ALBUM,)
            ]
        )

    def calm(self) -> Album:
        """One hand, calm poses, single things: for the U-Net."""
        hands = [DRAWN_BY] if DRAWN_BY in self.sprites.hands else self.sprites.trained[:1]
        return album(
            self.sprites,
            self.work,
            self.pictures * 2 // 3,
            seed=ALBUM + 1,
            hands=hands,
            spread=CALM,
        )

    def clip(self, steps: int) -> None:
        """Train pocket-clip and write its folder."""
        folder = self.models / "pocket-clip"
        words = (
            CLIPTokenizer.from_pretrained(folder)
            if self.onward
            else tokenizer(vocabulary(self.sprites.names, list(GROUNDS)), context=CONTEXT)
        )
        start = open_clip.create_model(f"local-dir:{folder}") if self.onward else None
        model = clip.train(
            self.wide(pairs=PAIRS),
            words,
            self.work,
            concepts=self.sprites.names,
            steps=steps,
            start=start,
        )
        clip.save(model, words, folder)
        self._card("pocket-clip", "read", "see", "clip")

    def judge(self, steps: int) -> None:
        """Train the judge and write its folder."""
        start = Judge.load(self.models / "judge") if self.onward else None
        made = judge.train(
            self.wide(), self.work, concepts=self.sprites.names, steps=steps, start=start
        )
        judge.save(made, self.models / "judge")
        self._card("judge", "judge")

    def vae(self, steps: int) -> None:
        """Train the autoencoder and keep it in the working folder, until the U-Net joins it."""
        start = (
            AutoencoderKL.from_pretrained(self.models / "pocket-sd" / "vae")
            if self.onward
            else None
        )
        vae.train(self.wide(), self.work, steps=steps, start=start).save_pretrained(
            self.work / "vae" / "model"
        )

    def unet(self, steps: int) -> None:
        """Train the U-Net under pocket-clip's text tower and write pocket-sd's folder."""
        coder = AutoencoderKL.from_pretrained(self._needs(self.work / "vae" / "model", "vae"))
        text, words = self.text()
        start = (
            UNet2DConditionModel.from_pretrained(self.models / "pocket-sd" / "unet")
            if self.onward
            else None
        )
        net = unet.train(
            unet.lessons(self.calm(), coder, text, words), self.work, steps=steps, start=start
        )
        unet.save(unet.pipeline(net, coder, text, words), self.models / "pocket-sd")
        self._card("pocket-sd", "vae", "unet")

    def polish(self, steps: int) -> None:
        """Polish the decoder of pocket-sd's autoencoder."""
        folder = self._needs(self.models / "pocket-sd", "unet") / "vae"
        coder = AutoencoderKL.from_pretrained(folder)
        vae.polish(coder, self.calm(), self.work, steps=steps)
        coder.half().save_pretrained(folder)
        unet.nameless(folder / "config.json")
        self._card("pocket-sd", "vae", "unet", "polish")

    def llava(self, steps: int) -> None:
        """Train projector and language model on pocket-clip's vision tower and write pocket-llava's folder."""
        folder = self._needs(self.models / "pocket-clip", "clip")
        artist, judged = (
            self._needs(self.models / "pocket-sd", "unet"),
            self._needs(self.models / "judge", "judge"),
        )
        kept = self.work / f"drawn-{stamp(artist, judged)[:12]}"  # other models draw and judge anew
        drawn = varied.drawn(
            Diffusion.from_folder(artist), Judge.load(judged), kept, each=self.drawings
        )
        wide = self.wide(pairs=PAIRS)
        pictures = joined([wide, drawn, varied.recoloured(wide, len(wide) // 2, seed=ALBUM)])
        tower = vision_model(open_clip.create_model(f"local-dir:{folder}").eval())
        start = (
            LlavaForConditionalGeneration.from_pretrained(
                self.models / "pocket-llava", dtype=torch.float32
            )
            if self.onward
            else None
        )
        made = llava.train(
            pictures, tower, self.work, concepts=self.sprites.names, steps=steps, start=start
        )
        llava.save(*made, self.models / "pocket-llava")
        self._card("pocket-llava", "align", "llava")

    def text(self) -> tuple[CLIPTextModel, CLIPTokenizer]:
        """pocket-clip's text tower in transformers' format, and its tokenizer."""
        folder = self._needs(self.models / "pocket-clip", "clip")
        words = CLIPTokenizer.from_pretrained(folder)
        return text_model(
            open_clip.create_model(f"local-dir:{folder}").eval(), eos=words.eos_token_id
        ), words

    def _card(self, model: str, *parts: str) -> None:
        cards.write(self.models / model, [self.work / part for part in parts])

    def _needs(self, folder: Path, part: str) -> Path:
        if not folder.is_dir():
            raise SlugError(f"{folder} is not there yet; train {part} first.")
        return folder
