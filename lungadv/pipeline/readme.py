"""README.md: the text of nbs/index.ipynb, its tables filled from the committed results."""

import json
import re

import pandas as pd

from lungadv.pipeline.graph import STAGES
from lungadv.pipeline.steps import STEPS
from lungadv.utils.files import atomic_write, repo_root

BUDGET = {  # minutes of computing that the quick profile may take on 2 cores; one-thread steps in a row run two at a time
    ("05_datasets",): 1.6,
    ("06_candidates",): 1.9,
    ("patches", "segmentation"): 0.9,
    ("08_synthesizer", "fpr-baseline-ce", "fpr-baseline-beta", "07_fpr-baseline-beta-finetune"): 2.6,
    ("fpr-control-ce", "fpr-control-beta", "fpr-control", "fpr-beta+online"): 1.4,
    ("00_two_moons", "04_phantom"): 0.4,
    ("09_banks",): 1.1,
    ("fpr-beta+syn-random", "fpr-beta+syn", "fpr-beta+perturb", "10_strategies-beta+perturb+syn"): 1.4,
    ("11_benchmarks",): 1.0,
    ("12_stress_tests",): 3.7,
    ("13_claims",): 0.1,
}
STARTING = "starting notebooks, drawing, waiting"
BUDGET_STARTING = 3.9  # minutes on top of the computing


def render_readme() -> None:
    """Write README.md: the text of nbs/index.ipynb, its markers (<!-- ledger -->, ...) filled from figures/quick/."""
    root = repo_root()
    cells = json.loads((root / "nbs" / "index.ipynb").read_text(encoding="utf-8"))["cells"]
    text = "\n\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")
    text = re.sub(r"\]\(\.\./", "](", text)  # seen from the root: pictures ...
    text = re.sub(r"\]\((\d\d\w*_\w+\.ipynb)", r"](nbs/\1", text)  # ... and notebooks
    parts = {"ledger": _ledger, "table1": _table1, "table2": _table2, "gates": _gates, "misses": _misses, "traps": _traps, "cost": _cost}
    for name, render in parts.items():
        marker = f"<!-- {name} -->"
        if marker in text:
            text = text.replace(marker, f"{marker}\n{render(root / 'figures' / 'quick')}")
    with atomic_write(root / "README.md") as temporary:
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
    from lungadv.evaluation.claims import ledger_markdown

    return ledger_markdown(pd.read_csv(path, dtype=str, keep_default_na=False))


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
        name = row.strategy if row.converged else f"{row.strategy} (not converged)"
        cells = rows.setdefault(row.strategy, {"strategy": name})
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
    if whole and set(whole["stages_built"]) != set(STAGES):  # a run that went on where another stopped has no time of its own
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
