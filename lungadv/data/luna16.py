"""LUNA16's layout: subsets of scans, tables with its columns, masks of lungs and nodules beside them.

    subset0/<uid>.mhd ... subset9/<uid>.mhd     the scans, in ten folds
    annotations.csv                             nodules of 3 mm and more that three of four readers marked
    annotations_excluded.csv                    what counts neither as a nodule nor as a false positive
    seriesuids.csv                              the scans, one a line, no header
    seg-lungs-LUNA16/<uid>.mhd                  lungs: 3 left, 4 right, 5 trachea
    masks/<uid>.mhd                             nodules: label k is the scan's k-th row of annotations.csv (not in LUNA16 itself)

Source: Setio et al., Medical Image Analysis 42 (2017).
"""

import re
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas as pd

from lungadv.data.tables import LUNA16, read_table

__all__ = ["LUNGS", "NODULES", "is_lung", "read_excluded", "subset_of", "write_tables"]

LUNGS = "seg-lungs-LUNA16/{}.mhd"  # of a uid
NODULES = "masks/{}.mhd"


def is_lung(labels: np.ndarray) -> np.ndarray:
    """Where a volume of LUNA16's lung labels shows lung: bool. 3 is left, 4 right; the trachea, 5, is none."""
    return np.isin(labels, (1, 2, 3, 4))


def subset_of(path: str | Path) -> int | None:
    """The number of the subset that a relative path lies in, or None."""
    found = [re.fullmatch(r"subset(\d)", part) for part in Path(path).parts[:-1]]
    return next((int(match[1]) for match in found if match), None)


def read_excluded(path: str | Path) -> pd.DataFrame:
    """annotations_excluded.csv: findings that count neither way, each once. A diameter below 0 means that none was given.

    Raises AnnotationError as `tables.read_table`; LUNA16 itself repeats rows, which harms nothing.
    """
    return read_table(path, LUNA16, repeats=True)[LUNA16].drop_duplicates()


def write_tables(folder: Path, uids: Iterable[str], nodules: pd.DataFrame) -> None:
    """Write the tables that LUNA16's evaluation reads, seriesuids.csv (no header) and annotations.csv, into a folder."""
    (folder / "seriesuids.csv").write_text("".join(f"{uid}\n" for uid in uids))
    nodules[[*LUNA16, "type", "attachment"]].to_csv(folder / "annotations.csv", index=False)
