"""The report of a run: one page with ledger, tables, figures, differences from the committed results, cost and provenance."""

import json
from collections import Counter
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

import pandas as pd

from lungadv.data.kinds import PHANTOM, SCANS
from lungadv.evaluation.claims import read_rules
from lungadv.pipeline.accept import committed_folder, compare_expected
from lungadv.pipeline.graph import CUBE_STAGES, STAGES, STAGES_BY_KIND
from lungadv.pipeline.report_tables import real_rows, table1_rows, table2_parts
from lungadv.pipeline.runs import Run
from lungadv.pipeline.steps import STEPS_BY_KIND, outputs
from lungadv.settings import load_settings
from lungadv.training.strategies import STRATEGIES
from lungadv.utils.errors import InputError
from lungadv.utils.html import picture_file, write_page

__all__ = ["missing_stages", "write_report"]

REPORT = "report.html"
LEDGER_COLUMNS = ("id", "claim", "measured", "interval", "seeds", "verdict")
VERDICTS = ("reproduced", "consistent", "not reproduced", "not measured")
RUN_KEYS = {"wall_seconds", "peak_memory_mib", "cores", "stages_built"}
SHARED = ("commit", "dirty", "versions", "python", "device", "precision", "data_sha256")


@dataclass(frozen=True)
class RunFolder:
    """A run's folder as it lies there: the provenance of its finished stages, in the order of the graph."""

    path: Path
    stages: dict[str, dict]

    @property
    def last(self) -> dict:
        """The provenance of the last finished stage."""
        return list(self.stages.values())[-1]

    @property
    def kind(self) -> str:
        """What its data are, see `data.kinds`; runs of earlier versions do not say it."""
        return self.last.get("kind", PHANTOM if self.last.get("data") == PHANTOM else SCANS)

    def table(self, name: str, columns: tuple[str, ...] = ()) -> pd.DataFrame | None:
        """A table of its figures as text, None if it is not there. Raises InputError for one without these columns."""
        return read_table(self.path / "figures" / name, columns)


def write_report(folder: str | Path) -> Path:
    """Write report.html into a run's folder, whole or not at all; returns its path.

    An unfinished run gets one too: it names the missing stages. Raises InputError for a folder that is no run's, or a broken file in it.
    """
    run = open_folder(folder)
    claims = run.table("claims.csv", LEDGER_COLUMNS)
    figures = find_figures(run.path / "figures")
    path = run.path / REPORT
    write_page(
        path,
        "report.html",
        name=run.path.name,
        kind=run.kind,
        terms={key: run.last.get(key) for key in ("profile", "seed", "data")},
        missing=missing_stages(folder),
        verdicts=Counter() if claims is None else Counter(claims["verdict"]),
        order=VERDICTS,
        ledger=ledger_rows(claims, figures),
        table1=table1_rows(run.table("table1.csv")),
        real=real_rows(run.table("real_nodules.csv")),
        table2=table2_parts(run.table("table2.csv", ("benchmark", "strategy", "cpm", "lower", "upper"))),
        figures=figures,
        differences=differences(run, claims),
        cost=cost(run),
        provenance={key: run.last.get(key) for key in SHARED},
        settings=json.dumps(run.last.get("settings"), indent=1),
    )
    return path


def open_folder(folder: str | Path) -> RunFolder:
    """A run's folder. Raises InputError when no stage in it is finished."""
    path = Path(folder).resolve()
    if not path.is_dir():
        raise InputError(f"'{folder}' is no folder: name the folder of a run, such as runs/phantom-quick-0")
    stages = {name: read_json(made) for name in STAGES | CUBE_STAGES if (made := path / name / "provenance.json").is_file()}
    if not stages:
        raise InputError(f"'{folder}' is no run: no stage in it is finished; name the folder of a run, such as runs/phantom-quick-0")
    return RunFolder(path, stages)


def missing_stages(folder: str | Path) -> list[str]:
    """The stages of a run, or notebooks without one, whose outputs are not all there."""
    steps = STEPS_BY_KIND[open_folder(folder).kind]
    return [step.stage or step.name for step in steps if not all((Path(folder) / name).is_file() for name in outputs(step))]


def read_json(path: Path) -> dict:
    """The object in a JSON file. Raises InputError for anything else."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"'{path}' is damaged ({error}): remove it and make the run again") from None
    if not isinstance(content, dict):
        raise InputError(f"'{path}' is damaged (no object): remove it and make the run again")
    return content


def read_table(path: Path, columns: tuple[str, ...] = ()) -> pd.DataFrame | None:
    """A CSV as text, None if it is not there. Raises InputError when it cannot be read or lacks one of these columns."""
    if not path.is_file():
        return None
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False)
    except ValueError as error:
        raise InputError(f"'{path}' is damaged ({error}): remove it and make the run again") from None
    for column in columns:
        if column not in table:
            raise InputError(f"'{path}' is damaged (no column {column}): remove it and make the run again")
    return table


def find_figures(folder: Path) -> list[dict]:
    """The pictures of a run: name, title, caption, alt, claims (ids), url, width and height in pixels.

    Those of captions.csv come first, in its order. Raises InputError for a file that is no picture.
    """
    captions = read_table(files("lungadv") / "pipeline" / "captions.csv").set_index("name")
    order = {name: k for k, name in enumerate(captions.index)}
    found = []
    for path in sorted(folder.glob("*.png"), key=lambda path: (order.get(path.stem, len(order)), path.stem)):
        text = captions.loc[path.stem].to_dict() if path.stem in order else _training_caption(path.stem)
        try:
            url, (width, height) = picture_file(path)
        except OSError as error:
            raise InputError(f"'{path}' is no picture ({error}): remove it and make the run again") from None
        found.append(text | {"name": path.stem, "claims": text["claims"].split(), "url": url, "width": width, "height": height})
    return found


def _training_caption(name):
    """The words for a picture that captions.csv does not list: those that each training leaves, or a stranger."""
    strategy = name.removeprefix("training-")
    if strategy == "synthesizer":
        words = ("Training of the synthesizer", "Losses of the synthesizer over its updates.", "Curves of the synthesizer's losses.")
    elif strategy in STRATEGIES:
        label = STRATEGIES[strategy].label
        caption = "Training loss and Brier score over the updates, and the confidence of validation patches."
        words = (f"Training of {label}", caption, "Learning curves, and histograms of confidence.")
    else:
        words = (name, "A picture of this run.", f"Picture {name}.")
    return dict(zip(("title", "caption", "alt"), words, strict=True)) | {"claims": ""}


def ledger_rows(claims: pd.DataFrame | None, figures: list[dict]) -> list[dict]:
    """The ledger's rows with where the paper says it, the measure, the rule, and the pictures to look at: [{name, title}, ...]."""
    if claims is None:
        return []
    rules = read_rules().set_index("id")[["where", "measure", "reproduced_when"]].to_dict("index")
    unknown = {"where": "", "measure": "", "reproduced_when": ""}
    return [
        row | rules.get(row["id"], unknown) | {"figures": [figure for figure in figures if row["id"] in figure["claims"]]}
        for row in claims.to_dict("records")
    ]


def differences(run: RunFolder, claims: pd.DataFrame | None) -> dict | None:
    """How a run differs from the committed results of its profile; None where there are none to compare with.

    Keys: numbers (rows of `compare_expected`, the outside ones first) and verdicts ({id, now, committed} where they differ).
    """
    profile = run.last.get("profile")
    try:
        terms = Run(profile, run.last.get("seed"), run.last.get("data"), load_settings(profile), run.path)
        committed = committed_folder(terms)
    except InputError:  # not in a clone, or a profile of another version
        return None
    if not (committed / "expected.json").is_file() or run.table("table2.csv") is None:
        return None
    numbers = compare_expected(terms).sort_values("inside", kind="stable")
    before = read_table(committed / "claims.csv", ("id", "verdict"))
    verdicts = [] if before is None or claims is None else _changed(claims, before)
    outside = int((~numbers["inside"].astype(bool)).sum())
    return {"numbers": numbers.astype(object).where(numbers.notna(), None).to_dict("records"), "outside": outside, "verdicts": verdicts}


def _changed(claims, before):
    both = claims.merge(before, on="id", suffixes=("", "_committed"))
    both = both[both["verdict"] != both["verdict_committed"]]
    return [{"id": row.id, "now": row.verdict, "committed": row.verdict_committed} for row in both.itertuples()]


def cost(run: RunFolder) -> dict:
    """Time and memory: `stages` (name, minutes, share of the longest, peak MiB, threads, commit) and `whole`, run.json or None."""
    longest = max(float(made.get("wall_seconds", 0)) for made in run.stages.values()) or 1.0
    stages = [
        {
            "name": name,
            "minutes": float(made.get("wall_seconds", 0)) / 60,
            "share": float(made.get("wall_seconds", 0)) / longest,
            "peak_mib": made.get("peak_memory_mib"),
            "threads": made.get("threads"),
            "commit": str(made.get("commit"))[:10] + (", changed" if made.get("dirty") else ""),
        }
        for name, made in run.stages.items()
    ]
    whole = read_json(path) if (path := run.path / "run.json").is_file() else None
    if whole is not None and not RUN_KEYS <= set(whole):
        raise InputError(f"'{path}' is damaged (it lacks {', '.join(sorted(RUN_KEYS - set(whole)))}): remove it")
    all_built = whole is not None and set(whole["stages_built"]) >= set(STAGES_BY_KIND[run.kind])
    return {"stages": stages, "whole": whole, "all_built": all_built}
