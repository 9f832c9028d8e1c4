"""Training of pocket-llava: pocket-clip's vision tower, frozen, a projector and a small Llama; and its folder.

In LLaVA's two stages (Liu et al. 2023): first the projector alone, which learns to find anchors (anchors.py) of what
is seen in each region; then projector and language model together, on questions and answers. All questions about a
picture share one pass over it and are blind to one another, so that no answer can be copied from an earlier one. What
is seen is blurred meanwhile, and seen by a tower whose weights carry a little noise, alike in all directions.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from torch import Tensor, nn
from torch.func import functional_call
from transformers import (
    CLIPImageProcessor,
    CLIPVisionModel,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)

from slugdemo.pocket.dialogue import Turn, dialogue, sentences
from slugdemo.pocket.muon import optimisers
from slugdemo.pocket.names import Names
from slugdemo.pocket.picture_set import PictureSet
from slugdemo.pocket.regions import SHARES, Regions
from slugdemo.pocket.training import device, halves, learn, noise_at, picks
from slugdemo.pocket.unet import load_as_float32
from slugdemo.pocket.world import GROUNDS, Scene

SEED = 51
IMAGE = "<image>"
SHOW = "USER: {image}\n"
ASK = "{question} ASSISTANT:"
UNTAUGHT = -100  # label of tokens that bear no loss
ALIGNING = 1200  # steps of the projector alone
PADDING = -1  # turn of tokens that only fill a row
BLUR = 0.4  # noise on what is seen, in standard deviations, at most
WEIGHT_NOISE = 0.15  # noise on the weights of what sees, as a share of their norm, at most


def tokenizer(names: Names) -> PreTrainedTokenizerFast:
    """A byte-level BPE that any text passes through, learnt from the sentences of the dialogues."""
    learner = Tokenizer(models.BPE())
    learner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    learner.decoder = decoders.ByteLevel()
    special = ["<pad>", "<s>", "</s>", IMAGE]
    trainer = trainers.BpeTrainer(
        vocab_size=3000,
        special_tokens=special,
        show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    said = sentences(names.concepts, list(GROUNDS), names.styles)
    learner.train_from_iterator(
        [*said, *(f" {s}" for s in said), "USER: ", " ASSISTANT: "], trainer
    )
    learner.post_processor = processors.TemplateProcessing(
        "<s> $A", special_tokens=[("<s>", special.index("<s>"))]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=learner,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        additional_special_tokens=[IMAGE],
        padding_side="left",
        model_max_length=512,
    )


def processor(words: PreTrainedTokenizerFast, tower: CLIPVisionModel) -> LlavaProcessor:
    """Pictures and prompts to model inputs, in LLaVA-1.5's format."""
    side = tower.config.image_size
    pictures = CLIPImageProcessor(
        size={"shortest_edge": side},
        crop_size={"height": side, "width": side},
        image_mean=[0.5] * 3,
        image_std=[0.5] * 3,
    )
    return LlavaProcessor(
        pictures,
        words,
        patch_size=tower.config.patch_size,
        image_token=IMAGE,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
    )


def fresh(tower: CLIPVisionModel, words: PreTrainedTokenizerFast) -> LlavaForConditionalGeneration:
    """The untrained model around the given vision tower, which is frozen."""
    torch.manual_seed(SEED)
    language = LlamaConfig(
        vocab_size=len(words),
        hidden_size=192,
        intermediate_size=512,
        num_hidden_layers=4,
        num_attention_heads=6,
        num_key_value_heads=6,
        max_position_embeddings=512,
        pad_token_id=words.pad_token_id,
        bos_token_id=words.bos_token_id,
        eos_token_id=words.eos_token_id,
        tie_word_embeddings=False,
    )
    settings = LlavaConfig(
        vision_config=tower.config,
        text_config=language,
        vision_feature_layer=-2,
        image_token_index=words.convert_tokens_to_ids(IMAGE),
        tie_word_embeddings=False,
        vision_feature_select_strategy="default",
        image_seq_length=_patches(tower),
    )
    model = LlavaForConditionalGeneration(settings)
    model.model.vision_tower.load_state_dict(tower.state_dict())
    model.model.vision_tower.requires_grad_(False)
    model.generation_config.pad_token_id, model.generation_config.do_sample = (
        words.pad_token_id,
        False,
    )
    return model


def _patches(tower: CLIPVisionModel) -> int:
    return (tower.config.image_size // tower.config.patch_size) ** 2


@torch.inference_mode()
def features(tower: CLIPVisionModel, pictures: PictureSet) -> Tensor:
    """What the projector reads: the last but one hidden state without its class token, fp16 (N, P, D)."""
    where, side, found = device(), tower.config.image_size, []
    tower = tower.to(where)
    for chunk in torch.arange(len(pictures)).split(250):
        shown = pictures.batch(chunk, side=side).to(where)
        states = tower(shown, output_hidden_states=True).hidden_states[-2]
        found.append(states[:, 1:].half().cpu())
    return torch.cat(found)


@dataclass(frozen=True)
class Lesson:
    """Questions and answers about one picture: token ids, labels, and the turn of each token (0: all turns')."""

    ids: list[int]
    labels: list[int]
    turns: list[int]


def lesson(turns: Sequence[Turn], words: PreTrainedTokenizerFast, patches: int) -> Lesson:
    """The picture once, then every turn; only answers and their ends are taught."""

    def coded(text: str) -> list[int]:
        return words(text, add_special_tokens=False).input_ids

    ids = [words.bos_token_id, *coded(SHOW.format(image=IMAGE * patches))]
    labels, owners = [UNTAUGHT] * len(ids), [0] * len(ids)
    for number, turn in enumerate(turns, 1):
        asked, answered = (
            coded(ASK.format(question=turn.question)),
            [*coded(f" {turn.answer}"), words.eos_token_id],
        )
        ids, labels = ids + asked + answered, labels + [UNTAUGHT] * len(asked) + answered
        owners += [number] * len(asked + answered)
    return Lesson(ids, labels, owners)


def blinded(turns: Tensor) -> tuple[Tensor, Tensor]:
    """Attention mask (B, 1, T, T), added to scores, and positions (B, T) for the turns (B, T) of tokens.

    A token looks back on its own turn and on what all turns share; every turn starts at the same position.
    """
    along = torch.arange(turns.shape[1], device=turns.device)
    own = (turns[:, None, :] == turns[:, :, None]) | (turns[:, None, :] == 0)
    sees = own & (along[None, :] <= along[:, None])
    shared = (turns == 0).sum(1, keepdim=True)
    starts = (
        (turns[:, None, :] == turns[:, :, None]).int().argmax(2)
    )  # where each token's turn begins
    positions = torch.where(turns == 0, along, along - starts + shared)
    return torch.zeros(sees.shape, device=turns.device).masked_fill_(
        ~sees, torch.finfo(torch.float32).min
    )[:, None], positions


def train(
    pictures: PictureSet,
    tower: CLIPVisionModel,
    work: Path,
    *,
    names: Names,
    steps: int,
    batch: int = 48,
    rate: float = 2e-3,
) -> tuple[LlavaForConditionalGeneration, LlavaProcessor]:
    """The trained model and its processor; the vision tower stays as it came."""
    where, words = device(), tokenizer(names)
    model, seen = fresh(tower, words), features(tower, pictures)
    sure = [i for i, scene in enumerate(pictures.scenes) if scene.style and scene.ground]
    align(
        model,
        seen[sure],
        [pictures.scenes[i] for i in sure],
        work,
        names=names,
        steps=min(ALIGNING, steps),
    )
    model = model.to(where)
    side = tower.config.image_size
    taught = nn.ModuleDict(
        {
            "projector": model.model.multi_modal_projector,
            "language": model.model.language_model,
            "head": model.lm_head,
        }
    )

    def terms(step: int) -> dict[str, Tensor]:
        which, noise = (
            picks(len(pictures), batch, seed=SEED, step=step).sort().values,
            noise_at(step, seed=SEED),
        )
        talks = [
            dialogue(
                pictures.scenes[i], np.random.default_rng((SEED, step, i)), concepts=names.concepts
            )
            for i in which.tolist()
        ]
        with halves(where):
            states = noisy_tower(tower, pictures.batch(which, side=side).to(where), noise)
            lessons = [lesson(turns, words, seen.shape[1]) for turns in talks]
            return {"loss": _loss(model, blurred(states, noise), lessons)}

    rates = optimisers(taught, lr=rate, blocks="layers")
    config = {"names": names.concepts + names.styles, "batch": batch}
    learn(taught, rates, terms, {"loss": 1.0}, work / "llava", steps, config=config)
    return model.cpu().eval(), processor(words, tower.cpu())


def blurred(states: Tensor, generator: torch.Generator) -> Tensor:
    """States (N, P, D) with Gaussian noise, one shift for a whole picture and one for each of its patches.

    Its standard deviation is drawn for each picture, up to `BLUR` of that of each of the D numbers.
    """
    count, _, width = states.shape
    far = BLUR * torch.rand(count, 1, 1, generator=generator)
    shift = torch.randn(count, 1, width, generator=generator) + torch.randn(
        states.shape, generator=generator
    )
    return states + (far * shift).to(states) * states.std((0, 1))


@torch.no_grad()
def noisy_tower(tower: CLIPVisionModel, pictures: Tensor, generator: torch.Generator) -> Tensor:
    """States (N, P, D) of pictures (N, 3, H, W) by a tower all of whose weights carry Gaussian noise.

    The noise of every tensor is as long as a drawn share of the tensor, `WEIGHT_NOISE` at most; the tower stays as it
    is.
    """
    far = WEIGHT_NOISE * torch.rand((), generator=generator)
    moved = {}
    for name, weight in tower.named_parameters():
        jitter = torch.randn(weight.shape, generator=generator).to(weight)
        moved[name] = weight + far.to(weight) * weight.norm() / jitter.norm() * jitter
    seen = functional_call(tower, moved, (pictures,), {"output_hidden_states": True}).hidden_states[
        -2
    ]
    return seen[:, 1:].float()


def align(
    model: LlavaForConditionalGeneration,
    seen: Tensor,
    scenes: Sequence[Scene],
    work: Path,
    *,
    names: Names,
    steps: int,
    batch: int = 192,
    rate: float = 2e-3,
) -> None:
    """Teach the projector, in place: the mean of a thing's patches finds its concept, that of all style and ground."""
    where, projector = device(), model.model.multi_modal_projector
    student = Regions(projector, names, projector.linear_2.out_features, seed=SEED).to(where)

    def terms(step: int) -> dict[str, Tensor]:
        which = picks(len(scenes), min(batch, len(scenes)), seed=SEED + 1, step=step)
        return student(seen[which].to(where).float(), [scenes[i] for i in which.tolist()])

    rates = optimisers(student, lr=rate, blocks="linear")
    config = {"names": names.concepts + names.styles}
    learn(student, rates, terms, SHARES, work / "align", steps, config=config)
    student.cpu()
    with torch.no_grad():  # as large as words are
        some = projector(seen[:64].float()).square().mean().sqrt()
        large = model.get_input_embeddings().weight.square().mean().sqrt() / some
        projector.linear_2.weight.mul_(large)
        projector.linear_2.bias.mul_(large)


def _loss(model: LlavaForConditionalGeneration, seen: Tensor, lessons: Sequence[Lesson]) -> Tensor:
    """Cross-entropy of the taught tokens, from precomputed vision features (N, P, D)."""
    pad = model.config.text_config.pad_token_id

    def rows(lists: Sequence[list[int]], fill: int) -> Tensor:
        longest = max(len(row) for row in lists)
        return torch.tensor(
            [row + [fill] * (longest - len(row)) for row in lists], device=seen.device
        )

    ids, labels = (
        rows([taught.ids for taught in lessons], pad),
        rows([taught.labels for taught in lessons], UNTAUGHT),
    )
    mask, positions = blinded(rows([taught.turns for taught in lessons], PADDING))
    embedded = model.get_input_embeddings()(ids)
    image = (ids == model.config.image_token_index)[..., None].expand_as(embedded)
    embedded = embedded.masked_scatter(
        image, model.model.multi_modal_projector(seen).to(embedded.dtype)
    )
    states = model.model.language_model(
        inputs_embeds=embedded, attention_mask=mask, position_ids=positions, use_cache=False
    ).last_hidden_state
    taught = labels[:, 1:] != UNTAUGHT
    return F.cross_entropy(model.lm_head(states[:, :-1][taught]).float(), labels[:, 1:][taught])


def save(model: LlavaForConditionalGeneration, reader: LlavaProcessor, folder: Path) -> None:
    """Write the transformers folder, weights in fp16."""
    model.half().save_pretrained(folder, safe_serialization=True)
    model.float()
    load_as_float32(folder / "config.json")
    reader.save_pretrained(folder)
