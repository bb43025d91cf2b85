"""The last lines of `lungadv reproduce`: the claims, what differs from the committed results, the cost, and where all is."""

import pandas as pd

from lungadv.pipeline.accept import committed_folder, compare_expected
from lungadv.pipeline.progress import log_path
from lungadv.pipeline.result_tables import VERDICTS
from lungadv.pipeline.runs import Run


def summary_lines(run: Run, made: dict | None) -> list[str]:
    """What a finished run found and took. `made`: the record of `reproduce`, None when nothing was to do."""
    ledger = _verdicts(run.path("claims", "claims.csv"))
    counts = ", ".join(f"{(ledger == verdict).sum()} {verdict}" for verdict in VERDICTS)
    if made:
        minutes, gib = made["wall_seconds"] / 60, made["peak_memory_mib"] / 1024
        cost = f"took {minutes:.1f} minutes on {made['cores']} cores, at most {gib:.2f} GiB of memory"
    else:
        cost = "nothing to do: every figure and table is there and up to date"
    report = run.folder / "report.html"
    places = {"figures and tables": run.figures, "report": report if report.exists() else None, "log": log_path(run)}
    return [
        f"claims of the paper: {counts}",
        *_differences(run, ledger),
        cost,
        *(f"{name}: {path}" for name, path in places.items() if path),
    ]


def _verdicts(path):
    """The verdict of each claim of a ledger, by its id."""
    return pd.read_csv(path, dtype=str, keep_default_na=False).set_index("id")["verdict"]


def _differences(run, ledger):
    """What differs from the committed results: numbers outside their tolerance, and claims with another verdict."""
    table = compare_expected(run)
    if table.empty:
        return ["not compared: of this profile no results are committed"]
    outside = table[~table.inside.astype(bool)]
    lines = [f"outside: {row.key} is {row.value:.4f}, expected {row.expected:.4f} +- {row.tolerance:.4f}" for row in outside.itertuples()]
    lines.append(f"{len(table) - len(outside)} of {len(table)} numbers are within the tolerance of the committed results")
    committed = _verdicts(committed_folder(run) / "claims.csv").reindex(ledger.index)
    changed = ledger[committed.notna() & (ledger != committed)]
    if len(changed):
        names = ", ".join(f"{claim} {verdict} (committed: {committed[claim]})" for claim, verdict in changed.items())
        lines.append(f"other verdicts: {names}")
    return lines
