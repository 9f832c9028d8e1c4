"""What Stable Diffusion's U-Net reads of a prompt; knows a tokenizer and CLIP's text tower only."""

import threading
from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import CLIPTextModel, CLIPTokenizer

from slugdemo.errors import SlugError
from slugdemo.models.base import finite

MOST = 8_000  # letters of a text


class Prompts:
    """Prompts of any length as states of a text tower: the one given with each call.

    `clip_skip` leaves out the last text blocks, as in diffusers.
    """

    def __init__(self, tokenizer: CLIPTokenizer, *, clip_skip: int = 0) -> None:
        self._tokenizer = tokenizer
        self._clip_skip = clip_skip
        self._lock = threading.Lock()  # fast tokenizers are not safe in threads

    @torch.no_grad()
    def embedded(self, tower: CLIPTextModel, prompts: Sequence[str]) -> Tensor:
        """One row of states for each prompt: (N, T, D), D the width of the tower.

        Raises SlugError for a prompt that is too long or a tower with damaged weights.
        """
        return finite(self.states(tower, *self.tokens(tower, prompts)))

    def states(self, tower: CLIPTextModel, ids: Tensor, mask: Tensor | None) -> Tensor:
        """The states (N, T, D) of tokens (N, T), with gradients."""
        if not self._clip_skip:
            return tower(ids, attention_mask=mask).last_hidden_state
        hidden = tower(ids, attention_mask=mask, output_hidden_states=True).hidden_states
        return tower.final_layer_norm(hidden[-(self._clip_skip + 1)])

    def tokens(self, tower: CLIPTextModel, prompts: Sequence[str]) -> tuple[Tensor, Tensor | None]:
        """Token ids (N, T) and, for the few models that want one, the attention mask (N, T)."""
        check_length(prompts)
        room = min(self._tokenizer.model_max_length, tower.config.max_position_embeddings)
        with self._lock:
            rows = self._tokenizer(
                list(prompts),
                padding="max_length",
                max_length=room,
                truncation=False,
                verbose=False,
            )
        for prompt, row in zip(prompts, rows.input_ids, strict=True):
            if len(row) > room:
                raise SlugError(
                    f"The prompt “{_short(prompt)}” has {len(row) - 2} tokens and this model "
                    f"reads {room - 2}: shorten it."
                )
        ids = torch.tensor(rows.input_ids, device=tower.device)
        wants_mask = getattr(tower.config, "use_attention_mask", False)
        return ids, torch.tensor(rows.attention_mask, device=ids.device) if wants_mask else None


def check_length(texts: Sequence[str]) -> None:
    """Raises SlugError for a text that is far too long for any tokenizer to be bothered with."""
    for text in texts:
        if len(text) > MOST:
            raise SlugError(
                f"The text “{_short(text)}” has {len(text)} letters: keep it below {MOST}."
            )


def _short(prompt: str) -> str:
    return prompt if len(prompt) <= 60 else prompt[:57] + "…"
