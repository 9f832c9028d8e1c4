"""The zero-shot evaluator as it would be written first, to measure the other against."""

import copy

import torch

from slugdemo.edit import Edit, apply, clip_name, qualified
from slugdemo.evaluation import metrics
from slugdemo.evaluation.classify import ClassifyEvaluation
from slugdemo.search import Evaluate, Evaluator, Score


def texts(evaluation: ClassifyEvaluation) -> list[str]:
    """Every prompt of every class."""
    return [text for several in evaluation.prompts.values() for text in several]


def naive(evaluation: ClassifyEvaluation) -> Evaluator:
    """A deep copy of the model, and both towers in full, for each step."""
    host, target = evaluation.host, evaluation.concept.name
    tokens = host.clip.tokenize(texts(evaluation))
    labels, pixels = host.labels.numpy(), host.pictures.inputs
    weights = {qualified(name): tensor for name, tensor in host.clip.named().items()}
    own = labels == host.classes.index(target)

    def measure(edit: Edit, strength: float) -> Score:
        model = copy.deepcopy(host.clip.model)
        with torch.no_grad():
            for name, tensor in apply(weights, [edit.at(strength)]).items():
                model.get_parameter(clip_name(name)).copy_(tensor)
            images = torch.cat([model.encode_image(p, normalize=True) for p in pixels.split(64)])
            texts = torch.cat([model.encode_text(t, normalize=True) for t in tokens.split(64)])
        hits = metrics.top_k((images @ texts.T).numpy(), labels)
        shares = metrics.share(hits[own]), metrics.share(hits[~own])
        return Score(strength, *shares, int(own.sum()), int((~own).sum()))

    def evaluate(edit: Edit) -> Evaluate:
        return lambda strength: measure(edit, strength)

    return evaluate
