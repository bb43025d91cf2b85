"""Tables I and II of a run as the rows of its report: numbers as text, intervals as places on an axis."""

import pandas as pd

from lungadv.utils.errors import InputError

__all__ = ["real_rows", "table1_rows", "table2_parts"]

POINTS = ("0.125", "0.25", "0.5", "1", "2", "4", "8")  # false positives a scan


def table1_rows(table: pd.DataFrame | None) -> dict | None:
    """Table I as `columns` and `rows`, all text; None without one."""
    if table is None:
        return None
    return {"columns": [name.replace("_", " ") for name in table.columns], "rows": table.to_numpy().tolist()}


def real_rows(table: pd.DataFrame | None) -> dict | None:
    """Sensitivity on the test patients' cubes (search/sensitivity.csv, as text) as `rates` and `rows`, all text; None without one.

    A row has a network and, of each rate of false positives a litre, (sensitivity, its interval). Raises InputError for a broken table.
    """
    if table is None:
        return None
    try:
        chosen = table[(table["dataset"] == "test") & (table["group"] == "all")]
        numbers = chosen.astype(dict.fromkeys(("per_litre", "sensitivity", "lower", "upper"), float))
    except (KeyError, ValueError) as error:
        raise InputError(f"real_nodules.csv is damaged ({error}): make the run again") from None
    rows = [
        {"network": name, "cells": [(f"{row.sensitivity:.2f}", f"{row.lower:.2f} to {row.upper:.2f}") for row in part.itertuples()]}
        for name, part in numbers.groupby("network", sort=False)
    ]
    return {"rates": [f"{rate:g}" for rate in numbers["per_litre"].unique()], "rows": rows}


def table2_parts(table: pd.DataFrame | None) -> list[dict]:
    """Table II, a part a benchmark: `benchmark`, `axis` (low, high) of the CPM, and `rows`.

    A row has strategy, cpm, lower, upper, paper (None where the paper has none), the same as `places` in percent of the axis, and
    `points`: (sensitivity, the paper's) at each operating point, as text. Raises InputError for a CPM that is no number.
    """
    if table is None:
        return []
    try:
        numbers = table.drop(columns=["benchmark", "strategy", "converged"], errors="ignore").apply(pd.to_numeric)
    except ValueError as error:
        raise InputError(f"table2.csv is damaged ({error}): make the run again") from None
    shown = numbers[[name for name in ("cpm", "lower", "upper", "paper_cpm") if name in numbers]]
    low, high = _floor(shown.min().min()), 1.0
    parts = []
    for benchmark in table["benchmark"].unique():
        rows = [
            _row(name, values, low, high)
            for name, values, part in zip(table["strategy"], numbers.to_dict("records"), table["benchmark"], strict=True)
            if part == benchmark
        ]
        parts.append({"benchmark": benchmark, "axis": (low, high), "points": POINTS, "rows": rows})
    return parts


def _floor(value):
    """The tenth below a value in [0, 1]; 0 for none."""
    return 0.0 if pd.isna(value) else min(0.9, int(value * 10) / 10)


def _row(name, values, low, high):
    measured = {key: values[key] for key in ("cpm", "lower", "upper")} | {"paper": values.get("paper_cpm")}
    measured = {key: None if pd.isna(value) else value for key, value in measured.items()}
    places = {key: None if value is None else 100 * (value - low) / (high - low) for key, value in measured.items()}
    points = [tuple(_text(values.get(f"{source}fp_{point}")) for source in ("", "paper_")) for point in POINTS]
    return {"strategy": name, **measured, "places": places, "points": points}


def _text(value):
    return "" if value is None or pd.isna(value) else f"{value:.3f}"
