"""SLUG: one layer, one direction, one step (Cai, Tan, Asif, ICML 2025, arXiv 2407.11867).

The paper from its losses to its step. Knows a task; knows no kind of model, page or file.
"""

from slugdemo import layers
from slugdemo.edit import Edit, qualified
from slugdemo.layers import LayerScore
from slugdemo.task import Task


def slug(task: Task) -> Edit:
    """The edit w <- w + strength * ||w|| * g / ||g|| of the best layer, at its best strength.

    1. Two gradients at the original weights, one pass over each set (sec. 3.1):
       g_f = grad L_f, L_f = mean(1 - cos(image, text)) over pairs to forget, and
       g_r = grad L_r, L_r = the symmetric contrastive loss over pairs to retain.
    2. For each layer (sec. 3.2): importance = ||g_f|| / ||w||, alignment = cos(g_f, g_r).
    3. The Pareto front of each tower: most important, least aligned.
    4. For each layer on it a binary search of the step, and the layer that keeps most (sec. 3.3).

    The paper prints the update with a minus sign, which with this loss would pull the pairs
    together; its open_clip code adds along +g_f, as here. Deviations: the front drops weakly
    dominated layers; a step must also keep the rest (`config.tuning`, which the "paper" rule
    switches off); where no front layer meets the goal the next fronts are tried (not under the
    paper's rule). Raises SlugError when the model does not know the concept.
    """
    moving = [score for score in task.scores if score.importance > 0]  # 1 and 2
    front = layers.pareto_front(moving, alignment=task.config.alignment)  # 3
    candidates = [direction(task, score) for score in layers.in_order(front, task.clip)]
    return task.tune(candidates, lambda: [direction(task, score) for score in task.next_front])  # 4


def direction(task: Task, score: LayerScore) -> Edit:
    """The edit of one layer at strength 0: along +grad L_f, as long as the layer itself.

    A strength is then a fraction of the layer's norm; the paper's lambda is strength * ||w|| / ||g||.
    """
    weights, gradient = task.weights, task.forget_gradient
    along = {qualified(name): gradient[name] for name in score.tensors}
    layer = {qualified(name): weights[name] for name in score.tensors}
    named = {"concept": task.concept.name, "method": task.config.method}
    return task.identified(Edit.along(along, layer, layer=qualified(score.layer), **named))
