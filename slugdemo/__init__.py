"""slugdemo: which single layer of a model holds a concept, and what is left when it is erased.

The one engine is `experiment`; the page (`ui`), the command line (`cli`) and `benchmark` call it
and nothing below it. `docs/house.md` has a line for every module.

    ui  cli  benchmark       show, print and repeat
    experiment               a model and a concept -> scores, edits, results
    methods  attacks         a function and a dict entry each; they never import each other
    task  search  evaluation one concept in one model; how far to go; what is still there
    gradients  layers  edit  SLUG's quantities; what is added to the weights
    models                   CLIP, Stable Diffusion, LLaVA; the only place that knows diffusers

A strength is a fraction of what its edit's unit says (for SLUG: of the layer's norm), accuracies
lie in [0, 1], seeds are explicit, and the shared model never changes: every edited model is a twin
that shares all but the edited tensors with it.
"""

from slugdemo import torchvision_ops  # noqa: F401  (before anything imports open_clip)
