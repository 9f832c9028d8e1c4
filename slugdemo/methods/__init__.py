"""METHODS: the field's methods by name. One is a file with a function and a line here.

A method is a function from a Task to an Edit. Methods never import each other.
"""

from slugdemo.errors import SlugError
from slugdemo.methods.ga import ga
from slugdemo.methods.method import Method
from slugdemo.methods.slug import direction, slug

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
            "ga",
            ga,
            "trained",
            ("zero-shot", "diffusion", "vlm"),
            ("text", "vision"),
            "pictures",
            "Cai, Tan, Asif, ICML 2025, arXiv 2407.11867, table 1",
            "rate 1e-4 (published 1e-7 and 1e-6 do nothing at pocket size), 30 iterations; "
            "matrices only",
            seconds=2.0,
        ),
    )
}


def named(name: str) -> Method:
    """The method of this name, in any case. Raises SlugError, with the names, for another."""
    for method in METHODS.values():
        if method.name.casefold() == name.strip().casefold():
            return method
    raise SlugError(f"There is no method {name!r}. There are: {', '.join(METHODS)}.")
