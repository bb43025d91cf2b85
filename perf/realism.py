"""Simulated chests against a real one, and the fast noise against the exact one: numbers, each beside its gate."""

import typer

from lungadv.phantom.realism import REAL, gates, real_chest


def main(persons: int = 6, patches: int = 1000, slices: int = 3):
    """Print the gates. The real chest is that of LUNGADV_REAL_CT (default ../shared/real_ct); without it, the noise alone is measured."""
    real = real_chest()
    if real is None:
        print(f"no real chest {REAL}: LUNGADV_REAL_CT names the folder that holds it")
    table = gates(real, persons, patches, slices)
    table["holds"] = table["holds"].astype(object).where(table["holds"].notna(), "")
    print(table.to_string(index=False, na_rep="", float_format=lambda value: f"{value:.3f}"))


if __name__ == "__main__":
    typer.run(main)
