"""The reference is made from the package: every setting, command, module and public name is in it."""

import importlib.util
import json
import re

import lungadv
from lungadv.settings import PARTS
from lungadv.utils.files import repo_root

DOCS = repo_root() / "docs"
spec = importlib.util.spec_from_file_location("reference_pages", DOCS / "reference_pages.py")
pages = importlib.util.module_from_spec(spec)
spec.loader.exec_module(pages)


def test_every_setting_has_a_row_with_its_meaning_and_a_value_in_every_profile():
    text = pages.settings_tables()
    assert "| setting | meaning, unit | tiny | quick |" in text
    columns = text.splitlines()[4].count("|")
    for part, kind in PARTS.items():
        section = text.split(f"## {part}\n")[1].split("\n## ")[0]
        for name in kind.__dataclass_fields__:
            (row,) = re.findall(rf"^\| `{name}` \|.*$", section, re.MULTILINE)
            assert row.count("|") == columns and "|  |" not in row, row


def test_every_command_and_public_name_is_there():
    commands = pages.commands()
    for name in ("reproduce", "phantom", "ingest", "detect", "froc", "stress", "claims"):
        assert f"### `lungadv {name}`" in commands
    assert all(f"autofunction:: lungadv.{name}\n" in pages.front() for name in lungadv.__all__)


def test_every_room_of_the_reference_lists_its_modules():
    for page in (DOCS / "reference" / "packages").glob("*.md"):
        assert f"automodule:: lungadv.{page.stem}" in pages.modules(page.stem)


def test_a_docstring_is_shown_as_it_is_written():
    lines = ["Uses `eps` and *not* a_ | b, with `x_`."]
    pages.plain_docstring(None, "function", "f", None, None, lines)
    assert lines == [r"Uses ``eps`` and \*not\* a\_ \| b, with ``x_``."]


def test_directives_of_nbdev_are_not_shown():
    cells = [
        {"cell_type": "code", "source": ["#| default_exp a\n"]},
        {"cell_type": "code", "source": ["#| export\n", "x = 1  # | no\n", "y = 2"]},
    ]
    (cell,) = json.loads(pages.without_directives(json.dumps({"cells": cells})))["cells"]
    assert cell["source"] == "x = 1  # | no\ny = 2"
