"""slugdemo: make CLIP forget one thing by moving one layer once (SLUG, Cai, Tan, Asif, ICML 2025).

The map of the house. Imports only point down; siblings never import each other.

    app.py         the page: options -> World -> ui
    ui/            one file per question; the only place that knows gradio
    __main__.py    the same job on the command line
    cli/           its commands: to find out, to show, to measure
    bench/         speed as ratios, quality on held-out material, against bars
    report.py      findings as plain data and as tables
    study.py       locate, sweep, erase, control: from a model and a concept to values
    setting.py     every number that a result depends on
    world.py       what stands around a concept: names, test pictures, the judge, drawn examples
    evaluate/      one board for each host: exams for the search, held-out rows afterwards
    loading.py     a model in memory, and the CLIP whose tower it carries
    zerogpu.py     hosts on a borrowed GPU, in the Spaces that lend one
    catalog.py     which models and concepts there are, and where
    judge.py       a classifier that shares no weight with what it judges
    data.py        which pictures are forgotten and which are kept; batches of tensors
    sources.py     pictures with captions from folders, archives and parquet files
    captions.py    what is said of pictures, in records and in tables
    export.py      an edited model in its own format, for libraries that do not know us
    methods/       slug.py: which layer, how far; METHODS is a dict of functions of one signature
    hosts/         who reads CLIP: zero_shot.py, diffusion.py (diffusers), vlm.py
    search.py      Point; the sweep; the step search; which point to keep
    layers.py      what may be edited; LayerScore; the Pareto front
    gradients.py   two losses, one gradient each, cached by content
    edit.py        Edit: w <- w + step * direction; the one function that applies edits
    clip.py        Clip: two towers, tokenizer and transform as one value
    towers.py      a tower as a chain of stages, so that a pass can start in the middle
    hosts/names.py the names of one CLIP in open_clip and transformers
    cost.py        seconds by phase, bytes of memory
    metrics.py     accuracy, intervals, UA / IRA / CRA: arrays in, floats out
    concept.py     Concept, Example, Names: strings and paths; which spellings are one name
    images.py      one picture, read with care from a file, an archive or a data address
    archives.py    files inside of tars, zips and parquet files
    files.py       texts in any encoding, names for files, places that can be written
    inventory.py   a model's folder: its weight files, whether they are whole, how large
    weights.py     named tensors: twins, norms, files
    public.py      what an open server allows: rates and sizes
    errors.py      SlugError: its message is a sentence for the visitor
    pocket/        beside the house: makes the pocket models; nobody imports it

A step is a fraction of the edited layer's norm, accuracies lie in [0, 1], seeds are explicit,
and the shared model never changes: every edit is a twin that shares all but one layer with it.
"""

from slugdemo import torchvision_ops  # noqa: F401  (before anything imports open_clip)
