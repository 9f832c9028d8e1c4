"""The recipe: which pictures each model learns from, for how many steps, and where its folder goes.

Two worlds: the whole one, and the one without what the reference models must never see. Of pocket-clip and of the
U-Net a trunk is trained on the smaller world first. Then it is forked: one branch goes on with the whole world and is
the model that ships, the other as many steps without, and is the reference.
"""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import open_clip
from diffusers import AutoencoderKL, StableDiffusionPipeline, UNet2DConditionModel
from transformers import CLIPTextModel, CLIPTokenizer

from slugdemo.benchmark.ledger import stamp
from slugdemo.errors import SlugError
from slugdemo.evaluation.judge import Judge
from slugdemo.models.diffusion import Diffusion
from slugdemo.models.names import text_model, vision_model
from slugdemo.pocket import cards, clip, judge, llava, sae, unet, vae, varied
from slugdemo.pocket.claims import CONTEXT
from slugdemo.pocket.names import UNSEEN
from slugdemo.pocket.picture_set import PictureSet, joined, limited, render_set
from slugdemo.pocket.tokens import tokenizer
from slugdemo.pocket.words import vocabulary
from slugdemo.pocket.world import CALM, GROUNDS, WIDE, Sprites
from slugdemo.sparse import explained, load

STEPS = {
    "judge": 1200,
    "vae": 4000,
    "polish": 800,
    "clip_trunk": 3500,
    "clip": 1500,
    "reference_clip": 1500,
    "unet_trunk": 5000,
    "unet": 2500,
    "reference_unet": 2500,
    "llava": 1500,
    "sae": 2400,
}  # in the order in which they need one another
PICTURES = 24000  # of the wide set; the calm one has two thirds as many
SEED = 1
PAIRS = 0.5  # share of two-thing scenes in the wide set
DRAWN_BY = "fluent_3d"  # the one artist that pocket-sd draws like


@dataclass(frozen=True)
class Recipe:
    """The sprite folder, the folder of the models, the working folder, and how many pictures to render."""

    sprite_folder: Path
    models: Path
    work: Path
    pictures: int = PICTURES
    without: tuple[str, ...] = UNSEEN
    drawings: int = 4  # pictures that pocket-sd draws for llava, of each concept and style

    @cached_property
    def whole(self) -> Sprites:
        """The world that the shipped models know."""
        return Sprites(self.sprite_folder)

    @cached_property
    def small(self) -> Sprites:
        """The world that the reference models know; raises SlugError for an unknown name in `without`."""
        return Sprites(self.sprite_folder, without=self.without)

    def train(self, part: str, steps: int | None = None) -> None:
        """Train one part of `STEPS` for so many steps and write what it makes."""
        getattr(self, part)(steps or STEPS[part])

    def wide(self, world: Sprites) -> PictureSet:
        """All training artists, wide poses, half of the scenes of two things: for clip, judge, vae and llava."""
        artists = world.trained
        made = render_set(
            self.whole,
            self.work,
            self.pictures,
            seed=SEED,
            artists=artists,
            spread=WIDE,
            pairs=PAIRS,
        )
        return made if world is self.whole else limited(made, world.known)

    def calm(self, world: Sprites) -> PictureSet:
        """One artist, calm poses, single things: for the U-Net."""
        artists = [DRAWN_BY] if DRAWN_BY in world.artists else world.trained[:1]
        count = self.pictures * 2 // 3
        made = render_set(self.whole, self.work, count, seed=SEED + 1, artists=artists, spread=CALM)
        return made if world is self.whole else limited(made, world.known)

    def judge(self, steps: int) -> None:
        """Train the judge and write its folder."""
        made = judge.train(self.wide(self.whole), self.work, names=self.whole.known, steps=steps)
        judge.save(made, self.models / "judge")
        cards.write(self.models / "judge", [self.work / "judge"])

    def vae(self, steps: int) -> None:
        """Train the autoencoder, which pocket-sd and its reference share."""
        pictures = joined([self.wide(self.whole), self.calm(self.whole)])
        vae.train(pictures, self.work, steps=steps).save_pretrained(self.work / "vae" / "model")

    def polish(self, steps: int) -> None:
        """Polish the autoencoder's decoder on the pictures that pocket-sd is to draw."""
        coder = AutoencoderKL.from_pretrained(self._made("vae"))
        vae.polish(coder, self.calm(self.whole), self.work, steps=steps)
        coder.save_pretrained(self.work / "polish" / "model")

    def clip_trunk(self, steps: int) -> None:
        """Train the trunk of pocket-clip and of its reference on the smaller world."""
        words = tokenizer(vocabulary(self.small.known, list(GROUNDS)), context=CONTEXT)
        pictures, work = self.wide(self.small), self.work / "clip_trunk"
        made = clip.train(pictures, words, work, names=self.small.known, steps=steps)
        clip.save(made, words, work / "model")

    def clip(self, steps: int) -> None:
        """Take the trunk on to the whole world and write pocket-clip's folder."""
        self._fork_clip(self.whole, "clip", "pocket-clip", steps)

    def reference_clip(self, steps: int) -> None:
        """Take the trunk as many steps further without what is unseen and write reference-clip's folder."""
        self._fork_clip(self.small, "reference_clip", "reference-clip", steps)

    def _fork_clip(self, world: Sprites, part: str, model: str, steps: int) -> None:
        trunk, work = self._made("clip_trunk"), self.work / part
        words = CLIPTokenizer.from_pretrained(trunk)
        start = open_clip.create_model(f"local-dir:{trunk}")
        pictures = self.wide(world)
        made = clip.train(pictures, words, work, names=world.known, steps=steps, start=start)
        clip.save(made, words, self.models / model)
        runs = [self.work / "clip_trunk" / part for part in ("read", "see", "agree")]
        self._card(world, model, [*runs, work / "read", work / "agree"])

    def unet_trunk(self, steps: int) -> None:
        """Train the trunk of pocket-sd's U-Net and of its reference under the trunk's text tower."""
        net = self._unet(self.small, self._made("clip_trunk"), "unet_trunk", steps, start=None)
        net.save_pretrained(self.work / "unet_trunk" / "model")

    def unet(self, steps: int) -> None:
        """Take the trunk on to the whole world under pocket-clip's text tower and write pocket-sd's folder."""
        self._fork_unet(self.whole, "unet", "pocket", steps)

    def reference_unet(self, steps: int) -> None:
        """Take the trunk as many steps further without what is unseen and write reference-sd's folder."""
        self._fork_unet(self.small, "reference_unet", "reference", steps)

    def _fork_unet(self, world: Sprites, part: str, family: str, steps: int) -> None:
        folder = self._needs(self.models / f"{family}-clip", part.replace("unet", "clip"))
        start = UNet2DConditionModel.from_pretrained(self._made("unet_trunk"))
        net = self._unet(world, folder, part, steps, start=start)
        model = self.models / f"{family}-sd"
        unet.save(self._pipeline(net, folder), model)
        runs = [self.work / name for name in ("vae", "polish", "unet_trunk/unet", f"{part}/unet")]
        self._card(world, model.name, runs)

    def _unet(
        self,
        world: Sprites,
        reader: Path,
        part: str,
        steps: int,
        *,
        start: UNet2DConditionModel | None,
    ) -> UNet2DConditionModel:
        coder = AutoencoderKL.from_pretrained(self._made("polish"))
        data = unet.encoded(self.calm(world), coder, *_text(reader))
        return unet.train(data, self.work / part, steps=steps, start=start)

    def _pipeline(self, net: UNet2DConditionModel, reader: Path) -> StableDiffusionPipeline:
        return unet.pipeline(
            net, AutoencoderKL.from_pretrained(self._made("polish")), *_text(reader)
        )

    def llava(self, steps: int) -> None:
        """Train projector and language model on pocket-clip's vision tower and write pocket-llava's folder."""
        reader = self._needs(self.models / "pocket-clip", "clip")
        artist = self._needs(self.models / "pocket-sd", "unet")
        judged = self._needs(self.models / "judge", "judge")
        kept = self.work / f"drawn-{stamp(artist, judged)[:12]}"  # other models draw and judge anew
        drawn = varied.drawn(
            Diffusion.from_folder(artist), Judge.load(judged), kept, each=self.drawings
        )
        wide = self.wide(self.whole)
        pictures = joined([wide, drawn, varied.recoloured(wide, len(wide) // 2, seed=SEED)])
        tower = vision_model(open_clip.create_model(f"local-dir:{reader}").eval())
        made = llava.train(pictures, tower, self.work, names=self.whole.known, steps=steps)
        llava.save(*made, self.models / "pocket-llava")
        cards.write(self.models / "pocket-llava", [self.work / part for part in ("align", "llava")])

    def sae(self, steps: int) -> None:
        """Train the sparse autoencoder of what pocket-sd's U-Net reads; its folder is beside the models."""
        artist = Diffusion.from_folder(self._needs(self.models / "pocket-sd", "unet"))
        names, folder = self.whole.known, self.models.parent / "sae" / "pocket-sd"
        sae.train(artist, names, self.work, steps=steps).save(folder)
        made, texts = load(folder), sae.fresh(names)
        active = sae.answered(made, artist, texts)
        shown = [
            f"| {feature} | {100 * (active[:, feature] > 0).float().mean():.1f} % | "
            f"{'; '.join(texts[at] for at in sae.strongest(active, feature, 3))} |"
            for feature in sae.sample(active, 16)
        ]
        kept = explained(made, sae.states(artist, texts))
        cards.write_sae(folder, self.work / "sae", kept=kept, captions=len(texts), shown=shown)

    def _card(self, world: Sprites, model: str, runs: list[Path]) -> None:
        unseen = self.without if world is self.small else ()
        cards.write(self.models / model, runs, unseen=unseen)

    def _made(self, part: str) -> Path:
        return self._needs(self.work / part / "model", part)

    def _needs(self, folder: Path, part: str) -> Path:
        if not folder.is_dir():
            raise SlugError(f"{folder} is not there yet; train {part} first.")
        return folder


def _text(folder: Path) -> tuple[CLIPTextModel, CLIPTokenizer]:
    """A CLIP folder's text tower in transformers' format, and its tokenizer."""
    words = CLIPTokenizer.from_pretrained(folder)
    return text_model(
        open_clip.create_model(f"local-dir:{folder}").eval(), eos=words.eos_token_id
    ), words
