"""The kinds of data sets that can be ingested: ONE registry. A new kind is one entry here."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from lungadv.data.ingest.contents import Contents
from lungadv.data.ingest.readings import Nodules, nodules_beside_rows, nodules_of_readers, unread_nodules
from lungadv.data.io.read import FILE_KINDS
from lungadv.data.scan import Scan
from lungadv.utils.errors import InputError

__all__ = ["SOURCES", "Source", "check_source"]

LUNA16_TABLES = {"annotations": "annotations.csv", "excluded": "annotations_excluded.csv", "mimics": "mimics.csv"}


@dataclass(frozen=True)
class Source:
    """A kind of data set.

    items: what is read one by one, "scans" (files), "folders" (of DICOM slices) or "cubes".
    lacks: what a folder of another kind does not hold, for the message.
    nodules: from (file of the scan's reading or None, the rows of its table, scan) to what readings say of its nodules.
    uses_readings, needs_readings: whether LIDC's XML is looked at, and must be there.
    tables: the tables that are read, by what they list. needs_table: whether annotations.csv must be there.
    card: the data-set card in data_manifests whose counts are compared, or None.
    """

    items: str
    lacks: str
    nodules: Callable[[Path | None, list[dict], Scan], Nodules]
    uses_readings: bool = True
    needs_readings: bool = False
    tables: dict[str, str] = field(default_factory=lambda: LUNA16_TABLES)
    needs_table: bool = False
    card: str | None = None

    def fits(self, contents: Contents) -> bool:
        """Whether a folder's contents are of this kind."""
        return bool(getattr(contents, self.items) and (contents.xml or not self.needs_readings))


SOURCES = {  # the first that fits is what a folder looks like
    "nodule-cubes": Source("cubes", "no cube of a nodule (<seriesuid>_dcm_<k>.mha)", unread_nodules, tables={}, card="nodule_cubes.json"),
    "luna16": Source("scans", f"no scan file ({', '.join(FILE_KINDS)})", nodules_beside_rows, needs_table=True, card="luna16.json"),
    "lidc": Source("folders", "no DICOM folder with LIDC XML", nodules_of_readers, needs_readings=True, tables={}, card="lidc_idri.json"),
    "dicom": Source("folders", "no DICOM slice", unread_nodules, uses_readings=False),
}


def source_of(contents: Contents) -> str | None:
    """The kind that a folder's contents look like, or None."""
    return next((kind for kind, source in SOURCES.items() if source.fits(contents)), None)


def check_source(contents: Contents, kind: str, root: str | Path) -> None:
    """Raise InputError when a folder's contents are not of the kind that was named; it says which kind they look like."""
    if kind not in SOURCES:
        raise InputError(f"unknown kind '{kind}': choose one of {', '.join(SOURCES)}")
    if not contents.scans and not contents.cubes and not contents.folders:
        named = ", ".join(f"'{name}'" for name in contents.zips[:10])
        named += f" and {len(contents.zips) - 10} more" if len(contents.zips) > 10 else ""
        what = f"zip files but no scan: unpack {named} first" if contents.zips else "XML but no scan: put the images beside it"
        raise InputError(f"'{root}' holds {what}")
    if not SOURCES[kind].fits(contents):
        raise InputError(f"'{root}' holds {SOURCES[kind].lacks}: it looks like --kind {source_of(contents)}")
