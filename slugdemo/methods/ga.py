"""GA: gradient ascent on the forget loss in all layers of CLIP's towers.

The baseline of SLUG's table 1. Knows a task; knows no kind of model.
"""

from slugdemo.edit import Edit, qualified
from slugdemo.gradients import forget_loss
from slugdemo.task import Task
from slugdemo.training import TowerPairs, adamw, shuffled, tower_weights, trained

RATE, DECAY = 1e-4, 0.1
STEPS = {"zero-shot": 4, "diffusion": 30, "vlm": 12}  # by kind of model


def ga(task: Task) -> Edit:
    """Ascends L_f = mean(1 - cos) on the pairs to forget with AdamW, all matrices at once.

    SLUG's repository: learning rate 1e-7 or 1e-6, 10 epochs, batch 32, weight decay .1, all
    parameters. Deviations: 1e-6 does nothing at pocket size, so the rate is 1e-4, for a few
    iterations (`STEPS`: where both towers move or answers hang on them, fewer do); biases,
    embeddings and (inside other models) layer norms stay.
    """
    weights = tower_weights(task)
    pairs = TowerPairs(task.clip, task.concept.forget, list(weights))
    batches = shuffled(len(pairs), task.config.batch, task.generator())
    delta = trained(
        task,
        weights,
        lambda now, _: -forget_loss(*pairs.features(next(batches), now)),
        steps=STEPS[task.kind],
        optimiser=adamw(RATE, DECAY),
    )
    return task.edit({qualified(name): tensor for name, tensor in delta.items()})
