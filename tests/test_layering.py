"""The house stands: imports point down, siblings are strangers, files stay small."""

import ast
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
HOUSE = ROOT / "slugdemo"
LINES = 300

# Each line may import from the lines above it only; a name ending in "." is a folder.
FLOORS = [
    ["torchvision_ops", "errors", "cost", "public"],
    ["weights", "concept", "metrics", "pictures", "inventory"],
    ["towers", "edit", "hosts.names"],
    ["clip"],
    ["gradients"],
    ["layers"],
    ["search"],
    ["hosts.watch"],
    ["hosts.prompts", "hosts.gallery", "hosts.tower"],
    ["hosts.", "methods.slug", "judge", "examples", "export"],
    ["methods.", "catalog", "evaluate.material", "zerogpu"],
    ["loading", "evaluate."],
    ["evaluate"],
    ["world", "setting"],
    ["study"],
    ["report"],
    ["bench", "bench.figures", "bench.ledger", "bench.naive"],
    ["bench.speed"],
    ["bench.quality"],
    ["ui."],
    ["cli", "cli.options"],
    ["cli."],
    ["__main__"],
    ["app"],
]
STRANGERS = {"gradio": "ui.", "diffusers": "hosts.diffusion"}


def floor(module: str) -> int:
    """The floor of a module such as "hosts.names"; the most exact entry counts."""
    exact = [number for number, names in enumerate(FLOORS) if module in names]
    folder = module.split(".")[0] + "."
    return (exact or [number for number, names in enumerate(FLOORS) if folder in names])[0]


def modules() -> dict[str, Path]:
    found = {}
    for path in sorted(HOUSE.rglob("*.py")):
        name = ".".join(path.relative_to(HOUSE).with_suffix("").parts)
        name = name.removesuffix(".__init__")
        found["." if name == "__init__" else name] = path
    if (ROOT / "app.py").exists():
        found["app"] = ROOT / "app.py"
    return found


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
            names |= {one if is_module(one) else str(node.module) for one in inner}
    return names


def is_module(dotted: str) -> bool:
    return dotted.startswith("slugdemo.") and dotted.removeprefix("slugdemo.") in MODULES


def ours(path: Path) -> set[str]:
    return {name.removeprefix("slugdemo.") for name in imports(path) if is_module(name)}


@pytest.mark.parametrize("name", UPSTAIRS)
def test_imports_only_point_down(name: str) -> None:
    for other in ours(MODULES[name]) - {name}:
        if other.split(".")[0] == name == "methods":
            continue  # the dict of methods names its methods
        same_folder = "." in name and "." in other and name.split(".")[0] == other.split(".")[0]
        if same_folder and name.startswith("ui."):
            continue  # the page is one room
        assert floor(other) < floor(name), f"{name} imports {other}"


@pytest.mark.parametrize("name", UPSTAIRS)
def test_nobody_imports_the_pocket_or_the_page_from_below(name: str) -> None:
    assert not [other for other in ours(MODULES[name]) if other.split(".")[0] == "pocket"]


@pytest.mark.parametrize("name", [name for name in MODULES if name != "."])
def test_only_the_page_knows_gradio_and_only_one_host_diffusers(name: str) -> None:
    known = {top.split(".")[0] for top in imports(MODULES[name])}
    for library, home in STRANGERS.items():
        at_home = f"{name}.".startswith(home) or name == home or name.startswith("pocket")
        if library == "gradio":
            at_home = f"{name}.".startswith(home) or name == "app"
        assert library not in known or at_home, f"{name} imports {library}"
    if name.startswith("pocket"):
        assert not [other for other in ours(MODULES[name]) if other.startswith("ui")]


@pytest.mark.parametrize("name", list(MODULES))
def test_a_module_fits_on_a_few_screens_and_says_what_it_knows(name: str) -> None:
    assert len(MODULES[name].read_text().splitlines()) <= LINES
    assert ast.get_docstring(parsed(MODULES[name])[0]), f"{name} has no docstring"


@pytest.mark.parametrize("name", list(MODULES))
def test_a_function_fits_on_a_screen_and_prints_nothing(name: str) -> None:
    for node in parsed(MODULES[name]):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno - node.lineno < 60, f"{name}.{node.name}"
        if isinstance(node, ast.Call) and name.split(".")[0] not in ("pocket", "__main__"):
            assert getattr(node.func, "id", "") != "print", f"{name} prints"


def test_the_map_of_the_house_names_every_room() -> None:
    plan = (HOUSE / "__init__.py").read_text()
    for name in MODULES:
        if name.split(".")[0] in ("pocket", "ui", ".", "app", "") or "." in name:
            continue
        assert f"{name}.py" in plan or f"{name}/" in plan or name == "torchvision_ops", name
