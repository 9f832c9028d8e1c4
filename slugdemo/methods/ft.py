"""FT: fine-tuning on the pairs to retain alone, in all layers of CLIP's towers.

The baseline of SLUG's table 1 that forgets by neglect, if at all. Knows a task; knows no kind of
model.
"""

from slugdemo.edit import Edit, qualified
from slugdemo.gradients import retain_loss_of
from slugdemo.task import Task
from slugdemo.training import TowerPairs, adamw, shuffled, tower_weights, trained

RATE, STEPS, DECAY = 1e-4, 20, 0.1


def ft(task: Task) -> Edit:
    """Descends L_r, CLIP's contrastive loss, on the pairs to retain with AdamW.

    It names nothing to forget, so the concept mostly stays (SLUG's table 1: 66 of 73 % are left).
    SLUG's repository: learning rate 1e-7 or 1e-6, 10 epochs, batch 32, weight decay .1, all
    parameters. Deviations: rate 1e-4 and 20 iterations; biases, embeddings and (inside other
    models) layer norms stay.
    """
    weights = tower_weights(task)
    pairs = TowerPairs(task.clip, task.retain_split[0], list(weights))
    batches = shuffled(len(pairs), task.config.batch, task.generator())
    contrast = retain_loss_of(task.clip)
    delta = trained(
        task,
        weights,
        lambda now, _: contrast(*pairs.features(next(batches), now)),
        steps=STEPS,
        optimiser=adamw(RATE, DECAY),
    )
    return task.edit({qualified(name): tensor for name, tensor in delta.items()})
