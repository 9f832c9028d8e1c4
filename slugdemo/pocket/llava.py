"""Training of pocket-llava: pocket-clip's vision tower, frozen, a projector and a small Llama; and its folder."""
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor, nn
from transformers import (
    CLIPImageProcessor, CLIPVisionModel, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration, LlavaProcessor,
    PreTrainedTokenizerFast,
)

from slugdemo.pocket.album import Album
from slugdemo.pocket.dialogue import Turn, dialogue, sentences
from slugdemo.pocket.muon import optimisers
from slugdemo.pocket.styles import STYLES
from slugdemo.pocket.training import Run, device, halves, picks, set_rate, warm_cosine
from slugdemo.pocket.unet import load_as_float32
from slugdemo.pocket.world import GROUNDS

SEED = 51
IMAGE = "<image>"
ASK = "USER: {image}{question} ASSISTANT:"
UNTAUGHT = -100                                 # label of tokens that bear no loss


def tokenizer(concepts: Sequence[str]) -> PreTrainedTokenizerFast:
    """A byte-level BPE that any text passes through, learnt from the sentences of the dialogues."""
    learner = Tokenizer(models.BPE())
    learner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    learner.decoder = decoders.ByteLevel()
    special = ["<pad>", "<s>", "</s>", IMAGE]
    trainer = trainers.BpeTrainer(vocab_size=3000, special_tokens=special, show_progress=False,
                                  initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    text = [*sentences(concepts, list(GROUNDS), list(STYLES)), "USER: ", " ASSISTANT: "]
    learner.train_from_iterator(text, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=learner, bos_token="<s>", eos_token="</s>", pad_token="<pad>",
                                   additional_special_tokens=[IMAGE], padding_side="left", model_max_length=512)


def processor(words: PreTrainedTokenizerFast, tower: CLIPVisionModel) -> LlavaProcessor:
    """Pictures and prompts to model inputs, in LLaVA-1.5's format."""
    side = tower.config.image_size
    pictures = CLIPImageProcessor(size={"shortest_edge": side}, crop_size={"height": side, "width": side},
                                  image_mean=[0.5] * 3, image_std=[0.5] * 3)
    return LlavaProcessor(pictures, words, patch_size=tower.config.patch_size, image_token=IMAGE,
                          vision_feature_select_strategy="default", num_additional_image_tokens=1)


def fresh(tower: CLIPVisionModel, words: PreTrainedTokenizerFast) -> LlavaForConditionalGeneration:
    """The untrained model around the given vision tower, which is frozen."""
    torch.manual_seed(SEED)
    language = LlamaConfig(vocab_size=len(words), hidden_size=192, intermediate_size=512, num_hidden_layers=4,
                           num_attention_heads=6, num_key_value_heads=6, max_position_embeddings=512,
                           pad_token_id=words.pad_token_id, bos_token_id=words.bos_token_id,
                           eos_token_id=words.eos_token_id, tie_word_embeddings=False)
    settings = LlavaConfig(vision_config=tower.config, text_config=language, vision_feature_layer=-2,
                           image_token_index=words.convert_tokens_to_ids(IMAGE), tie_word_embeddings=False,
                           vision_feature_select_strategy="default", image_seq_length=_patches(tower))
    model = LlavaForConditionalGeneration(settings)
    model.model.vision_tower.load_state_dict(tower.state_dict())
    model.model.vision_tower.requires_grad_(False)
    model.generation_config.pad_token_id, model.generation_config.do_sample = words.pad_token_id, False
    return model


def _prefixed(tower: CLIPVisionModel) -> dict[str, Tensor]:
    return {f"model.vision_tower.{name}": value for name, value in tower.state_dict().items()}


def _patches(tower: CLIPVisionModel) -> int:
    return (tower.config.image_size // tower.config.patch_size) ** 2


@torch.inference_mode()
def features(tower: CLIPVisionModel, album: Album) -> Tensor:
    """What the projector reads: the last but one hidden state without its class token, fp16 (N, P, D)."""
    where, found = device(), []
    tower = tower.to(where)
    for chunk in torch.arange(len(album)).split(250):
        states = tower(album.batch(chunk).to(where), output_hidden_states=True).hidden_states[-2]
        found.append(states[:, 1:].half().cpu())
    return torch.cat(found)


def lesson(turns: Sequence[Turn], words: PreTrainedTokenizerFast, patches: int) -> tuple[list[int], list[int]]:
    """Token ids and labels of a dialogue; only answers and their ends are taught."""
    ids, labels = [words.bos_token_id], [UNTAUGHT]
    for place, turn in enumerate(turns):
        image = IMAGE * patches + "\n" if place == 0 else ""
        asked = words(ASK.format(image=image, question=turn.question), add_special_tokens=False).input_ids
        answered = [*words(f" {turn.answer}", add_special_tokens=False).input_ids, words.eos_token_id]
        ids, labels = ids + asked + answered, labels + [UNTAUGHT] * len(asked) + answered
    return ids, labels


def train(album: Album, tower: CLIPVisionModel, work: Path, *, concepts: Sequence[str], steps: int,
          batch: int = 48, rate: float = 2e-3, start: LlavaForConditionalGeneration | None = None,
          ) -> tuple[LlavaForConditionalGeneration, LlavaProcessor]:
    """The trained model, from `start` where given, and its processor; the vision tower stays as it came."""
    where, words = device(), tokenizer(concepts)
    model, seen = fresh(tower, words), features(tower, album)
    if start:
        model.load_state_dict({**start.state_dict(), **_prefixed(tower)})
    model = model.to(where)
    taught = nn.ModuleDict({"projector": model.model.multi_modal_projector, "language": model.model.language_model,
                            "head": model.lm_head})
    rates = optimisers(taught, lr=rate, blocks="layers")
    run = Run(work / "llava", {"batch": batch, "vocabulary": len(words)}, steps, {"taught": taught, **rates})

    def update(step: int) -> Mapping[str, float]:
        which = picks(len(album), batch, seed=SEED, step=step)
        talks = [dialogue(album.scenes[i], np.random.default_rng((SEED, step, i)), concepts=concepts)
                 for i in which.tolist()]
        with halves(where):
            loss = _loss(model, seen[which].to(where).float(), [lesson(t, words, seen.shape[1]) for t in talks])
        for optimiser in rates.values():
            set_rate(optimiser, warm_cosine(step, steps))
            optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(taught.parameters(), 1.0)
        for optimiser in rates.values():
            optimiser.step()
        return {"loss": loss.item()}

    run.loop(update)
    return model.cpu().eval(), processor(words, tower.cpu())


def _loss(model: LlavaForConditionalGeneration, seen: Tensor, lessons: Sequence[tuple[list[int], list[int]]]) -> Tensor:
    """Cross-entropy of the taught tokens, from precomputed vision features (N, P, D)."""
    longest = max(len(ids) for ids, _ in lessons)
    pad = model.config.text_config.pad_token_id
    ids, labels = (torch.tensor([row + [fill] * (longest - len(row)) for row in rows], device=seen.device)
                   for rows, fill in zip(zip(*lessons, strict=True), (pad, UNTAUGHT), strict=True))
    embedded = model.get_input_embeddings()(ids)
    image = (ids == model.config.image_token_index)[..., None].expand_as(embedded)
    embedded = embedded.masked_scatter(image, model.model.multi_modal_projector(seen).to(embedded.dtype))
    states = model.model.language_model(inputs_embeds=embedded, use_cache=False).last_hidden_state
    taught = labels[:, 1:] != UNTAUGHT
    return nn.functional.cross_entropy(model.lm_head(states[:, :-1][taught]).float(), labels[:, 1:][taught])


def save(model: LlavaForConditionalGeneration, reader: LlavaProcessor, folder: Path) -> None:
    """Write the transformers folder, weights in fp16."""
    model.half().save_pretrained(folder, safe_serialization=True)
    model.float()
    load_as_float32(folder / "config.json")
    reader.save_pretrained(folder)
