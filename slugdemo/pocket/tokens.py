"""The pocket tokenizer: a small byte-level BPE in CLIPTokenizer format, in which any text tokenizes."""

import json
from collections.abc import Iterable

from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import CLIPTokenizer

START, END = "<|startoftext|>", "<|endoftext|>"


def tokenizer(texts: Iterable[str], *, merges: int = 3000, context: int = 32) -> CLIPTokenizer:
    """A CLIPTokenizer whose merges are learnt from `texts`.

    Ids: 256 bytes, 256 bytes that end a word, the merges, start, end. The end token is the largest id and also pads,
    because open_clip pools at the largest id and transformers at the first end token.
    """
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    learner = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    learner.pre_tokenizer = CLIPTokenizer().backend_tokenizer.pre_tokenizer
    letters = [
        *alphabet,
        *(letter + "</w>" for letter in alphabet),
    ]  # numbered beforehand: ties break alike
    trainer = trainers.BpeTrainer(
        vocab_size=512 + merges,
        special_tokens=letters,
        end_of_word_suffix="</w>",
        show_progress=False,
    )
    learner.train_from_iterator((text.lower() for text in texts), trainer)
    pairs = [tuple(pair) for pair in json.loads(learner.to_str())["model"]["merges"]]
    pieces = [*letters, *("".join(pair) for pair in pairs)]
    vocab = {piece: i for i, piece in enumerate(dict.fromkeys([*pieces, START, END]))}
    return CLIPTokenizer(vocab=vocab, merges=pairs, model_max_length=context)
