"""The house stands: no cycles, imports point down, siblings are strangers, modules say what they know."""

import ast
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
HOUSE = ROOT / "slugdemo"

# Each floor may import from itself and from the floors above it in this list, never from below.
FLOORS = {
    "values": "",  # every module at the top of the package that is named nowhere else
    "models": "models.",
    "evaluation": "evaluation.",
    "task": "config task recording training unet_training closed_form text_projections clip_projections",
    "methods": "methods. attacks.",
    "experiment": "results experiment inside ladder many verdict",
    "benchmark": "benchmark.",
    "doors": "ui. cli. __main__ app",
}
STRANGERS = {"gradio": "ui.", "diffusers": "models.diffusion"}
FOLDERS_OF_SIBLINGS = ("methods", "attacks")


def floor(module: str) -> int:
    """The floor of a module such as "models.names", from 0."""
    for number, names in enumerate(FLOORS.values()):
        for name in names.split():
            if module == name or (f"{module}.".startswith(name) and name.endswith(".")):
                return number
    return 0


def modules() -> dict[str, Path]:
    found = {}
    for path in sorted(HOUSE.rglob("*.py")):
        name = ".".join(path.relative_to(HOUSE).with_suffix("").parts)
        name = name.removesuffix(".__init__")
        found["." if name == "__init__" else name] = path
    return found | {"app": ROOT / "app.py"}


MODULES = modules()
UPSTAIRS = [name for name in MODULES if name != "." and name.split(".")[0] != "pocket"]


@cache
def parsed(path: Path) -> list[ast.AST]:
    """Every node of a file, the module itself first."""
    return list(ast.walk(ast.parse(path.read_text())))


@cache
def imports(path: Path) -> set[str]:
    """Every module that a file imports anywhere in it, with dotted names of what is ours."""
    names: set[str] = set()
    for node in parsed(path):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} has a relative import"
            inner = [f"{node.module}.{alias.name}" for alias in node.names]
            names |= {name if is_module(name) else str(node.module) for name in inner}
    return names


def is_module(dotted: str) -> bool:
    return dotted.startswith("slugdemo.") and dotted.removeprefix("slugdemo.") in MODULES


def ours(path: Path) -> set[str]:
    return {name.removeprefix("slugdemo.") for name in imports(path) if is_module(name)}


@pytest.mark.parametrize("name", UPSTAIRS)
def test_imports_only_point_down(name: str) -> None:
    lower = [*FLOORS].index("task")
    for other in ours(MODULES[name]) - {name}:
        if floor(name) < lower and floor(other) < lower:
            continue  # among these only cycles are forbidden
        assert floor(other) <= floor(name), f"{name} imports {other}"


def test_there_is_no_cycle() -> None:
    waiting = {name: ours(MODULES[name]) - {name, "."} for name in UPSTAIRS}
    while waiting:
        free = [name for name, needed in waiting.items() if not needed & waiting.keys()]
        assert free, f"a cycle among {sorted(waiting)}"
        for name in free:
            del waiting[name]


@pytest.mark.parametrize("name", [n for n in UPSTAIRS if n.split(".")[0] in FOLDERS_OF_SIBLINGS])
def test_methods_and_attacks_are_strangers_to_each_other(name: str) -> None:
    folder = name.split(".")[0]
    if name == folder:
        return  # the registry names them all
    shared = {f"{folder}.{folder.removesuffix('s')}"}
    others = {other for other in ours(MODULES[name]) if other.split(".")[0] in FOLDERS_OF_SIBLINGS}
    assert others <= shared, f"{name} imports {others - shared}"


@pytest.mark.parametrize("name", [name for name in UPSTAIRS if name.startswith("ui.")])
def test_no_two_modules_of_the_page_import_each_other(name: str) -> None:
    back = {other for other in ours(MODULES[name]) if name in ours(MODULES[other])}
    assert back == set()


@pytest.mark.parametrize("name", UPSTAIRS)
def test_nobody_imports_the_pocket_or_the_page_from_below(name: str) -> None:
    assert not [other for other in ours(MODULES[name]) if other.split(".")[0] == "pocket"]
    if name.split(".")[0] not in ("ui", "app"):
        assert not [other for other in ours(MODULES[name]) if other.split(".")[0] == "ui"]


@pytest.mark.parametrize("name", [name for name in MODULES if name != "."])
def test_only_the_page_knows_gradio_and_only_one_model_diffusers(name: str) -> None:
    known = {top.split(".")[0] for top in imports(MODULES[name])}
    for library, home in STRANGERS.items():
        at_home = f"{name}.".startswith(home) or name == home or name.startswith("pocket")
        if library == "gradio":
            at_home = f"{name}.".startswith(home) or name == "app"
        assert library not in known or at_home, f"{name} imports {library}"


@pytest.mark.parametrize("name", list(MODULES))
def test_a_module_says_what_it_knows_and_prints_nothing(name: str) -> None:
    assert ast.get_docstring(parsed(MODULES[name])[0]), f"{name} has no docstring"
    for node in parsed(MODULES[name]):
        if isinstance(node, ast.Call) and name.split(".")[0] not in ("pocket", "__main__"):
            assert getattr(node.func, "id", "") != "print", f"{name} prints"


RETIRED = [
    "exam",
    "glance",
    "material",
    "eyes",
    "lot",
    "shelf",
    "relief",
    "wires",
    "Shop",
    "Desk",
    "Lane",
    "Study",
    "Setting",
    "Outcome",
]


@pytest.mark.parametrize("name", list(MODULES))
def test_retired_words_are_no_names(name: str) -> None:
    """Words of the first edition that nobody else uses."""
    names = {name.split(".")[-1]}
    for node in parsed(MODULES[name]):
        names |= {getattr(node, key) for key in ("id", "attr", "arg", "name") if hasattr(node, key)}
    assert not names & {*RETIRED}
