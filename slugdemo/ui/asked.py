"""What a caller sends to an endpoint, checked before anything is done with it.

Knows types and lengths only; what a name stands for is checked by those who know it.
"""

import inspect
import math
from collections.abc import Callable
from functools import wraps
from typing import Any

from slugdemo.errors import SlugError
from slugdemo.models.prompts import MOST

LARGEST = 4_000_000  # letters of a picture's address
STEPS = 32  # numbers in a list
LARGEST_WHOLE = 2**53


def text(name: str, given: Any) -> str:  # noqa: ANN401
    """A text of bearable length that can be written down."""
    most = LARGEST if name == "picture" else MOST
    if not isinstance(given, str):
        raise SlugError(f"“{name}” is a text, not {_kind(given)}.")
    if len(given) > most:
        raise SlugError(f"“{name}” has {len(given)} letters; at most {most} are read.")
    try:
        given.encode()
    except UnicodeEncodeError as error:
        raise SlugError(f"“{name}” holds half of a letter, which is no text.") from error
    return given


def number(name: str, given: Any) -> float:  # noqa: ANN401
    """A finite number."""
    if isinstance(given, bool) or not isinstance(given, int | float):
        raise SlugError(f"“{name}” is a number, not {_kind(given)}.")
    if not (abs(given) <= LARGEST_WHOLE and math.isfinite(given)):
        raise SlugError(f"“{name}” is a finite number of bearable size.")
    return given


def whole(name: str, given: Any) -> int:  # noqa: ANN401
    """A whole number."""
    if number(name, given) != int(given):
        raise SlugError(f"“{name}” is a whole number.")
    return int(given)


def numbers(name: str, given: Any) -> list[float]:  # noqa: ANN401
    """A short list of finite numbers."""
    if not isinstance(given, list) or len(given) > STEPS:
        raise SlugError(f"“{name}” is a list of at most {STEPS} numbers.")
    return [number(name, one) for one in given]


CHECKS: dict[Any, Callable[[str, Any], Any]] = {
    str: text,
    float: number,
    int: whole,
    list[float]: numbers,
}


def asked(function: Callable) -> Callable:
    """The same function, which first checks what it is given by its own annotations."""
    signature = inspect.signature(function)

    @wraps(function)
    def checking(*given: Any, **named: Any) -> Any:  # noqa: ANN401
        try:
            bound = signature.bind(*given, **named)
        except TypeError as error:
            raise SlugError(f"This endpoint is asked otherwise: {error}.") from error
        for name, value in bound.arguments.items():
            check = CHECKS[signature.parameters[name].annotation]
            bound.arguments[name] = check(name, value)
        return function(*bound.args, **bound.kwargs)

    return checking


def _kind(given: Any) -> str:  # noqa: ANN401
    return "nothing" if given is None else f"a {type(given).__name__}"
