"""The zero-shot exam as one would write it first, to measure the other one against."""

import copy
from collections.abc import Sequence

import torch

from slugdemo.edit import Edit, apply
from slugdemo.evaluation import Classes, metrics
from slugdemo.search import Evaluate, Exam, Point


def texts(board: Classes) -> Sequence[str]:
    """Every prompt of every class."""
    return [text for several in board.prompts.values() for text in several]


def naive(board: Classes) -> Exam:
    """A deep copy of the model, and both towers in full, for each step."""
    host, target = board.host, board.concept.name
    tokens = host.clip.tokenize(texts(board))
    labels, pixels = host.labels.numpy(), host.pictures.inputs
    own = labels == host.classes.index(target)

    def measure(edit: Edit, step: float) -> Point:
        model = copy.deepcopy(host.clip.model)
        with torch.no_grad():
            for name, tensor in apply(host.clip.named(), [edit.at(step)]).items():
                model.get_parameter(name).copy_(tensor)
            images = torch.cat([model.encode_image(p, normalize=True) for p in pixels.split(64)])
            texts = torch.cat([model.encode_text(t, normalize=True) for t in tokens.split(64)])
        hits = metrics.top_k((images @ texts.T).numpy(), labels)
        shares = metrics.share(hits[own]), metrics.share(hits[~own])
        return Point(step, *shares, int(own.sum()), int((~own).sum()))

    def examine(edit: Edit) -> Evaluate:
        return lambda step: measure(edit, step)

    return examine
