"""Outputs of a run, kept in the committed notebooks: cleaned so that two runs of the same code differ only where results do."""

import base64
import io
import json
import re
from pathlib import Path

from PIL import Image

from lungadv.data.kinds import CUBES, kind_of
from lungadv.pipeline.notebooks import run_notebook
from lungadv.pipeline.runs import Run
from lungadv.pipeline.steps import CUBE_STEPS, STEPS, steps_of
from lungadv.utils.errors import InputError
from lungadv.utils.files import atomic_write, repo_root

SHOWN_PROFILE = "standard"  # the notebooks and the README show a run of this profile
LARGEST_BYTES = 2**20  # of a committed notebook

UNSTABLE = re.compile(
    r"it/s\]|s/it\]|\d+%\|"  # progress bars
    r"|Warning\b"
    r"|Traceback \(most recent call last\)"
    r"|(?<![\w.])/(?:home|root|tmp|usr|var|work|Users|private|opt)/"  # paths of a machine
    r"|\bat 0x[0-9a-f]+"  # addresses of objects
)


def keep_outputs(run: Run) -> list[Path]:
    """Copy the outputs of a finished run into nbs/; a notebook that no step runs is run here, as it opens.

    Of a run on nodule cubes they are those of the notebooks that no other run has, which runs on scans leave as they are.
    Returns the notebooks. Raises InputError when a notebook was not run, has changed since, or its outputs cannot be committed.
    """
    contents = {}
    of_cubes = {step.notebook for step in CUBE_STEPS} - {step.notebook for step in STEPS}
    for path in sorted((repo_root() / "nbs").glob("[0-9]*.ipynb")):
        if (path.stem in of_cubes) != (kind_of(run.data) == CUBES):
            continue
        executed = _executed(run, path)
        content = say_terms(with_outputs(_read(path), _read(executed), path.name), _terms(run, path))
        for problem in output_problems(content):
            raise InputError(f"{path.name}: {problem}")
        contents[path] = content
    for path, content in contents.items():  # all or none
        write_notebook(path, content)
    return list(contents)


def _executed(run, path):
    """The executed notebook of a run; made now where the pipeline has no step for it."""
    steps = [step for step in steps_of(run) if step.notebook == path.stem]
    executed = run.path("notebooks", f"{steps[0].name if steps else path.stem}.ipynb")
    if not steps:
        run_notebook(path, executed, {})
    if not executed.exists():
        raise InputError(f"{executed} is missing: finish `make reproduce` with the same terms before `make accept`")
    return executed


def _terms(run, path):
    """What the outputs of a notebook are of: profile, seed, strategy where there is one, and commit."""
    steps = [step for step in steps_of(run) if step.notebook == path.stem]
    stage = steps[0].stage if steps and steps[0].stage else "claims"  # the last stage tells of a notebook without one
    commit = _read(run.path(stage, "provenance.json"))["commit"] or "unknown"
    strategy = [f"strategy {value}" for step in steps for name, value in step.parameters.items() if name == "strategy"]
    return ", ".join([f"profile {run.profile}", f"seed {run.seed}", *strategy, f"commit {commit[:7]}"])


def say_terms(notebook: dict, terms: str) -> dict:
    """The notebook, its parameters followed by what the kept outputs are of: the parameters themselves are those of tiny size."""
    output = {"output_type": "stream", "name": "stdout", "text": [f"The outputs below are of: {terms}.\n"]}
    tagged = [{**cell, "outputs": [output]} if "parameters" in cell["metadata"].get("tags", []) else cell for cell in notebook["cells"]]
    return notebook | {"cells": tagged}


def _read(path):
    return json.loads(Path(path).read_text(encoding="utf-8"))


def with_outputs(notebook: dict, executed: dict, name: str) -> dict:
    """The notebook's cells with the cleaned outputs of the executed one, matched by cell id.

    Raises InputError when a code cell differs from the one that was executed.
    """
    ran = {cell.get("id"): cell for cell in executed["cells"]}
    cells = []
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            other = ran.get(cell.get("id"))
            if other is None or "".join(other["source"]) != "".join(cell["source"]):
                raise InputError(f"{name} has changed since the run: `make reproduce` with the same terms first")
            cell = cell | {"outputs": clean_outputs(other["outputs"]), "execution_count": None}
        cells.append(cell)
    return notebook | {"cells": cells}


def write_notebook(path: Path, content: dict) -> None:
    """Write a notebook as nbdev writes it, so that cleaning changes nothing."""
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(content, sort_keys=True, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def clean_outputs(outputs: list[dict]) -> list[dict]:
    """Outputs for a reader: pictures, tables and printed text; no messages on stderr, no counters, no metadata."""
    cleaned = []
    for output in outputs:
        if output["output_type"] == "stream" and output["name"] == "stderr":
            continue
        output = {key: value for key, value in output.items() if key not in ("execution_count", "metadata", "transient")}
        if output["output_type"] in ("display_data", "execute_result"):
            output |= {"metadata": {}}
            if output["output_type"] == "execute_result":
                output["execution_count"] = None
            if "image/png" in output["data"]:
                output["data"] = {"image/png": smaller_picture(output["data"]["image/png"])}
        cleaned.append(output)
    return cleaned


def smaller_picture(png: str) -> str:
    """A picture, PNG in base64, in a third to a half of the bytes: grey ones as they are, others with a palette of 256 colours."""
    smaller = io.BytesIO()
    with Image.open(io.BytesIO(base64.b64decode(png))) as picture:
        if picture.mode in ("L", "P"):  # is small already
            return png.strip()
        colours = picture.convert("RGB")
    red, green, blue = (channel.tobytes() for channel in colours.split())
    few = colours.convert("L") if red == green == blue else colours.quantize(256, dither=Image.Dither.NONE)
    few.save(smaller, "PNG", optimize=True)
    return base64.b64encode(smaller.getvalue()).decode()


def output_problems(notebook: dict) -> list[str]:
    """Why a notebook's outputs should not be committed, in words; empty when they may be."""
    problems = []
    for number, cell in enumerate(notebook["cells"]):
        for output in cell.get("outputs", []):
            if found := UNSTABLE.search(_text(output)):
                problems.append(f"cell {number} shows '{found[0]}': print what a reader needs, not paths, progress or warnings")
    size = len(json.dumps(notebook))
    if size > LARGEST_BYTES:
        problems.append(f"it would have {size / 2**20:.1f} MiB with its outputs, more than 1: draw fewer or smaller pictures")
    return problems


def _text(output):
    """What an output says in words; pictures apart."""
    if output["output_type"] == "error":
        return "Traceback (most recent call last)"
    data = output.get("data", {"text/plain": output.get("text", "")})
    return "\n".join("".join(text) for kind, text in data.items() if kind.startswith("text/"))
