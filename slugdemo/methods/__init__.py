"""METHODS: the field's methods by name. One is a file with a function and a line here.

A method is a function from a Task to an Edit. Methods never import each other.
"""

from slugdemo.errors import SlugError
from slugdemo.methods.ft import ft
from slugdemo.methods.ga import ga
from slugdemo.methods.gaft import gaft
from slugdemo.methods.method import Method
from slugdemo.methods.nest import nest
from slugdemo.methods.razor import razor
from slugdemo.methods.salun import salun
from slugdemo.methods.slug import direction, slug
from slugdemo.methods.ssd import ssd

EVERY, TOWERS = ("zero-shot", "diffusion", "vlm"), ("text", "vision")
TABLE_1 = "Cai, Tan, Asif, ICML 2025, arXiv 2407.11867, table 1"
NOTHING = "at pocket size these published ones do nothing:"

METHODS: dict[str, Method] = {
    method.name: method
    for method in (
        Method(
            "slug",
            slug,
            "single layer",
            ("zero-shot", "diffusion", "vlm"),
            ("text", "vision"),
            "both",
            "Cai, Tan, Asif, ICML 2025, arXiv 2407.11867",
            "weak dominance on the front; a floor for what is kept; next fronts when none passes",
            seconds=30.0,
            of_layer=direction,
        ),
        Method(
            "razor",
            razor,
            "several layers",
            EVERY,
            TOWERS,
            "both",
            "Ranjan et al., CVPR 2026 Findings, arXiv 2603.14819",
            "RAZOR, constants ours: alpha .5, rho 1, tau .6 of the best, both lambdas 1",
            seconds=40.0,
        ),
        Method(
            "nest",
            nest,
            "several layers",
            EVERY,
            TOWERS,
            "both",
            "NEST, built on SLUG's repository",
            "batches of 8; normal for Student's distribution; the shared projections stay",
            seconds=40.0,
        ),
        Method(
            "ga",
            ga,
            "trained",
            EVERY,
            TOWERS,
            "pictures",
            TABLE_1,
            f"rate 1e-4 ({NOTHING} 1e-7, 1e-6), 4 to 30 iterations; matrices only",
            seconds=2.0,
        ),
        Method(
            "ft",
            ft,
            "trained",
            EVERY,
            TOWERS,
            "pictures",
            TABLE_1,
            f"rate 1e-4 ({NOTHING} 1e-7, 1e-6), 20 iterations; matrices only; names nothing to "
            "forget, so the concept mostly stays",
            seconds=4.0,
        ),
        Method(
            "gaft",
            gaft,
            "trained",
            EVERY,
            TOWERS,
            "both",
            TABLE_1,
            f"rate 1e-4 ({NOTHING} 1e-7, 1e-6), 6 to 30 and 20 iterations; matrices only",
            seconds=5.0,
        ),
        Method(
            "salun",
            salun,
            "trained",
            EVERY,
            TOWERS,
            "both",
            "Fan et al., ICLR 2024, arXiv 2310.12508",
            f"on CLIP; rate 1e-4 ({NOTHING} 1e-7, 1e-6), 6 to 30 and 20 iterations; matrices only",
            seconds=6.0,
        ),
        Method(
            "ssd",
            ssd,
            "trained",
            EVERY,
            TOWERS,
            "both",
            "Foster et al., AAAI 2024, arXiv 2308.07707",
            "one dampening, alpha 10, lambda 1; both importances are of the cosine loss",
            seconds=3.0,
        ),
    )
}


def named(name: str) -> Method:
    """The method of this name, in any case. Raises SlugError, with the names, for another."""
    for method in METHODS.values():
        if method.name.casefold() == name.strip().casefold():
            return method
    raise SlugError(f"There is no method {name!r}. There are: {', '.join(METHODS)}.")
