"""The last lines of `lungadv reproduce`: the claims, what differs from the committed results, the cost, and where all is."""

import pandas as pd

from lungadv.data.kinds import CUBES, kind_of
from lungadv.pipeline.accept import committed_folder, compare_expected
from lungadv.pipeline.progress import log_path
from lungadv.pipeline.result_tables import VERDICTS
from lungadv.pipeline.runs import Run

PER_LITRE = 4  # false positives, at which the sensitivity of cubes is told


def summary_lines(run: Run, made: dict | None) -> list[str]:
    """What a finished run found and took. `made`: the record of `reproduce`, None when nothing was to do."""
    if made:
        minutes, gib = made["wall_seconds"] / 60, made["peak_memory_mib"] / 1024
        cost = f"took {minutes:.1f} minutes on {made['cores']} cores, at most {gib:.2f} GiB of memory"
    else:
        cost = "nothing to do: every figure and table is there and up to date"
    report = run.folder / "report.html"
    places = {"figures and tables": run.figures, "report": report if report.exists() else None, "log": log_path(run)}
    return [
        *(_real_lines(run) if kind_of(run.data) == CUBES else _claim_lines(run)),
        cost,
        *(f"{name}: {path}" for name, path in places.items() if path),
    ]


def _claim_lines(run):
    """What a run on scans found: the claims, and what differs from the committed results."""
    ledger = _verdicts(run.path("claims", "claims.csv"))
    counts = ", ".join(f"{(ledger == verdict).sum()} {verdict}" for verdict in VERDICTS)
    return [f"claims of the paper: {counts}", *_differences(run, ledger)]


def _real_lines(run):
    """What a run on nodule cubes found on its test patients, whether its synthesizer passed its gates, and what it leaves out."""
    found = pd.read_csv(run.path("search", "sensitivity.csv"))
    found = found[(found["dataset"] == "test") & (found["group"] == "all") & (found["per_litre"] == PER_LITRE)]
    shown = ", ".join(f"{row.network} {row.sensitivity:.2f} ({row.lower:.2f} to {row.upper:.2f})" for row in found.itertuples())
    gates = pd.read_csv(run.path("synthesizer", "gates.csv")).query("critic == 'with'")
    missed = ", ".join(gates.loc[~gates["passed"].astype(bool), "gate"])
    counted = f"{found['nodules'].iloc[0]} nodules of {found['patients'].iloc[0]} test patients"
    return [
        f"sensitivity at {PER_LITRE} false positives a litre of lung, {counted}, intervals over patients: {shown}",
        f"synthesizer: {len(gates) - gates['passed'].sum()} of {len(gates)} gates missed{': ' if missed else ''}{missed}",
        "not LUNA16's FROC: a cube has a nodule in its middle; candidate generation, the oracle, two moons and the claims are left out",
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
