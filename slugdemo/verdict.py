"""What attacks on one edit have shown, in a sentence. Knows rows and the names of attacks."""

from collections.abc import Mapping, Sequence

from slugdemo import attacks
from slugdemo.results import Result

KNOWN = 0.5  # of the tries on the original: an attack that succeeds more seldom proves nothing
COUNTED = ("prompt", "search", "vector", "adversary", "probe")  # attacks that take an article


def summary(rows: Sequence[Result]) -> str:
    """What attacks on one edit have shown, in a sentence: what held, and what brings it back.

    Takes rows of `attack` of one concept and edit. The original and the reference are named where
    they say something; an attack that fails on the original says nothing, and the rate before
    any attack comes first where it is not zero. "" without an attack on the edited model.
    """
    on = {(row.attack, row.on): row for row in rows if row.metric == "success" and row.n}
    tried = {name: row for (name, where), row in on.items() if where == "edited"}
    if not tried:
        return ""
    moot = [n for n in tried if (n, "original") in on and on[n, "original"].value < KNOWN]
    fair = {name: row for name, row in tried.items() if name not in moot}
    back = sorted((n for n in fair if fair[n].value), key=lambda n: -fair[n].value)
    parts = [f"gone for {_listed([n for n in fair if n not in back])}"] if {*fair} - {*back} else []
    parts += [_back(name, on) for name in back]
    said = "; ".join(parts)
    moots = (
        f"{n} {'say' if _many(n) else 'says'} nothing: {_tries(on[n, 'original'])} on the original"
        for n in moot
    )
    said = "; ".join(part for part in (said, *moots) if part)
    before = [
        row for row in rows if row.metric == "before attack" and row.on == "edited" and row.value
    ]
    first = f"Before any attack it is there in {_tries(before[0])}. " if before else ""
    reasons = dict.fromkeys(r.note for r in rows if r.on == "reference" and not r.n and r.note)
    return " ".join([f"{first}{said[:1].upper()}{said[1:]}.", *reasons])


def _tries(row: Result) -> str:
    return f"{round(row.value * row.n)} of {row.n} tries"


def _listed(names: Sequence[str]) -> str:
    """Attacks that failed: those in words alone are words."""
    words = [name for name in names if attacks.ATTACKS[name].group == "words"]
    others = [name for name in names if name not in words]
    return " and ".join([*(["words"] if words else []), *others])


def _many(name: str) -> bool:
    return name.endswith("s") and attacks.ATTACKS[name].group in ("words", "images")


def _back(name: str, on: Mapping[tuple[str, str], Result]) -> str:
    """As in "a soft prompt brings it back in 9 of 12 tries, on the original in 11 of 12"."""
    many = _many(name)
    verbs = {True: ("bring it back", "still find it"), False: ("brings it back", "still finds it")}
    verb = verbs[many][attacks.ATTACKS[name].group == "inside"]
    article = "a " if name.split(",")[0].split(" at ")[0].split()[-1] in COUNTED else ""
    said = f"{article}{name} {verb} in {_tries(on[name, 'edited'])}"
    ceiling, floor = on.get((name, "original")), on.get((name, "reference"))
    if ceiling and ceiling.value < 1:
        said += f", on the original in {_tries(ceiling).removesuffix(' tries')}"
    if floor:
        said += f", on the model that never saw it in {_tries(floor).removesuffix(' tries')}"
    return said
