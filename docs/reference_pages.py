"""The parts of the reference that are made from the package itself when the site is built."""

import configparser
import dataclasses
import importlib
import inspect
import json
import pkgutil
import re
import subprocess
import sys

import pandas as pd

import lungadv
from lungadv import settings
from lungadv.pipeline.result_tables import table_markdown
from lungadv.utils.files import repo_root

FIELD = re.compile(r"^ {4}(\w+): [^#\n]+?(?:  # (.*))?$", re.MULTILINE)


def fill_page(app, page, source):
    """Sphinx's event source-read: put what a marker names in its place."""
    if page.startswith("nbs/"):
        source[0] = without_directives(source[0])
    if not page.startswith("docs/reference/"):
        return
    text = source[0]
    for marker, make in {"front": front, "commands": commands, "settings": settings_tables}.items():
        if f"<!-- {marker} -->" in text:
            text = text.replace(f"<!-- {marker} -->", make())
    source[0] = re.sub(r"<!-- modules of (\w+) -->", lambda found: modules(found[1]), text)


def without_directives(notebook: str) -> str:
    """A notebook's JSON without nbdev's comments, such as `#| export`, and without cells that have nothing else."""
    content = json.loads(notebook)
    for cell in content["cells"]:
        cell["source"] = re.sub(r"^#\|.*\n?", "", "".join(cell["source"]), flags=re.MULTILINE)
    content["cells"] = [cell for cell in content["cells"] if cell["source"].strip()]
    return json.dumps(content)


def front() -> str:
    """The public names, in their order."""
    return "\n\n".join(_directive(f"autofunction:: lungadv.{name}") for name in lungadv.__all__)


def modules(room: str) -> str:
    """The modules of a room, each with its public names."""
    names, package = [f"lungadv.{room}"], importlib.import_module(f"lungadv.{room}")
    if hasattr(package, "__path__"):
        found = pkgutil.walk_packages(package.__path__, f"{package.__name__}.")
        names = [module.name for module in found if not module.ispkg]
    return "\n\n".join(f"## {name}\n\n{_directive(f'automodule:: {name}', '   :members:')}" for name in names)


def _directive(*lines):
    return "\n".join(["```{eval-rst}", f".. {lines[0]}", *lines[1:], "```"])


def commands() -> str:
    """The commands with their arguments and options, as typer documents them."""
    command = [sys.executable, "-m", "typer", "lungadv.cli", "utils", "docs", "--name", "lungadv"]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return re.sub(r"^#", "##", text.replace("```console", "```text"), flags=re.MULTILINE)


def settings_tables() -> str:
    """One table a part: the meaning of each setting, with its unit, and its value in every profile."""
    parser = configparser.ConfigParser()
    parser.read(repo_root() / "settings.ini", encoding="utf-8")
    loaded = {profile: dataclasses.asdict(settings.load_settings(profile)) for profile in parser["profiles"]}
    parts = []
    for part, kind in settings.PARTS.items():
        meanings = dict(FIELD.findall(inspect.getsource(kind)))
        rows = [{"setting": f"`{name}`", "meaning, unit": meanings[name]} for name in meanings]
        for row, name in zip(rows, meanings, strict=True):
            row |= {profile: str(loaded[profile][part][name]) for profile in loaded}
        parts.append(f"## {part}\n\n{inspect.getdoc(kind)}\n\n{table_markdown(pd.DataFrame(rows))}")
    return "\n\n".join(parts)


def plain_docstring(app, what, name, thing, options, lines):
    """Sphinx's event autodoc-process-docstring: docstrings are plain sentences with Markdown's code, not reStructuredText."""
    text = "\n".join(lines)
    text = re.sub(r"(?<!`)`([^`\n]+)`(?!`)", r"``\1``", text)
    parts = re.split(r"(``[^`]+``)", text)
    parts[::2] = [re.sub(r"([*|\\]|(?<=\w)_(?!\w))", r"\\\1", part) for part in parts[::2]]
    lines[:] = "".join(parts).split("\n")
