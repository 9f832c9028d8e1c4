"""README and docs are true: front matter, file tree, commands, options, links and snippets."""

import ast
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import click
import house
import pandas as pd
import pytest
import typer
import yaml
from huggingface_hub.utils import filter_repo_objects
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import app as page
from slugdemo import __main__ as cli
from slugdemo import catalog
from slugdemo.benchmark import tables
from slugdemo.methods import METHODS
from slugdemo.pocket import __main__ as pocket

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
DOCS = {path: path.read_text() for path in sorted((ROOT / "slugdemo" / "docs").glob("*.md"))}
TEXT = "\n".join([README, *DOCS.values()])
FRONT = yaml.safe_load(README.split("---\n")[1])
COLLAPSED = {"assets", "tests", "slugdemo/pocket"}  # one line for the whole folder


def blocks(language: str) -> list[str]:
    fenced = re.findall(r"^```(\w*)\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)
    return [text for name, text in fenced if name == language]


def commands() -> list[list[str]]:
    """Every command in the README, as words, but no remarks and no lines that only set variables."""
    lines = "".join(blocks("bash")).replace("\\\n", " ").splitlines()
    parts = [part for line in lines for part in line.split("&&")]
    found = [shlex.split(part, comments=True) for part in parts]
    return [words for words in found if not all(re.match(r"\w+=", word) for word in words)]


def tree() -> dict[str, str]:
    """The paths in the README's tree, with what is said of each."""
    found, folders = {}, []
    [drawn] = [block for block in blocks("") if block.startswith("app.py")]
    for line in drawn.splitlines():
        name, said = ([*line.split(maxsplit=1), ""])[:2]
        depth = (len(line) - len(line.lstrip())) // 2
        folders = [*folders[:depth], name.rstrip("/")]
        found["/".join(folders)] = said
    return found


def tracked() -> list[str]:
    """The files of the repository; without git, those that are no hidden ones and no caches."""
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode == 0 and listed.stdout:
        return [line for line in listed.stdout.splitlines() if (ROOT / line).exists()]
    files = [path.relative_to(ROOT) for path in ROOT.rglob("*") if path.is_file()]
    return [str(one) for one in files if not any(part[0] in "._" for part in one.parent.parts)]


def shown(path: str) -> str | None:
    """The line that stands for a file in the tree, None for what the tree leaves out."""
    if path.startswith(".") or path == "README.md":
        return None
    return next((one for one in COLLAPSED if path.startswith(f"{one}/")), path)


def test_the_file_tree_is_the_tree() -> None:
    there = {line for path in tracked() if (line := shown(path))}
    there |= {str(parent) for path in there for parent in list(Path(path).parents)[:-1]}
    named = tree()
    assert sorted(there - named.keys()) == [], "add a line to the file tree in README.md"
    assert sorted(named.keys() - there) == [], "gone, but still in the file tree in README.md"
    without = [path for path, said in named.items() if not said and not (ROOT / path).is_dir()]
    assert without == []


def test_the_front_matter_is_what_a_space_needs() -> None:
    required = dict(re.split(r"(?=[<>=])", line, maxsplit=1) for line in requirements())
    assert FRONT["sdk"] == "gradio"
    assert f"=={FRONT['sdk_version']}".rsplit(".", 1)[0] == required["gradio"].rsplit(".", 1)[0]
    assert (ROOT / FRONT["app_file"]).is_file()
    assert FRONT["python_version"] in ("3.11", "3.12", "3.13")
    assert len(FRONT["short_description"]) <= 60
    assert (ROOT / "LICENSE").read_text().startswith(f"{FRONT['license'].upper()} License")
    assert FRONT["models"] == [known.hub for known in catalog.KNOWN.values()]
    if thumbnail := FRONT.get("thumbnail"):
        assert any(thumbnail.endswith(path) for path in tracked())


def requirements() -> list[str]:
    return (ROOT / "requirements.txt").read_text().splitlines()


def test_every_requirement_has_an_upper_bound() -> None:
    for line in [*requirements(), *(ROOT / "tests" / "requirements.txt").read_text().splitlines()]:
        assert re.search(r",<\d|==\d+\.\d+\.\*", line), line


def test_what_is_installed_lies_within_the_bounds() -> None:
    for line in requirements():
        wanted = Requirement(line)
        assert metadata.version(wanted.name) in wanted.specifier, line


def test_every_package_that_is_imported_is_required() -> None:
    files = [*(ROOT / "slugdemo").rglob("*.py"), ROOT / "app.py"]
    tops = {name.split(".")[0] for file in files for name in imported(ast.parse(file.read_text()))}
    owners = metadata.packages_distributions()
    named = {canonicalize_name(Requirement(line).name) for line in requirements()}
    for top in (
        tops - sys.stdlib_module_names - {"slugdemo", "spaces", "ray", "pillow_heif"}
    ):  # and what may be absent
        assert {canonicalize_name(one) for one in owners[top]} & named, f"{top} is imported"


def imported(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module


@pytest.mark.parametrize("words", commands(), ids=" ".join)
def test_every_command_in_it_exists_with_its_options(words: list[str]) -> None:
    while "=" in words[0]:  # a variable for this command
        words = words[1:]
    program, *rest = words
    if program == "bash":
        assert (ROOT / rest[0]).is_file()
    elif program.endswith("pip") or rest[:2] == ["-m", "venv"]:
        assert all((ROOT / one).is_file() for one in rest if one.endswith(".txt"))
    elif rest and rest[0] == "app.py":
        known = page_options()
        assert {one for one in rest if one.startswith("-")} <= known
    elif program.endswith("/hf"):
        told = subprocess.run(
            [sys.executable, "-m", "huggingface_hub.cli.hf", rest[0], "--help"],
            capture_output=True,
            text=True,
        )
        assert told.returncode == 0, told.stderr
        assert [one for one in rest if one.startswith("--") and one not in told.stdout] == []
    elif rest[:1] == ["-m"] and (ROOT / f"{rest[1].replace('.', '/')}.py").is_file():
        assert rest[1].startswith("tests.")
    else:
        assert program.endswith("python"), words
        apps = {"slugdemo": cli.app, "slugdemo.pocket": pocket.app}
        takes(typer.main.get_command(apps[rest[1]]), rest[2:])


def takes(command: click.Command, words: list[str]) -> None:
    """Fails unless a command line program has these subcommands and options."""
    while hasattr(command, "commands") and words and not words[0].startswith("-"):
        assert words[0] in command.commands, words
        command, words = command.commands[words[0]], words[1:]
    known = {name for one in command.params for name in (*one.opts, *one.secondary_opts)}
    assert {word for word in words if word.startswith("-")} <= {*known, "--help"}, words


def page_options() -> set[str]:
    """The options of app.py."""
    single = typer.Typer()
    single.command()(page.main)
    return {name for option in typer.main.get_command(single).params for name in option.opts}


def test_every_command_of_the_command_line_is_named_in_it() -> None:
    group = typer.main.get_command(cli.app)
    assert [
        name for name in group.commands if f"`{name}`" not in TEXT and f" {name} " not in TEXT
    ] == []


def test_its_snippets_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All of them in their order, as a reader would run them, on tiny models."""
    monkeypatch.setenv("SLUGDEMO_ASSETS", str(house.build(tmp_path / "assets")))
    monkeypatch.setenv("SLUGDEMO_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mugs").mkdir()
    for at, picture in enumerate(house.pictures(4, seed=9)):
        picture.save(tmp_path / "mugs" / f"{at}.png")
    methods = dict(METHODS)
    names: dict[str, object] = {}
    for block in snippets():
        exec(compile(block, "README.md", "exec"), names)
    assert len(snippets()) >= 2
    METHODS.clear()
    METHODS.update(methods)
    assert names["task"].concept.name == "my mug"
    assert names["edit"].layer.startswith("vision/"), "the added method was not used"


def snippets() -> list[str]:
    """The Python in the README that needs no server."""
    return [block for block in blocks("python") if "gradio_client" not in block]


def test_the_upload_takes_every_file_and_no_environment() -> None:
    [words] = [words for words in commands() if words[1:2] == ["upload"]] or [[]]
    if not words:
        pytest.skip("no upload in the README")
    excluded = [words[at + 1] for at, word in enumerate(words) if word == "--exclude"]
    rubbish = [".venv/bin/python", ".pocket/log", "slugdemo/__pycache__/a.pyc", ".pytest_cache/v"]
    files = [*tracked(), *rubbish]
    assert {*filter_repo_objects(files, ignore_patterns=excluded)} == {*tracked()}


def test_python_snippets_are_formatted() -> None:
    code = "\n\n".join(blocks("python"))
    ruff = [sys.executable, "-m", "ruff", "check", "--select", "E,F", "--ignore", "E402,F811,F821"]
    done = subprocess.run([*ruff, "-"], input=code, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stdout


def test_its_tables_are_made_of_the_shipped_results(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLUGDEMO_ASSETS", str(ROOT / "assets"))
    frame = pd.read_parquet(ROOT / "assets" / "results.parquet")
    marks = ("methods pocket-sd", "methods pocket-clip", "attacks pocket-sd", "attacks pocket-clip")
    assert all(f"<!-- table: {mark} -->" in README for mark in marks)
    assert tables.filled(README, frame, catalog.names("style")) == README
