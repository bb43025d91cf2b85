"""README.md and the pages of docs/, their tables filled from the committed results."""

import json
import re
from pathlib import Path

from lungadv.pipeline import result_tables
from lungadv.pipeline.cost import cost_markdown
from lungadv.pipeline.outputs import SHOWN_PROFILE
from lungadv.utils.files import atomic_write, repo_root

__all__ = ["PARTS", "fill", "render"]

PARTS = {  # what stands after <!-- name -->
    "calibration": result_tables.calibration,
    "cost": lambda folder: cost_markdown(_of_quick(folder)),
    "counts": result_tables.ledger_counts,
    "counts_quick": lambda folder: result_tables.ledger_counts(_of_quick(folder)),
    "gates": result_tables.gates,
    "headlines": result_tables.headlines,
    "ledger": result_tables.ledger,
    "misses": result_tables.misses,
    "real": result_tables.real_scan,
    "seed": result_tables.seed,
    "table1": result_tables.table1,
    "table2": result_tables.table2_of_the_paper,
    "table2_all": result_tables.table2,
    "time": lambda folder: cost_markdown(_of_quick(folder)).split("\n")[0],
    "traps": result_tables.traps,
}


def _of_quick(folder):
    """The results of the small run, beside those that are shown."""
    return folder.parent / "quick"


def render(root: Path | None = None) -> None:
    """Write README.md, the text of nbs/index.ipynb, and fill the pages of docs/, from the results of SHOWN_PROFILE."""
    root = root or repo_root()
    figures = root / "figures" / SHOWN_PROFILE
    cells = json.loads((root / "nbs" / "index.ipynb").read_text(encoding="utf-8"))["cells"]
    text = "\n\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")
    text = re.sub(r"\]\(\.\./", "](", text)  # seen from the root: pictures ...
    text = re.sub(r"\]\((\d\d\w*_\w+\.ipynb)", r"](nbs/\1", text)  # ... and notebooks
    _write(root / "README.md", fill(text, figures).rstrip() + "\n")
    for page in sorted((root / "docs").rglob("*.md")):
        if "_build" not in page.parts:
            up = "../" * len(page.relative_to(root).parent.parts)
            _write(page, fill(page.read_text(encoding="utf-8"), figures, up))


def fill(text: str, folder: Path, up: str = "") -> str:
    """The text with each part between <!-- name --> and <!-- end of name --> made anew from a folder of results.

    The second marker is added where it is missing. `up` leads from the text to the root, for links.
    """

    def part(match):
        name = match[1]
        if name not in PARTS:
            return match[0]
        made = re.sub(r"\]\((?=nbs/|docs/|figures/)", f"]({up}", PARTS[name](folder))
        return f"<!-- {name} -->\n\n{made}\n\n<!-- end of {name} -->"

    return re.sub(r"<!-- (\w+) -->(?:.*?<!-- end of \1 -->)?", part, text, flags=re.DOTALL)


def _write(path, text):
    """Replace a file, unless it says the same already."""
    if not path.exists() or path.read_text(encoding="utf-8") != text:
        with atomic_write(path) as temporary:
            temporary.write_text(text, encoding="utf-8")
