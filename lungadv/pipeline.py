"""From notebooks to results: what the Snakefile runs, and what is done with a finished run.

The pipeline has one step a notebook (the strategies share one notebook, run once each). Snakemake orders the
steps; each is `python -m lungadv.pipeline notebook ...`, which checks the notebook's parameters, runs it with
papermill and shows its progress. A finished run is compared with the committed results (`compare_expected`),
becomes them (`accept`), and fills the README (`render_readme`).
"""

import argparse
import ast
import fcntl
import glob
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from contextlib import contextmanager, redirect_stderr, suppress
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd
import psutil

from lungadv import runs
from lungadv.runs import InputError

# What needs torch is imported where it is used: this module starts every notebook, and torch takes seconds.


@dataclass(frozen=True)
class Step:
    """One rule of the pipeline: a notebook (or a stage without one), the stage it builds and the figures it draws."""

    name: str
    notebook: str | None = None
    stage: str | None = None
    figures: tuple = ()
    parameters: dict = field(default_factory=dict)
    reads: tuple = ()  # data files, as patterns from the repository's root

    @property
    def threads(self):
        return runs.STAGES[self.stage].threads if self.stage else 1

    @property
    def needs(self):
        return runs.STAGES[self.stage].needs if self.stage else ()


def _step(notebook, stage=None, figures=(), **more):
    return Step(notebook, notebook, stage, figures, **more)


def _pngs(*numbers):
    return tuple(f"fig{number:02d}.png" for number in numbers)


NOTEBOOK_STEPS = (
    _step("00_two_moons", "two_moons", _pngs(1, 7)),
    _step("04_phantom", figures=("phantom_layers.png", "phantom.png", "gates.csv")),
    _step("05_scanner", figures=("scanner.png", "artefacts.png")),
    _step("06_datasets", "datasets", ("table1.csv",), reads=("data_manifests/*",)),
    _step("07_synthesizer", "synthesizer", _pngs(4)),
    _step("08_candidates", "candidates", _pngs(3)),
    *(Step(f"09_fpr-{name}", "09_fpr", f"fpr/{name}", parameters={"strategy": name}) for name in runs.STRATEGIES),
    _step("10_banks", "banks", _pngs(2, 5, 6, 8)),
    _step(
        "11_benchmarks",
        "benchmarks",
        ("table2.csv", "froc.png", "difficulty.png", "learning.png", "calibration.png", "uncertainty.png"),
        reads=("lungadv/data/table2.csv",),
    ),
    _step("12_stress_tests", "stress", _pngs(*range(9, 15))),
    _step("13_claims", "claims", ("claims.csv",), reads=("lungadv/data/*.csv",)),
)
STEPS = (  # a stage that no notebook tells of is built by its module alone
    *NOTEBOOK_STEPS,
    *(Step(name, stage=name) for name in runs.STAGES if name not in {step.stage for step in NOTEBOOK_STEPS}),
)
BUDGET = {  # minutes of computing that the quick profile may take on 2 cores; one-thread steps in a row run two at a time
    ("06_datasets",): 1.6,
    ("08_candidates",): 1.9,
    ("patches", "outline"): 0.9,
    ("07_synthesizer", *(f"09_fpr-{name}" for name in ("baseline-ce", "baseline-beta", "baseline-beta-finetune"))): 2.6,
    ("09_fpr-control-ce", "09_fpr-control-beta", "09_fpr-control", "09_fpr-beta+online"): 1.4,
    ("00_two_moons", "04_phantom", "05_scanner"): 0.4,
    ("10_banks",): 1.1,
    tuple(f"09_fpr-{name}" for name in ("beta+syn-random", "beta+syn", "beta+perturb", "beta+perturb+syn")): 1.4,
    ("11_benchmarks",): 1.0,
    ("12_stress_tests",): 3.7,
    ("13_claims",): 0.1,
}
STARTING = "starting notebooks, drawing, waiting"
BUDGET_STARTING = 3.9  # minutes on top of the computing


def present():
    """The steps of a run: all, but a picture of the simulator alone only where its notebook has an experiment."""
    return [step for step in STEPS if step.stage or has_parameters(step)]


def waiting(step):
    """How many stages wait for this step, directly or not: of the steps that could start, the one with most goes first.

    A step without a stage, for which none waits, goes before the controls: while steps of one thread run, there is a core for it.
    """
    if not step.stage:
        return 1 + max(waiting(Step(name, stage=name)) for name in ("fpr/control-ce", "fpr/control-beta", "fpr/control"))
    behind, found = {step.stage} if step.stage else set(), set()
    while behind:
        behind = {name for name, stage in runs.STAGES.items() if behind & set(stage.needs)} - found
        found |= behind
    return len(found)


def outputs(step):
    """What a step makes, as paths in the run's folder."""
    stage = [f"{step.stage}/provenance.json"] if step.stage else []
    return stage + [f"figures/{name}" for name in step.figures]


# What a step is made of: when any of it changes, Snakemake makes the step again.


def notebook_path(step):
    """The notebook of a step, or None."""
    return step.notebook and runs.repo_root() / "nbs" / f"{step.notebook}.ipynb"


def sources(step):
    """The files a step's results follow from: its notebook, every module of the package that this imports, its data."""
    root = runs.repo_root()
    if step.notebook:
        found, code = {notebook_path(step)}, notebook_code(notebook_path(step))
    else:
        found, code = set(), f"import {runs.STAGES[step.stage].build.split(':')[0]}"
    unread = _imported(code)
    while unread:
        module = unread.pop()
        if module not in found:
            found.add(module)
            unread |= _imported(module.read_text(encoding="utf-8"))
    return sorted(map(str, found | {path for pattern in step.reads for path in root.glob(pattern) if path.is_file()}))


def notebook_code(path):
    """The code cells of a notebook as one text, without lines for IPython alone (%, !)."""
    cells = json.loads(Path(path).read_text(encoding="utf-8"))["cells"]
    lines = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code").splitlines()
    return "\n".join(line for line in lines if not line.lstrip().startswith(("%", "!")))


def _imported(code):
    """The files of the lungadv modules that some code imports, absolutely or (inside the package) relatively."""
    names = set()
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.ImportFrom):
            origin = ".".join(filter(None, ("lungadv" if node.level else "", node.module)))
            names |= {origin} | {f"{origin}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
    package = Path(__file__).parent
    files = {package.joinpath(*name.split(".")[1:]).with_suffix(".py") for name in names if name.startswith("lungadv.")}
    return {path for path in files if path.exists()}


def manifest_files(run):
    """The manifest of a run and the tables that lie beside it; none for the phantom."""
    if run.data == "phantom":
        return []
    from lungadv import datasets

    tables = ("annotations.csv", "annotations_excluded.csv", "mimics.csv")
    beside = [datasets.companion(run.data), *(Path(run.data).with_name(name) for name in tables)]
    return [run.data, *(str(path) for path in beside if path.exists())]


def settings_of(step, settings):
    """The settings that a step's sources mention by name: a change of another one does not concern it."""
    text = "\n".join(Path(path).read_text(encoding="utf-8") for path in sources(step) if path.endswith((".py", ".ipynb")))
    words = set(re.findall(r"\w+", text))
    return {key: value for key, value in sorted(vars(settings).items()) if key in words and key in runs.FLAT}


def has_parameters(step):
    """Whether a step's notebook is there and has an experiment to run."""
    path = notebook_path(step)
    return path.exists() and len(_tagged(path)) == 1


# Running one step.


def _tagged(path):
    cells = json.loads(Path(path).read_text(encoding="utf-8"))["cells"]
    return [cell for cell in cells if "parameters" in cell["metadata"].get("tags", [])]


def notebook_parameters(path):
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


def check_parameters(path, given):
    """Texts from a command line as values of the types that the notebook's defaults have. Raises InputError for an unknown name."""
    defaults = notebook_parameters(path)
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

    def __init__(self, name, file, seconds=10.0):
        self.name, self.file, self.seconds = name, file, seconds
        self.rest, self.shown = "", time.monotonic()

    def write(self, text):
        *lines, self.rest = re.split(r"(?<=[\r\n])", self.rest + text)
        for line in lines:
            bar = line.endswith("\r")
            if line.strip() and (not bar or time.monotonic() - self.shown > self.seconds):
                self.shown = time.monotonic()
                print(f"[{self.name}] {line.strip()}", file=self.file, flush=True)

    def flush(self):
        self.file.flush()


def run_notebook(path, out, given, threads=1):
    """Run a notebook with papermill, `given` parameters as text, keeping the executed notebook at `out` as its log."""
    sys.modules.setdefault("rfc3987_syntax", None)  # a grammar of web addresses: jsonschema does without, and it takes a second to load
    import papermill

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
    except papermill.PapermillExecutionError as error:
        message = error.evalue if error.ename == "InputError" else f"{error.ename} {error.evalue} in cell {error.cell_index}"
        raise InputError(f"{path.name} stopped: {message} (the whole story: {out})") from None


# The whole run.


def reproduce(run, cores):
    """Bring every step of a run up to date with Snakemake; returns wall_seconds, peak_memory_mib and more, None if nothing was to do.

    Raises InputError when the manifest or what it names is wrong, a step fails, or the same run is being made already.
    """
    if run.data != "phantom":  # what is wrong with it is said at once, in one line
        from lungadv import datasets

        datasets.check_nodules(datasets.read_manifest(run.data))
    run.folder.mkdir(parents=True, exist_ok=True)
    before = _made(run)
    with _locked(run) as lock:
        _sweep(run)
        started = time.perf_counter()
        peak, process = _watched(_snakemake(run, cores), run, lock)
        if process.returncode:
            raise InputError(f"the pipeline stopped at the step named above; the notebooks it ran so far: {run.folder}/notebooks")
        built = [stage for stage, made in _made(run).items() if before.get(stage) != made]
        if not built:
            return None
        record = {
            "wall_seconds": round(time.perf_counter() - started, 1),
            "peak_memory_mib": round(peak / 2**20),
            "cores": cores,
            "stages_built": built,
        }
        if built != ["claims"] or not _timed(run):  # another seed only renews the ledger: the time of the run stays
            _write_json(run.folder / "run.json", record)
        return record


def _watched(command, run, lock):
    """Run a command in a process group of its own to its end: (peak memory in bytes, the ended process).

    Ctrl-C, SIGTERM or SIGHUP end it and its descendants at once: stages are written aside and renamed, so nothing is lost, while processes
    that are asked to stop answer with pages of tracebacks. Then raises InputError.
    """

    def stop(number, frame):
        raise KeyboardInterrupt

    process = subprocess.Popen(command, pass_fds=(lock.fileno(),), process_group=0)
    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    try:
        return _watch(process, run), process
    except KeyboardInterrupt:
        family = _family(process.pid)  # notebooks' kernels have groups of their own
        for member in family:
            with suppress(psutil.NoSuchProcess):
                member.kill()
        psutil.wait_procs(family, timeout=10)
        raise InputError("stopped; the same command goes on after the last finished step") from None
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _snakemake(run, cores):
    terms = {"profile": run.profile, "seed": run.seed, "data": run.data}
    options = ["--quiet", "host", "reason", "rules", "progress", "--rerun-incomplete", "--nolock", "--cores", str(cores)]
    config = [f"{name}={json.dumps(value)}" for name, value in terms.items()]
    where = ["--snakefile", str(runs.repo_root() / "Snakefile"), "--directory", str(run.folder)]
    return [sys.executable, "-m", "snakemake", *where, *options, "--config", *config]


@contextmanager
def _locked(run):
    """Hold the run's lock; unlike Snakemake's own it goes with the processes that hold it, so a killed run needs no unlocking."""
    with open(run.folder / ".lock", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise InputError(f"{run.folder} is being made by another process: wait for its end, or stop it") from None
        yield lock


def _sweep(run):
    """Remove what a killed run left half-made."""
    for stage in runs.STAGES:
        folder = run.path(stage)
        for half_made in folder.parent.glob(f".{glob.escape(folder.name)}.*"):
            shutil.rmtree(half_made)


def _made(run):
    return {name: runs.sha256(path) for name in runs.STAGES if (path := run.path(name) / "provenance.json").exists()}


def _timed(run):
    """Whether run.json was written after all stages but the ledger, so that its time is theirs."""
    record, stages = run.folder / "run.json", [run.path(name) / "provenance.json" for name in runs.STAGES if name != "claims"]
    return record.exists() and all(path.stat().st_mtime < record.stat().st_mtime for path in stages)


def _watch(process, run):
    """Wait for Snakemake to end, saying how many steps are done; returns the most memory that its processes held at once, in bytes."""
    steps, started = present(), time.perf_counter()
    peak, done = 0, _done(run, steps)
    while process.poll() is None:
        peak = max(peak, _memory(process.pid))
        before, done = done, _done(run, steps)
        if done > before:
            print(f"{done} of {len(steps)} steps done, {(time.perf_counter() - started) / 60:.1f} minutes", file=sys.stderr, flush=True)
        with suppress(subprocess.TimeoutExpired):
            process.wait(timeout=1)
    return peak


def _done(run, steps):
    return sum(all((run.folder / path).exists() for path in outputs(step)) for step in steps)


def _memory(pid):
    """The resident memory of a process and its descendants, in bytes."""
    total = 0
    for member in _family(pid):
        with suppress(psutil.NoSuchProcess):
            total += member.memory_info().rss
    return total


def _family(pid):
    """A process and its descendants; none when it has ended."""
    with suppress(psutil.NoSuchProcess):
        return [root := psutil.Process(pid), *root.children(recursive=True)]
    return []


# A finished run.


def results(run):
    """The numbers of a run that committed results promise: {"cpm/<benchmark>/<strategy>": value}."""
    table = pd.read_csv(run.figures / "table2.csv")
    return {f"cpm/{row.benchmark}/{row.strategy}": float(row.cpm) for row in table.itertuples()}


def compare_expected(run):
    """A run's numbers beside figures/<profile>/expected.json: key, value, expected, tolerance, inside; empty if there is none."""
    path = committed(run) / "expected.json"
    if not path.exists():
        return pd.DataFrame(columns=["key", "value", "expected", "tolerance", "inside"])
    measured = results(run)
    rows = [
        {"key": key, "value": measured.get(key), "expected": row["value"], "tolerance": row["tolerance"]}
        for key, row in json.loads(path.read_text()).items()
    ]
    table = pd.DataFrame(rows)
    table["inside"] = (table.value - table.expected).abs() <= table.tolerance
    return table


def committed(run):
    """The folder of the committed results of a run's profile."""
    return runs.repo_root() / "figures" / run.profile


def accept(run):
    """Copy the figures, their numbers, the tables and the ledger of a run into figures/<profile>/, and renew expected.json.

    Raises InputError while the run is not finished, or when it was made with other settings or data than those of now.
    """
    missing = [name for name in expected_figures() if not (run.figures / name).exists()]
    if missing:
        raise InputError(
            f"{run.figures / missing[0]} is missing: finish `make reproduce PROFILE={run.profile} SEED={run.seed}` before `make accept`"
        )
    if run.seed not in [other.seed for other in finished_seeds(run)]:
        raise InputError(f"{run.folder} was made with other settings or data than those of now: `make reproduce` with the same terms first")
    folder = committed(run)
    folder.mkdir(parents=True, exist_ok=True)
    for path in sorted(run.figures.iterdir()):
        if path.suffix in (".png", ".csv") or (path.suffix == ".pdf" and path.stat().st_size < 2**20):
            shutil.copyfile(path, folder / path.name)
    _write_json(folder / "expected.json", expected(run))
    _write_json(folder / "provenance.json", provenance(run))
    return folder


def expected_figures():
    """Every figure and table that the steps promise, the simulator's own pictures aside."""
    return [name for step in STEPS if step.stage for name in step.figures]


def expected(run):
    """Value and tolerance of each result over the seeds at hand: the mean, and three standard deviations or 0.05, the larger."""
    seeds = [results(other) for other in finished_seeds(run)]
    table = pd.DataFrame(seeds)
    spread = (3 * table.std(ddof=1)).fillna(0.0).clip(lower=0.05)
    return {key: {"value": round(table[key].mean(), 4), "tolerance": round(spread[key], 4), "seeds": len(seeds)} for key in table}


def finished_seeds(run):
    """The finished runs of the same profile, data and settings, one a seed; not `run` itself if it was made with others.

    Development seeds and those of the ledger are never mixed (`runs.DEVELOPMENT_SEEDS`).
    """
    terms = json.loads(json.dumps({"settings": {key: value for key, value in vars(run.settings).items() if key in runs.FLAT}, "data_sha256": runs.data_sha256(run)}))
    pattern = re.compile(re.escape(run.folder.name.removesuffix(str(run.seed))) + r"(\d+)")
    found = {}
    for path in run.folder.parent.glob("*/claims/provenance.json"):
        match = pattern.fullmatch(path.parts[-3])
        alike = match and (int(match[1]) >= runs.DEVELOPMENT_SEEDS) == (run.seed >= runs.DEVELOPMENT_SEEDS)
        made = json.loads(path.read_text())
        if alike and {name: made.get(name) for name in terms} == terms:
            found[int(match[1])] = runs.Run(run.profile, int(match[1]), run.data, run.settings, path.parents[1])
    return [found[seed] for seed in sorted(found)]


def provenance(run):
    """Who made a run: its terms, commit and versions, and the seconds and memory of every stage."""
    stages = {
        name: json.loads(path.read_text()) for name in runs.STAGES if (path := run.path(name) / "provenance.json").exists()
    }
    last = stages["claims"]
    cost = ("commit", "dirty", "wall_seconds", "peak_memory_mib", "threads")
    shared = ("profile", "seed", "data", "settings", "commit", "dirty", "versions", "python", "device")
    whole = run.folder / "run.json"
    return {
        **{key: last[key] for key in shared},
        "seeds": [other.seed for other in finished_seeds(run)],
        "run": json.loads(whole.read_text()) if whole.exists() else None,
        "stages": {name: {key: made[key] for key in cost} for name, made in stages.items()},
    }


def _write_json(path, content):
    with runs.replacing(path) as temporary:
        temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


# The README.

def render_readme():
    """Write README.md: the text of nbs/index.ipynb, its markers (<!-- ledger -->, ...) filled from figures/quick/."""
    root = runs.repo_root()
    cells = json.loads((root / "nbs" / "index.ipynb").read_text(encoding="utf-8"))["cells"]
    text = "\n\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")
    text = re.sub(r"\]\(\.\./", "](", text)  # seen from the root: pictures ...
    text = re.sub(r"\]\((\d\d\w*_\w+\.ipynb)", r"](nbs/\1", text)  # ... and notebooks
    parts = {"ledger": _ledger, "table1": _table1, "table2": _table2, "gates": _gates, "misses": _misses, "traps": _traps, "cost": _cost}
    for name, render in parts.items():
        marker = f"<!-- {name} -->"
        if marker in text:
            text = text.replace(marker, f"{marker}\n{render(root / 'figures' / 'quick')}")
    with runs.replacing(root / "README.md") as temporary:
        temporary.write_text(text.rstrip() + "\n", encoding="utf-8")


def _markdown(table):
    """A DataFrame of texts as a markdown table."""
    rows = [table.columns, ["---"] * len(table.columns), *table.itertuples(index=False)]
    return "\n".join("| " + " | ".join(str(cell).replace("|", "\\|").replace("\n", " ") for cell in row) + " |" for row in rows)


def _missing(path):
    return f"*({path.name}: not made yet; `make reproduce`, `make accept` and `make readme` put it here)*"


def _ledger(folder):
    path = folder / "claims.csv"
    if not path.exists():
        return _missing(path)
    from lungadv import claims

    return claims.ledger_markdown(pd.read_csv(path, dtype=str, keep_default_na=False))


def _table1(folder):
    path = folder / "table1.csv"
    return _markdown(pd.read_csv(path, dtype=str, keep_default_na=False)) if path.exists() else _missing(path)


def _table2(folder):
    """CPM of every strategy on both benchmarks with its interval, beside the paper's."""
    path = folder / "table2.csv"
    if not path.exists():
        return _missing(path)
    table = pd.read_csv(path)
    rows = {}
    for row in table.itertuples():
        cells = rows.setdefault(row.strategy, {"strategy": row.strategy})
        cells[f"CPM, {row.benchmark}-like"] = f"{row.cpm:.3f} ({row.lower:.3f} to {row.upper:.3f})"
        cells[f"paper, {row.benchmark}"] = "" if pd.isna(row.paper_cpm) else f"{row.paper_cpm:.3f}"
    return _markdown(pd.DataFrame(rows.values()))


def _gates(folder):
    """Each measure of `realism` beside its gate."""
    path = folder / "gates.csv"
    if not path.exists():
        return _missing(path)
    table = pd.read_csv(path)
    rows = pd.DataFrame({
        "measure": table["measure"].str.strip(),
        "value": table["value"].map("{:.3g}".format),
        "over people": ["" if pd.isna(spread) else f"{spread:.2g}" for spread in table["spread"]],
        "gate": table["gate"],
        "holds": ["" if pd.isna(holds) else "yes" if holds else "**no**" for holds in table["holds"]],
    })  # fmt: skip
    return _markdown(rows)


def _of_baseline(folder, name):
    """A table of both benchmarks together for baseline-ce, or None."""
    path = folder / name
    return pd.read_csv(path).query("benchmark == 'both' and strategy == 'baseline-ce'") if path.exists() else None


def _misses(folder):
    """Nodules that baseline-ce misses, by type and size and by attachment."""
    table = _of_baseline(folder, "misses.csv")
    if table is None:
        return _missing(folder / "misses.csv")
    table = table.assign(cell=[f"{row.missed} of {row.nodules} ({row.share:.0%})" for row in table.itertuples()])
    sizes = table.query("attachment == 'all'").pivot(index="type", columns="size", values="cell")
    order = [size for size in table["size"].unique() if size != "all"]
    sizes = sizes[[*sorted(order, key=lambda size: float(re.match(r"\d+", size)[0])), "all"]].fillna("").reset_index()
    sizes = sizes.sort_values("type", key=lambda column: column == "all", kind="stable")
    attached = table.query("attachment != 'all'")
    lines = ", ".join(f"{row.attachment} {row.cell}" for row in attached.itertuples())
    return _markdown(sizes) + (f"\n\nBy attachment: {lines}." if lines else "")


def _traps(folder):
    """What the false positives of baseline-ce lie on."""
    table = _of_baseline(folder, "false_positives.csv")
    if table is None:
        return _missing(folder / "false_positives.csv")
    kinds = table[["on", "count", "share"]].itertuples(index=False)
    return ", ".join(f"{on} {count} ({share:.0%})" for on, count, share in kinds) + "."


def _cost(folder):
    """The budget of the quick profile, and beside it what the committed run took of it (seconds x threads / 2 cores)."""
    path = folder / "provenance.json"
    made = json.loads(path.read_text()) if path.exists() else {"stages": {}, "run": None}
    stages = {step.name: made["stages"][step.stage] for step in STEPS if step.stage in made["stages"]}
    rows = []
    for names, minutes in BUDGET.items():
        ran = [stages[name] for name in names if name in stages]
        used = sum(stage["wall_seconds"] * stage["threads"] for stage in ran) / 120
        peak = max((stage["peak_memory_mib"] for stage in ran), default="")
        rows.append((", ".join(names), f"{minutes:.1f}", f"{used:.1f}" if ran else "", peak))
    whole = made["run"]
    if whole and set(whole["stages_built"]) != set(runs.STAGES):  # a run that went on where another stopped has no time of its own
        whole = None
    computing = sum(float(row[2] or 0) for row in rows)
    minutes = whole["wall_seconds"] / 60 if whole else None
    rows.append((STARTING, f"{BUDGET_STARTING:.1f}", f"{minutes - computing:.1f}" if whole else "", ""))
    rows.append(("sum", f"{sum(BUDGET.values()) + BUDGET_STARTING:.1f}", f"{minutes:.1f}" if whole else "", ""))
    table = _markdown(pd.DataFrame(rows, columns=["steps", "budget, minutes", "measured, minutes", "peak MiB"]))
    if not whole:
        return f"{_missing(path)}\n\n{table}" if not stages else table
    gib = whole["peak_memory_mib"] / 1024
    return f"Measured: {minutes:.1f} minutes on {whole['cores']} cores, at most {gib:.1f} GiB of memory.\n\n{table}"


def main(arguments=None):
    """The commands behind the Snakefile and the Makefile."""
    parser = argparse.ArgumentParser(prog="python -m lungadv.pipeline", description=main.__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    notebook = commands.add_parser("notebook", help="run one notebook with papermill")
    notebook.add_argument("notebook", type=Path)
    notebook.add_argument("out", type=Path)
    notebook.add_argument("-p", dest="parameters", nargs=2, action="append", default=[], metavar=("NAME", "VALUE"))
    notebook.add_argument("--threads", type=int, default=1)
    texts = {"stage": "build one stage", "accept": "make a run the committed results", "weights": "ship a run's networks with the package"}
    for name, text in texts.items():
        command = commands.add_parser(name, help=text)
        if name == "stage":
            command.add_argument("stage")
        command.add_argument("--profile", default="quick")
        command.add_argument("--seed", type=int, default=0)
        command.add_argument("--data", default="phantom")
    commands.add_parser("readme", help="write README.md from nbs/index.ipynb")
    options = parser.parse_args(arguments)
    try:
        _run_command(options)
    except (InputError, ValueError) as error:
        sys.exit(f"error: {error}")


def _run_command(options):
    if options.command == "readme":
        render_readme()
    elif options.command == "accept":
        run = runs.open_run(options.profile, options.seed, options.data)
        print(f"the results of {run.folder.name} are now those of {accept(run)}")
    elif options.command == "weights":
        from lungadv import detection

        run = runs.open_run(options.profile, options.seed, options.data)
        print(f"the networks of {run.folder.name} and their model card are now in {detection.ship(run, detection.shipped_folder())}")
    else:
        name = options.stage if options.command == "stage" else options.out.stem
        started = time.perf_counter()
        print(f"[{name}] starts", file=sys.stderr, flush=True)
        if options.command == "stage":
            with redirect_stderr(ProgressLines(name, sys.stderr)):
                runs.build(runs.open_run(options.profile, options.seed, options.data), options.stage)
        else:
            run_notebook(options.notebook, options.out, dict(options.parameters), options.threads)
        print(f"[{name}] done in {time.perf_counter() - started:.0f} s", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
