"""Notebooks run by papermill: their parameters are checked by name, their progress is shown as whole lines."""

import ast
import json
import os
import re
import sys
import time
from pathlib import Path
from typing import TextIO

from lungadv.utils.errors import InputError
from lungadv.utils.processes import killed


def _tagged(path):
    cells = json.loads(Path(path).read_text(encoding="utf-8"))["cells"]
    return [cell for cell in cells if "parameters" in cell["metadata"].get("tags", [])]


def notebook_parameters(path: Path) -> dict:
    """The parameters of a notebook and their default values.

    Raises InputError unless exactly one cell is tagged `parameters` (papermill would pass over that in silence).
    """
    tagged = _tagged(path)
    if len(tagged) != 1:
        raise InputError(f"{path} has {len(tagged)} cells tagged 'parameters': tag exactly one, so that papermill can set them")
    return {
        target.id: ast.literal_eval(node.value)
        for node in ast.parse("".join(tagged[0]["source"])).body
        if isinstance(node, ast.Assign)
        for target in node.targets
    }


def check_parameters(path: Path, given: dict[str, str]) -> dict:
    """Texts from a command line as values of the types that the notebook's defaults have. Raises InputError for an unknown name."""
    defaults = notebook_parameters(path) if given else {}
    values = {}
    for name, text in given.items():
        if name not in defaults:
            raise InputError(f"{Path(path).name} has no parameter '{name}': it has {', '.join(defaults)}")
        kind = type(defaults[name])
        try:
            values[name] = kind(text)
        except ValueError:
            raise InputError(f"parameter {name}={text!r} of {Path(path).name} is not of type {kind.__name__}") from None
    return values


class ProgressLines:
    """A file that shows a step's output as whole lines under its name; progress bars become a line now and then."""

    encoding = "utf-8"  # tqdm asks for it before it draws

    def __init__(self, name: str, file: TextIO, seconds: float = 10.0):
        self.name, self.file, self.seconds = name, file, seconds
        self.rest, self.shown = "", time.monotonic()

    def write(self, text: str) -> None:
        """Show the whole lines of a text; what follows the last one waits."""
        *lines, self.rest = re.split(r"(?<=[\r\n])", self.rest + text)
        for line in lines:
            bar = line.endswith("\r")
            if line.strip() and (not bar or time.monotonic() - self.shown > self.seconds):
                self.shown = time.monotonic()
                print(f"[{self.name}] {line.strip()}", file=self.file, flush=True)

    def flush(self) -> None:
        """Flush the file behind."""
        self.file.flush()


def run_notebook(path: Path, out: Path, given: dict[str, str], threads: int = 1) -> None:
    """Run a notebook with papermill, `given` parameters as text, keeping the executed notebook at `out` as its log."""
    sys.modules.setdefault("rfc3987_syntax", None)  # a grammar of web addresses: jsonschema does without, and it takes a second to load
    import papermill
    from nbclient.exceptions import DeadKernelError

    path, out = Path(path), Path(out)
    values = check_parameters(path, given)
    out.parent.mkdir(parents=True, exist_ok=True)
    # For the kernel: as many threads as the step always has, whatever --cores says, the same order of sets each time, and nobody watching.
    os.environ |= {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads), "PYTHONHASHSEED": "0", "LUNGADV_HEADLESS": "1"}
    lines = ProgressLines(out.stem, sys.stderr)
    try:
        papermill.execute_notebook(
            str(path),
            str(out),
            values,
            kernel_name="python3",
            language="python",
            progress_bar=False,
            stderr_file=lines,  # progress and messages; what a notebook prints for its reader stays in it
            start_timeout=300,
            extra_arguments=["--IPKernelApp.log_level=CRITICAL"],  # else each kernel warns that it speaks over TCP
            cwd=str(path.parent),
        )
    except DeadKernelError:
        raise killed(f"{path.name}: its kernel", f"close other programs and call again (what it had done: {out})") from None
    except papermill.PapermillExecutionError as error:
        message = error.evalue if error.ename == "InputError" else f"{error.ename} {error.evalue} in cell {error.cell_index}"
        raise InputError(f"{path.name} stopped: {message} (the whole story: {out})") from None
