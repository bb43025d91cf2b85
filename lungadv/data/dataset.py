"""The scans of a run, what is known of them, and their parts: train, validation, the benchmarks in-house and nlst, and further tests.

A data set is a folder of tables:

    scans.csv                  seriesuid, dataset, path, lungs, labels, store (files, relative to this table)
    annotations.csv            the nodules of 6 mm and more
    annotations_excluded.csv   smaller nodules, and what readers disagreed on: neither hits nor false positives
    mimics.csv                 what looks like a nodule and is none (phantom only): a mark there is a false positive
"""

import os
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from lungadv.data import lungs, store
from lungadv.data.io.read import read_header, read_scan
from lungadv.data.luna16 import is_lung
from lungadv.data.scan import Scan, ScanError
from lungadv.data.tables import LUNA16, SMALLEST_MM, UNSPECIFIED, XYZ
from lungadv.utils.errors import InputError, plural

__all__ = [
    "BENCHMARKS", "DATASETS", "EXTRA_TESTS", "FILES", "MIMICS", "NODULES", "Data", "balls", "check_nodules", "left_out", "load_data",
    "open_store", "relabel", "same_grid", "series_in", "set_types", "write_data",
]  # fmt: skip

DATASETS = ("train", "validation", "in-house", "nlst")
BENCHMARKS = ("in-house", "nlst")
EXTRA_TESTS = ("shifted",)  # scored and reported apart; a run may have none
NODULES = [*LUNA16, "type", "attachment", "spiculated", "dataset", "label"]
MIMICS = [*LUNA16, "kind", "dataset"]
FILES = ("path", "lungs", "labels", "store")  # columns of scans.csv


@dataclass(frozen=True, eq=False)
class Data:
    """Scans and what is known of them.

    scans: seriesuid, dataset, path, lungs, labels, store (files; empty where there is none).
    annotations, excluded: NODULES. mimics: MIMICS.
    """

    scans: pd.DataFrame
    annotations: pd.DataFrame
    excluded: pd.DataFrame
    mimics: pd.DataFrame

    known = (*DATASETS, *EXTRA_TESTS)  # names of data sets

    def of(self, dataset: str) -> "Data":
        """The part that belongs to one of the `known` data sets; InputError for another name."""
        if dataset not in self.known:
            raise InputError(f"unknown data set '{dataset}': choose one of {', '.join(self.known)}")
        tables = ("scans", "annotations", "excluded", "mimics")
        return replace(self, **{name: self._rows(name, "dataset", dataset) for name in tables})

    @property
    def datasets(self) -> list[str]:
        """The data sets that must be there, and the extra tests that are."""
        return [*DATASETS, *(name for name in EXTRA_TESTS if name in set(self.scans["dataset"]))]

    @property
    def uids(self) -> list[str]:
        """The scans' ids."""
        return self.scans["seriesuid"].tolist()

    def scan(self, uid: str) -> Scan:
        """The whole scan of a uid."""
        kept = self._stored_series(uid)
        if kept:
            return replace(kept, hu=np.asarray(kept.hu))
        path = self._file(uid, "path")
        return replace(read_scan(path, series_in(path, uid)), uid=uid)

    def open_scan(self, uid: str) -> Scan:
        """The scan of a uid where it is only sliced, as for patches: that of its store or, without one, the whole."""
        file = self._file(uid, "store")
        return open_store(file, uid) if file else self.scan(uid)

    def lungs(self, uid: str) -> np.ndarray:
        """Where the scan's lungs are: bool (z, y, x), from its lung file or, without one, by lungs.lung_mask."""
        if not self._file(uid, "lungs"):
            return lungs.lung_mask(self.scan(uid))
        return is_lung(self._mask(uid, "lungs"))

    def labels(self, uid: str) -> np.ndarray:
        """uint8 (z, y, x): k in the k-th of the scan's annotated nodules; without a mask file, balls of the annotated diameters."""
        rows = self._rows("annotations", "seriesuid", uid)
        if not self._file(uid, "labels"):
            return balls(self._header(uid), rows)
        number = np.zeros(255, dtype=np.uint8)
        number[rows["label"].to_numpy() - 1] = np.arange(1, len(rows) + 1)
        return relabel(self._mask(uid, "labels"), number)

    def _rows(self, table: str, column: str, value: str) -> pd.DataFrame:
        """The rows of one of the tables in which a column has a value."""
        table = getattr(self, table)
        return table[table[column] == value].reset_index(drop=True)

    def _file(self, uid: str, column: str) -> str:
        """A scan's entry in one of the columns FILES."""
        rows = self._rows("scans", "seriesuid", uid)
        if rows.empty:
            raise InputError(f"no scan '{uid}' in these data: choose one of scans.csv")
        return rows[column][0]

    def _stored_series(self, uid: str) -> Scan | None:
        """The store of a DICOM series, as ingest read it, so that what else lies in the folder does not matter; None for other scans."""
        file = self._file(uid, "store")
        return open_store(file, uid) if file and os.path.isdir(self._file(uid, "path")) else None

    def _header(self, uid: str) -> Scan:
        """A scan without its voxels."""
        kept = self._stored_series(uid)
        if kept:
            return kept
        path = self._file(uid, "path")
        return read_header(path, series_in(path, uid))

    def _mask(self, uid: str, column: str) -> np.ndarray:
        """A scan's lungs or labels as its file has them: uint8 (z, y, x). InputError when they do not lie on the scan's grid."""
        mask, scan = read_scan(self._file(uid, column)), self._header(uid)
        if not same_grid(mask, scan) or not 0 <= mask.hu.min() <= mask.hu.max() <= 255:
            raise InputError(f"'{self._file(uid, column)}' is no mask on the grid of scan '{uid}' {scan.hu.shape}: make it anew")
        return mask.hu.astype(np.uint8)


def open_store(file: str | Path, uid: str) -> Scan:
    """The scan of a store, which must have that uid: ScanError otherwise."""
    opened = store.open_scan(file)
    if opened.uid != uid:
        raise ScanError(f"store '{file}' holds scan '{opened.uid}', not '{uid}': name the store of this scan, or make it anew")
    return opened


def same_grid(one: Scan, other: Scan) -> bool:
    """Whether the voxels of two scans lie at the same places."""
    geometry = ("spacing", "origin", "direction")
    return one.hu.shape == other.hu.shape and all(np.allclose(getattr(one, name), getattr(other, name), atol=1e-3) for name in geometry)


def series_in(path: str | Path, uid: str) -> str | None:
    """Which series to read of a path: of a DICOM folder the one of that uid, since there may be others; a file holds one scan."""
    return uid if os.path.isdir(path) else None


def relabel(labels: np.ndarray, number: np.ndarray) -> np.ndarray:
    """uint8 labels in which k has become number[k - 1]; 0 stays 0, and so becomes what is beyond `number`."""
    table = np.zeros(256, dtype=np.uint8)
    table[1 : len(number) + 1] = number
    return table[labels]


def balls(scan: Scan, nodules: pd.DataFrame) -> np.ndarray:
    """uint8 (z, y, x) on the scan's grid: k in a ball of the k-th row's diameter around its centre."""
    labels = np.zeros(scan.hu.shape, dtype=np.uint8)
    for k, (*centre, diameter) in enumerate(nodules[[*XYZ, "diameter_mm"]].to_numpy(), start=1):
        voxel = scan.to_voxel([centre])[0].round().astype(int)
        reach = np.ceil(diameter / 2 / np.array(scan.spacing[::-1])).astype(int) + 1
        first, last = np.maximum(voxel - reach, 0), np.minimum(voxel + reach + 1, labels.shape)
        index = np.stack(np.meshgrid(*map(np.arange, first, last), indexing="ij"), axis=-1).reshape(-1, 3)
        inside = index[np.linalg.norm(scan.to_world(index) - centre, axis=1) <= diameter / 2]
        labels[tuple(inside.T)] = k
    return labels


def write_data(data: Data, folder: Path) -> None:
    """Write the four tables of a data set into a folder; files of scans under it are best named relative to it."""
    data.scans.to_csv(folder / "scans.csv", index=False)
    data.annotations.to_csv(folder / "annotations.csv", index=False)
    data.excluded.to_csv(folder / "annotations_excluded.csv", index=False)
    data.mimics.to_csv(folder / "mimics.csv", index=False)


def load_data(folder: Path, kind: type[Data] = Data) -> Data:
    """The data set that `write_data` wrote into a folder, with absolute paths of files, as a `Data` or a kind of it."""

    def table(name):
        return pd.read_csv(folder / f"{name}.csv", dtype=dict.fromkeys(("seriesuid", *FILES), str), keep_default_na=False)

    scans = table("scans")
    for column in FILES:
        scans[column] = [str(folder / name) if name else "" for name in scans[column]]
    return kind(scans, *(set_types(table(name)) for name in ("annotations", "annotations_excluded", "mimics")))


def set_types(table: pd.DataFrame) -> pd.DataFrame:
    """A table of nodules or mimics with numbers as float, labels as int and spiculated as bool; without that column none is."""
    numbers = dict.fromkeys([*XYZ, "diameter_mm"], float) | ({"label": int} if "label" in table else {})
    if "type" in table:  # nodules
        table = table.assign(spiculated=table.get("spiculated", pd.Series("", table.index)).astype(str) == "True")
    return table.astype(numbers)


def check_nodules(data: Data) -> None:
    """Raise InputError for a data set without a nodule: nothing could be trained on it, calibrated or scored."""
    for name in DATASETS:
        if data.of(name).annotations.empty:
            remedy = "list scans of it in the manifest and their nodules in annotations.csv"
            raise InputError(f"data set '{name}' has no nodule of {SMALLEST_MM:g} mm or more: {remedy}")


def left_out(data: Data) -> list[str]:
    """What a run on these data leaves out, one plain sentence each; none where nothing is missing."""
    nodules, sentences = data.annotations, []
    empty = [f"'{name}'" for name in DATASETS if data.of(name).annotations.empty]
    if empty:
        needs = "a run needs one in each of the four data sets"
        sentences.append(f"No nodule of {SMALLEST_MM:g} mm or more is in {', '.join(empty)}: {needs}.")
    unknown = int((nodules["type"] == UNSPECIFIED).sum())
    if unknown:
        rest = "Table I has them in its total alone"
        sentences.append(f"Types are missing for {unknown} of {plural(len(nodules), 'nodule')}: {rest}.")
    with_nodules = data.scans[data.scans["seriesuid"].isin(nodules["seriesuid"])]
    bare = int((with_nodules["labels"] == "").sum())
    if bare:
        instead = "balls of the annotated diameter stand for them"
        sentences.append(f"Outlines are missing for {bare} of {plural(len(with_nodules), 'scan')} with nodules: {instead}.")
    if len(nodules) and (nodules["attachment"] == "").all():
        sentences.append("No nodule says what it touches: misses are not split by attachment.")
    if data.excluded.empty:
        sentences.append("No finding is excluded: a mark on what readers disagree about counts as a false positive.")
    if data.mimics.empty:
        sentences.append("No mimics are known: false positives are told by the tissue they lie on alone.")
    segmented = int((data.scans["lungs"] == "").sum())
    if segmented:
        sentences.append(f"Lungs are missing for {segmented} of {plural(len(data.scans), 'scan')}: they are segmented by thresholds.")
    return sentences
