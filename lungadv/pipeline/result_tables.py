"""The committed results as Markdown: the tables that README.md and the pages of docs/ show."""

import json
import re
from collections.abc import Collection
from pathlib import Path

import pandas as pd

from lungadv.data.hits import hits
from lungadv.data.tables import XYZ
from lungadv.training.strategies import BEYOND, FURTHER, STRATEGIES
from lungadv.utils.errors import plural

__all__ = [
    "calibration", "gates", "headlines", "ledger", "ledger_counts", "misses", "missing_note", "real_scan", "table1", "table2",
    "seed", "table2_of_the_paper", "table_markdown", "traps",
]  # fmt: skip

VERDICTS = ("reproduced", "consistent", "not reproduced", "not measured")
HEADLINES = ["M4", "S7", "B5"]  # the attack works, training on it helps, and what it does to the CPM


def table_markdown(table: pd.DataFrame) -> str:
    """A DataFrame of texts as a markdown table."""
    rows = [table.columns, ["---"] * len(table.columns), *table.itertuples(index=False)]
    return "\n".join("| " + " | ".join(str(cell).replace("|", "\\|").replace("\n", " ") for cell in row) + " |" for row in rows)


def missing_note(path: Path) -> str:
    """What stands where a result is still to come."""
    return f"*({path.name}: not made yet; `make reproduce`, `make accept` and `make readme` put it here)*"


def ledger(folder: Path) -> str:
    """Every claim of the paper with what was measured and its verdict."""
    path = folder / "claims.csv"
    if not path.exists():
        return missing_note(path)
    from lungadv.evaluation.claims import ledger_markdown

    return ledger_markdown(pd.read_csv(path, dtype=str, keep_default_na=False))


def table1(folder: Path) -> str:
    """The benchmarks: scans, nodules and their types, beside the paper's."""
    path = folder / "table1.csv"
    return table_markdown(pd.read_csv(path, dtype=str, keep_default_na=False)) if path.exists() else missing_note(path)


def ledger_counts(folder: Path) -> str:
    """How many claims got each verdict, in a sentence."""
    path = folder / "claims.csv"
    if not path.exists():
        return missing_note(path)
    verdicts = pd.read_csv(path)["verdict"]
    counts = [f"**{verdicts.eq(verdict).sum()} {verdict}**" for verdict in VERDICTS if verdicts.eq(verdict).any()]
    return f"Of {len(verdicts)} claims of the paper: {', '.join(counts)}."


def seed(folder: Path) -> str:
    """Which run the committed tables are of, and the command that makes it."""
    path = folder / "provenance.json"
    if not path.exists():
        return missing_note(path)
    made = json.loads(path.read_text(encoding="utf-8"))
    commit = f"commit {made['commit'][:7]}" if made["commit"] else "no commit"
    commit += " and changes on top" if made["dirty"] else ""
    seed, seeds = made["seed"], made["seeds"]
    pooled = f"pool seeds {', '.join(map(str, seeds))}" if len(seeds) > 1 else "rest on this one seed"
    command = f"`make reproduce PROFILE={made['profile']} SEED={seed}`"
    return f"Tables and figures are of **seed {seed}**, {commit}: {command}{_cost(made)}. Claims B1 to B7 {pooled}."


def _cost(made):
    """What a run took, in words; nothing for one that went on where another had stopped."""
    whole = made["run"]
    if not whole or set(whole["stages_built"]) != set(made["stages"]):
        return ""
    return f", {whole['wall_seconds'] / 60:.0f} minutes on {whole['cores']} cores and {whole['peak_memory_mib'] / 1024:.1f} GiB"


def headlines(folder: Path) -> str:
    """The verdicts of three claims that sum the paper up, a list item each, and what white-box attacks do beside the rule."""
    path = folder / "claims.csv"
    if not path.exists():
        return missing_note(path)
    table = pd.read_csv(path).set_index("id").loc[HEADLINES]
    return "\n".join(f"- **{row.verdict}** ({row.Index}): {row.claim}{_white_box(row.measured)}" for row in table.itertuples())


def _white_box(measured):
    """What a claim's numbers say of attacks on each network itself, a sentence; empty where they say nothing."""
    drops = re.findall(r"(\S+) white-box (-?\d+\.\d+)", str(measured))
    if not drops:
        return ""
    return f" The rule is for a transferred attack. White-box, the share detected drops by: {', '.join(map(' '.join, drops))}."


def calibration(folder: Path) -> str:
    """Calibration error of every strategy on the benchmarks, and how well its uncertainty tells wrong answers from right ones."""
    path = folder / "sureness.csv"
    if not path.exists():
        return missing_note(path)
    table = pd.read_csv(path).query("dataset == 'benchmarks'")[["strategy", "ece", "error_auroc"]]
    return table_markdown(table.map(lambda value: value if isinstance(value, str) else f"{value:.2f}"))


def table2(folder: Path, omit: Collection[str] = ()) -> str:
    """CPM of every strategy on both benchmarks with its interval, beside the paper's; `omit` names rows by their label."""
    path = folder / "table2.csv"
    if not path.exists():
        return missing_note(path)
    table = pd.read_csv(path)
    rows = {}
    for row in table[~table["strategy"].isin(omit)].itertuples():
        cells = rows.setdefault(row.strategy, {"strategy": row.strategy if row.converged else f"{row.strategy}\\*"})
        cells[f"CPM, {row.benchmark}-like"] = f"{row.cpm:.3f} ({row.lower:.3f}\N{NO-BREAK SPACE}to\N{NO-BREAK SPACE}{row.upper:.3f})"
        cells[f"paper, {row.benchmark}"] = "" if pd.isna(row.paper_cpm) else f"{row.paper_cpm:.3f}"
    starred = "" if table["converged"].all() else "\n\n\\* not converged: the validation loss still fell when training ended."
    return table_markdown(pd.DataFrame(rows.values())) + starred


def table2_of_the_paper(folder: Path) -> str:
    """Table II without the strategies that go beyond the paper."""
    return table2(folder, [STRATEGIES[name].label for name in (*BEYOND, *FURTHER)])


def real_scan(folder: Path) -> str:
    """What `lungadv detect` finds in the one real scan of figures/detect/, whose nodule is known."""
    findings, nodules = folder.parent / "detect" / "findings.csv", folder.parent / "detect" / "annotations.csv"
    if not findings.exists():
        return missing_note(findings)
    table, nodule = pd.read_csv(findings), pd.read_csv(nodules).iloc[0]
    table["hit"] = hits(table[XYZ], [nodule[XYZ].tolist()], [nodule["diameter_mm"]])[:, 0]
    table = table.sort_values("probability", ascending=False, ignore_index=True)
    if not table["hit"].any():
        return f"None of its {len(table)} findings is the {nodule['diameter_mm']:.0f} mm nodule that its readers marked."
    rank, found = table["hit"].idxmax() + 1, table[table["hit"]].iloc[0]
    false = (~table["hit"] & table["probability"].gt(0.5)).sum()
    return (
        f"The {nodule['diameter_mm']:.0f} mm nodule that its readers marked is number {rank} of {len(table)} findings by probability "
        f"({found['probability']:.2f}), measured at {found['diameter_mm']:.0f} mm. {plural(false, 'other finding')} above 0.5 are false."
    )


def gates(folder: Path) -> str:
    """Each measure of `realism` beside its gate."""
    path = folder / "gates.csv"
    if not path.exists():
        return missing_note(path)
    table = pd.read_csv(path)
    rows = pd.DataFrame({
        "measure": table["measure"].str.strip(),
        "value": table["value"].map("{:.3g}".format),
        "over people": ["" if pd.isna(spread) else f"{spread:.2g}" for spread in table["spread"]],
        "gate": table["gate"],
        "holds": ["" if pd.isna(holds) else "yes" if holds else "**no**" for holds in table["holds"]],
    })  # fmt: skip
    return table_markdown(rows)


def _of_baseline(folder, name):
    """A table of both benchmarks together for baseline-ce, or None."""
    path = folder / name
    return pd.read_csv(path).query("benchmark == 'both' and strategy == 'baseline-ce'") if path.exists() else None


def misses(folder: Path) -> str:
    """Nodules that baseline-ce misses, by type and size and by attachment."""
    table = _of_baseline(folder, "misses.csv")
    if table is None:
        return missing_note(folder / "misses.csv")
    table = table.assign(cell=[f"{row.missed} of {row.nodules} ({row.share:.0%})" for row in table.itertuples()])
    sizes = table.query("attachment == 'all'").pivot(index="type", columns="size", values="cell")
    order = [size for size in table["size"].unique() if size != "all"]
    sizes = sizes[[*sorted(order, key=lambda size: float(re.match(r"\d+", size)[0])), "all"]].fillna("").reset_index()
    sizes = sizes.sort_values("type", key=lambda column: column == "all", kind="stable")
    attached = table.query("attachment != 'all'")
    lines = ", ".join(f"{row.attachment} {row.cell}" for row in attached.itertuples())
    return table_markdown(sizes) + (f"\n\nBy attachment: {lines}." if lines else "")


def traps(folder: Path) -> str:
    """What the false positives of baseline-ce lie on."""
    table = _of_baseline(folder, "false_positives.csv")
    if table is None:
        return missing_note(folder / "false_positives.csv")
    kinds = table[["on", "count", "share"]].itertuples(index=False)
    return ", ".join(f"{on} {count} ({share:.0%})" for on, count, share in kinds) + "."
