"""Up to which step the concept stays in each picture, found with as few looks as possible.

Knows numbers of pictures and steps; knows no model, no names and no pixels.
"""

from collections.abc import Callable, Sequence

import numpy as np

from slugdemo.search import Score

PROBES = 3  # pictures that are looked at first
Look = Callable[[Sequence[int], float], np.ndarray]


class Fading:
    """At which steps of one edit each of N pictures still shows the concept, as far as is known.

    A picture that shows it at one step is taken to show it at every smaller one, and a picture
    that does not at every larger one, so that neither is looked at again. `look(which, strength)`
    says of pictures, by their numbers, which show it: booleans. Up to `allowed` of them may.
    """

    def __init__(self, count: int, allowed: int, look: Look) -> None:
        self._there = np.full(count, -np.inf)  # the largest step at which it was there
        self._gone = np.full(count, np.inf)  # the smallest at which it was not
        self._allowed, self._look = allowed, look

    def score(self, strength: float) -> Score:
        """The share that shows it, of the pictures that are known at this step.

        Those in which it lasted longest are looked at first, and no more than it takes to see that
        more than the allowed show it.
        """
        there = self._there >= strength
        unknown = np.flatnonzero(~there & (self._gone > strength))
        unknown = unknown[np.argsort(-self._there[unknown], kind="stable")]
        for which in (unknown[:PROBES], unknown[PROBES:]):
            if len(which) and there.sum() <= self._allowed:
                shows = self._look(which.tolist(), strength)
                there[which] = shows
                self._there[which[shows]] = np.maximum(self._there[which[shows]], strength)
                self._gone[which[~shows]] = np.minimum(self._gone[which[~shows]], strength)
        known = int((there | (self._gone <= strength)).sum())
        return Score(strength, there.sum() / known, float("nan"), known, 0)
