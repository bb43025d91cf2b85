"""Do two runs hold the same numbers, to the last digit? `python perf/same_tables.py RUN OTHER [--renamed outline=segmentation]`

Compares every table (.csv), tensor file (.safetensors) and array file (.npz) of two run folders, stage by stage. Times, commits and
versions (provenance.json, run.json) and pictures are not compared. Exit code 1 when anything differs or is missing.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file

KINDS = (".csv", ".safetensors", ".npz", ".parquet", ".json")
LEFT_OUT = ("provenance.json", "run.json")
FOLDERS_LEFT_OUT = ("bank-shards", "notebooks")  # shards lie under a hash of the code; banks/ holds the same files


def files(run: Path) -> dict[str, Path]:
    """The files of a run that hold numbers, by their path in it."""
    found = (path for path in run.rglob("*") if path.suffix in KINDS and path.name not in LEFT_OUT)
    parts = {path: path.relative_to(run).parts for path in found}
    kept = [path for path, names in parts.items() if not any(name[0] == "." or name in FOLDERS_LEFT_OUT for name in names)]
    return {str(path.relative_to(run)): path for path in kept}


def same(path: Path, other: Path) -> bool:
    """Whether two files hold the same numbers."""
    if path.suffix not in (".safetensors", ".npz"):
        return path.read_bytes() == other.read_bytes()
    arrays = [load_file(file) if file.suffix == ".safetensors" else dict(np.load(file, allow_pickle=False)) for file in (path, other)]
    first, second = arrays
    return first.keys() == second.keys() and all(np.array_equal(first[key], second[key], equal_nan=True) for key in first)


def main() -> int:
    """Compare, print a line a difference, and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("other", type=Path)
    parser.add_argument("--renamed", action="append", default=[], help="OLD=NEW: a stage of RUN that OTHER calls NEW")
    options = parser.parse_args()
    first, second = files(options.run), files(options.other)
    for rule in options.renamed:
        old, new = rule.split("=")
        first = {f"{new}/{name.removeprefix(f'{old}/')}" if name.startswith(f"{old}/") else name: path for name, path in first.items()}
    differences = [f"only in {options.run}: {name}" for name in sorted(first.keys() - second.keys())]
    differences += [f"only in {options.other}: {name}" for name in sorted(second.keys() - first.keys())]
    differences += [f"differs: {name}" for name in sorted(first.keys() & second.keys()) if not same(first[name], second[name])]
    print("\n".join([*differences, f"{len(first.keys() & second.keys())} files compared, {len(differences)} differences"]))
    return bool(differences)


if __name__ == "__main__":
    sys.exit(main())
