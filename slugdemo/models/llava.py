"""A LLaVA-style model as a host of CLIP: it sees with CLIP's vision tower.

Only the vision tower is edited (SLUG, sec. 4.4); the language model and the projector are shared
by all visitors and never change. Answers are greedy, so the same question gets the same answer.
"""

import copy
import math
import threading
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import torch
from PIL import Image
from torch import FloatTensor, LongTensor, Tensor, nn
from transformers import (
    AutoProcessor,
    BatchFeature,
    CLIPVisionModel,
    GenerationConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    LogitsProcessor,
    LogitsProcessorList,
)

from slugdemo.edit import Edit
from slugdemo.errors import SlugError
from slugdemo.models import names, tower
from slugdemo.models.base import Progress, Question, Watch, finite
from slugdemo.models.prompts import check_length
from slugdemo.weights import substitute

TOWER = "model.vision_tower."
TEMPLATE = "USER: {image}\n{question} ASSISTANT:"  # LLaVA-1.5's own, for folders without one


class Llava:
    """A LLaVA model whose vision tower can be edited, for many visitors at once.

    `batch` is the number of pictures asked about at once, `longest` the most new tokens of an
    answer (SLUG, sec. 4.4: 16). The model given must not be changed afterwards.
    """

    def __init__(
        self,
        model: LlavaForConditionalGeneration,
        processor: LlavaProcessor,
        *,
        batch: int = 16,
        longest: int = 16,
    ) -> None:
        if not isinstance(model.model.vision_tower, CLIPVisionModel):
            kind = type(model.model.vision_tower).__name__
            raise SlugError(f"This model sees with {kind}, which is not CLIP.")
        self.batch, self.longest = batch, longest
        self.model = model
        self._processor = processor
        self._weights = {
            name.removeprefix(TOWER): tensor
            for name, tensor in model.named_parameters()
            if name.startswith(TOWER)
        }
        self._tokenizing = threading.Lock()  # fast tokenizers are not safe in threads
        with torch.no_grad():  # transformers hooks itself in on first use: before any twin
            model(**self._inputs([self._blank()], ["What is this?"]))

    @classmethod
    def from_folder(
        cls,
        folder: Path,
        *,
        device: str = "cpu",
        dtype: torch.dtype = torch.float32,
        batch: int = 16,
        longest: int = 16,
    ) -> "Llava":
        """The host in a LLaVA folder of transformers; never asks the hub.

        Raises SlugError when the folder holds no such model or is damaged.
        """
        try:
            processor = AutoProcessor.from_pretrained(folder, local_files_only=True)
            model = LlavaForConditionalGeneration.from_pretrained(
                folder, dtype=dtype, local_files_only=True, use_safetensors=True
            )
        except Exception as error:  # many kinds, by many libraries
            raise SlugError(f"{folder.name} is not a whole LLaVA folder: {error}") from error
        _complete(processor, model)
        return cls(model.eval().to(device), processor, batch=batch, longest=longest)

    def edited(self, edits: Sequence[Edit]) -> "Llava":
        """A host with the edited vision tower that shares all else; self if nothing moves it.

        Tensors that this model does not have (text tower, projection) are left out, as they
        change nothing here. Raises ValueError for edits of another architecture.
        """
        changed = tower.changed(edits, names.to_hf_vision, part="vision", tower=self._weights)
        if not changed:
            return self
        twin = copy.copy(self)
        twin.model = substitute(self.model, {TOWER + name: changed[name] for name in changed})
        twin._weights = {**self._weights, **changed}
        return twin

    def editable(self) -> list[str]:
        """The canonical names of the tensors that change the answers, found by trying."""
        return list(self._canonical)

    @cached_property
    def _canonical(self) -> tuple[str, ...]:
        noise = torch.randint(256, (64, 64, 3), generator=torch.Generator().manual_seed(0))
        picture = Image.fromarray(noise.byte().numpy())
        pixels = self._inputs([picture], ["What is this?"])["pixel_values"]
        weights = {TOWER + name: tensor for name, tensor in self._weights.items()}
        found = tower.moving(self.model, weights, lambda model: seen(model, pixels))
        return tuple(dict.fromkeys(names.vision_name(name.removeprefix(TOWER)) for name in found))

    def to(self, device: str) -> "Llava":
        """This very host, moved to a device: for whoever has it alone, before any twin."""
        self.model.to(device)
        return self

    def answer(
        self,
        pictures: Sequence[Image.Image],
        questions: Sequence[str],
        *,
        progress: Progress | None = None,
        cancelled: Question | None = None,
    ) -> list[str]:
        """One answer for each picture and its question, without the question, stripped.

        A picture that is given several times (the same object) is looked at once.
        `progress(done, total)` is called before each new token and after each batch, and
        `cancelled()` asked; total is the most tokens there can be. Raises SlugError for a question that is too long or
        holds the picture's own token, or weights that give no finite answer; Cancelled within one
        token.
        """
        if len(pictures) != len(questions):
            raise ValueError(f"{len(pictures)} pictures need as many questions: {len(questions)}")
        answers: list[str] = []
        looked: dict[int, Tensor] = {}
        watch, runs = Watch(progress, cancelled), math.ceil(len(pictures) / self.batch)
        total = runs * self.longest
        for run in range(runs):
            part = slice(run * self.batch, (run + 1) * self.batch)
            inputs = self._inputs(pictures[part], questions[part])
            embeddings = self._embeddings(inputs, pictures[part], looked)
            each = EveryToken(watch, run * self.longest, total)
            answers += self._generated(embeddings, inputs["attention_mask"], each)
            watch.step((run + 1) * self.longest, total)
        return answers

    def pixels(self, pictures: Sequence[Image.Image]) -> Tensor:
        """What the vision tower is given of pictures: (N, 3, H, W)."""
        return self._inputs(pictures, ["What is this?"] * len(pictures))["pixel_values"]

    @torch.no_grad()
    def _embeddings(
        self, inputs: BatchFeature, pictures: Sequence[Image.Image], looked: dict[int, Tensor]
    ) -> Tensor:
        """What the language model reads, (N, T, D): words, and in their midst what was seen.

        `looked` keeps what the tower makes of a picture for its next question, by the object's id.
        """
        fresh = {
            id(picture): row for row, picture in enumerate(pictures) if id(picture) not in looked
        }
        if fresh:
            features = seen(self.model, inputs["pixel_values"][[*fresh.values()]])
            looked.update(zip(fresh, features, strict=True))
        tokens = inputs["input_ids"]
        embeddings = self.model.get_input_embeddings()(tokens)
        shown = torch.cat([looked[id(picture)] for picture in pictures]).to(embeddings)
        there = (tokens == self.model.config.image_token_id)[..., None].expand_as(embeddings)
        return embeddings.masked_scatter(there, shown)

    def _generated(self, embeddings: Tensor, mask: Tensor, watch: LogitsProcessor) -> list[str]:
        new = self.model.generate(
            inputs_embeds=embeddings,
            attention_mask=mask,
            generation_config=self._greedy,
            logits_processor=LogitsProcessorList([watch]),
        )  # (N, T), without the prompt
        with self._tokenizing:
            texts = self._processor.batch_decode(new, skip_special_tokens=True)
        return [text.strip() for text in texts]

    @cached_property
    def _greedy(self) -> GenerationConfig:
        own, tokenizer = self.model.generation_config, self._processor.tokenizer
        ends = own.eos_token_id if own.eos_token_id is not None else tokenizer.eos_token_id
        return GenerationConfig(
            do_sample=False,
            num_beams=1,
            max_new_tokens=self.longest,
            eos_token_id=ends,
            pad_token_id=tokenizer.pad_token_id,
        )

    def _inputs(self, pictures: Sequence[Image.Image], questions: Sequence[str]) -> BatchFeature:
        """Tokens (N, T), padded on the left as generating needs it, and pixels (N, 3, H, W)."""
        check_length(questions)
        prompts = [self._prompt(question) for question in questions]
        with self._tokenizing:
            inputs = self._processor(
                images=[picture.convert("RGB") for picture in pictures],
                text=prompts,
                padding=True,
                padding_side="left",
                return_tensors="pt",
            )
        room = self.model.config.text_config.max_position_embeddings - self.longest
        if inputs["input_ids"].shape[1] > room:
            lengths = inputs["attention_mask"].sum(1)
            question = questions[int(lengths.argmax())]
            raise SlugError(
                f"The question “{question[:60]}” with its picture has {int(lengths.max())} tokens "
                f"and this model reads {room} beside its answer: shorten it."
            )
        return inputs.to(self.model.device, self.model.dtype)

    def _prompt(self, question: str) -> str:
        image = self._processor.image_token
        if image in question:
            raise SlugError(f"A question cannot hold {image}: that is where the picture goes.")
        if not self._processor.chat_template:
            return TEMPLATE.format(image=image, question=question)
        content = [{"type": "image"}, {"type": "text", "text": question}]
        return self._processor.apply_chat_template(
            [{"role": "user", "content": content}], add_generation_prompt=True
        )

    def _blank(self) -> Image.Image:
        side = self.model.config.vision_config.image_size
        return Image.new("RGB", (side, side))


def _complete(processor: LlavaProcessor, model: LlavaForConditionalGeneration) -> None:
    """Tells the processor how many tokens a picture takes, which older folders leave to the model.

    CLIP's towers add one token, the class token, to the patches.
    """
    processor.patch_size = model.config.vision_config.patch_size
    processor.vision_feature_select_strategy = model.config.vision_feature_select_strategy
    processor.num_additional_image_tokens = 1


class EveryToken(LogitsProcessor):
    """What `generate` asks before each new token; changes no score."""

    def __init__(self, watch: Watch, done: int, total: int) -> None:
        self._watch, self._done, self._total = watch, done, total

    def __call__(self, input_ids: LongTensor, scores: FloatTensor) -> FloatTensor:  # noqa: ARG002
        self._watch.step(self._done, self._total)
        self._done += 1
        if scores.isnan().any():
            finite(scores)
        return scores


def seen(model: nn.Module, pixels: Tensor) -> Tensor:
    """What the language model is given of pictures (N, 3, H, W): (N, T, D), with gradients."""
    features = model.get_image_features(pixel_values=pixels, return_dict=True).pooler_output
    return torch.stack(list(features))
