"""What Stable Diffusion's U-Net reads of a prompt; knows a tokenizer and CLIP's text tower only."""

import threading
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from transformers import CLIPTextModel, CLIPTokenizer

from slugdemo.errors import SlugError
from slugdemo.models.base import finite
from slugdemo.weights import substitute

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
        return finite(self.states(tower, self.tokens(tower, prompts)[0]))

    def states(self, tower: CLIPTextModel, ids: Tensor) -> Tensor:
        """The states (N, T, D) of tokens (N, T), with gradients."""
        return self._read(tower, ids, self._mask(tower, ids))

    @torch.no_grad()
    def pooled(self, tower: CLIPTextModel, ids: Tensor, hidden: Tensor) -> Tensor:
        """The states at the end token (N, D) when the tokens marked in `hidden` are not read."""
        states = self._read(tower, ids, (~hidden).long())
        return states[torch.arange(len(ids), device=ids.device), self.ends(ids)]

    def states_from(self, tower: CLIPTextModel, embeddings: Tensor) -> Tensor:
        """The states (N, T, D) of token embeddings (N, T, W), with gradients; all of them count.

        The tower looks them up in a table of their own, so it runs exactly as it does for tokens.
        """
        rows, length, _ = embeddings.shape
        ids = torch.arange(rows * length, device=embeddings.device).view(rows, length)
        return self._read(_with_table(tower, embeddings.flatten(0, 1)), ids, None)

    def _read(self, tower: CLIPTextModel, ids: Tensor, mask: Tensor | None) -> Tensor:
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
        ids = torch.tensor(rows.input_ids, dtype=torch.long, device=tower.device).view(-1, room)
        return ids, self._mask(tower, ids)

    def spelled(self, ids: Tensor) -> list[str]:
        """Each row of token ids (N, T) as text, without the tokens that begin and end a prompt."""
        with self._lock:
            return self._tokenizer.batch_decode(ids.tolist(), skip_special_tokens=True)

    def padded(self, ids: Tensor, ends: Tensor) -> Tensor:
        """Tokens (N, T) of a tokenizer with the same words, padded as this one pads.

        `ends` (N,) are the places of the end tokens.
        """
        places = torch.arange(ids.shape[1], device=ids.device)
        return ids.masked_fill(places > ends[:, None], self._tokenizer.pad_token_id)

    def ends(self, ids: Tensor) -> Tensor:
        """The place of the first end token in each row of `ids` (N, T): (N,)."""
        return (ids == self._tokenizer.eos_token_id).int().argmax(1)

    def spots(self, ids: Tensor, words: str) -> Tensor:
        """Where the tokens of `words` stand in rows of `ids` (N, T), one after another: (N, T)."""
        with self._lock:
            wanted = self._tokenizer(words, add_special_tokens=False, verbose=False).input_ids
        found = torch.zeros_like(ids, dtype=torch.bool)
        width = len(wanted)
        if not 0 < width <= ids.shape[1]:
            return found
        windows = ids.unfold(1, width, 1)  # (N, T - width + 1, width)
        starts = (windows == torch.tensor(wanted, device=ids.device)).all(2)
        for shift in range(width):
            found[:, shift : shift + starts.shape[1]] |= starts
        return found

    def _mask(self, tower: CLIPTextModel, ids: Tensor) -> Tensor | None:
        if not getattr(tower.config, "use_attention_mask", False):
            return None
        places = torch.arange(ids.shape[1], device=ids.device)
        return (places <= self.ends(ids)[:, None]).long()


def _with_table(tower: CLIPTextModel, table: Tensor) -> CLIPTextModel:
    """A twin of `tower` whose token table is `table` (V, W), which may need gradients."""
    twin = substitute(
        tower, {"embeddings.position_embedding.weight": tower.embeddings.position_embedding.weight}
    )
    own = nn.Embedding(*table.shape, _weight=torch.empty(table.shape, device="meta"))
    del own._parameters["weight"]
    own._buffers["weight"] = table
    twin.embeddings._modules["token_embedding"] = own
    return twin


def check_length(texts: Sequence[str]) -> None:
    """Raises SlugError for a text that is far too long for any tokenizer to be bothered with."""
    for text in texts:
        if len(text) > MOST:
            raise SlugError(
                f"The text “{_short(text)}” has {len(text)} letters: keep it below {MOST}."
            )


def _short(prompt: str) -> str:
    return prompt if len(prompt) <= 60 else prompt[:57] + "…"
