"""Simulated chests against a real one, and the fast noise against the exact one: numbers, each beside its gate."""

import os
from pathlib import Path

import typer

from lungadv import ct, realism

REAL = "lidc_idri_0001/1.3.6.1.4.1.14519.5.2.1.6279.6001.179049373636438705059720603192.mhd"


def main(persons: int = 6, patches: int = 1000, slices: int = 4):
    """Print the gates. The real chest is that of LUNGADV_REAL_CT (default ../shared/real_ct); without it, the noise alone is measured."""
    path = Path(os.environ.get("LUNGADV_REAL_CT") or Path(__file__).resolve().parents[2] / "shared" / "real_ct") / REAL
    if not path.exists():
        print(f"no real chest at {path}: LUNGADV_REAL_CT names the folder that holds it")
    table = realism.gates(ct.read_scan(path) if path.exists() else None, persons, patches, slices)
    table["holds"] = table["holds"].astype(object).where(table["holds"].notna(), "")
    print(table.to_string(index=False, na_rep="", float_format=lambda value: f"{value:.3f}"))


if __name__ == "__main__":
    typer.run(main)
