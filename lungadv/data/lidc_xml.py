"""LIDC-IDRI's XML files: the outlines and ratings of up to four radiologists.

Of a nodule of 3 mm and more each reader drew an outline on every slice, and rated its texture, calcification and more. A smaller nodule is
one point, and so is what a reader thought no nodule (a scar, say). The outline's own pixels are the first ones *outside* the nodule. An
outline whose `inclusion` is FALSE encloses what is not part of it, a cavity say. Source: TCIA, LIDC XML file documentation.

The XML is read without document types and entities, as a few lines of nested entities can fill any memory.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from xml.etree.ElementTree import Element, ParseError

import numpy as np

from lungadv.data.tables import AnnotationError, quoted

__all__ = ["Contour", "Finding", "Reading", "read_lidc"]

READERS = 4  # of every scan of LIDC-IDRI
MAX_XML_BYTES = 2**26  # LIDC's largest has 3 MB
MAX_PIXEL = 2**13
MAX_RATING = 6
MAX_Z_MM = 1e5


@dataclass(frozen=True, eq=False)
class Contour:
    """An outline on one slice: its pixels (N, 2) in x, y are the first outside of what it encloses. inclusion: whether that is nodule."""

    points: np.ndarray = field(repr=False)
    z: float  # mm, the slice's position
    inclusion: bool = True


@dataclass(frozen=True, eq=False)
class Finding:
    """What one reader marked: contours, the ratings by name ("texture": 1 to 5, ...)."""

    name: str
    contours: tuple[Contour, ...]
    ratings: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Session:
    """One reader's findings: nodules of 3 mm and more (outlined), small ones and non-nodules (a point each)."""

    nodules: tuple[Finding, ...]
    small: tuple[Finding, ...]
    non_nodules: tuple[Finding, ...]


@dataclass(frozen=True, eq=False)
class Reading:
    """All readers' findings in the CT series `uid`. remark: what is unusual about it, or ""."""

    path: Path
    uid: str
    sessions: tuple[Session, ...]
    remark: str


def read_lidc(path: str | Path) -> Reading:
    """Read an XML file of LIDC-IDRI, of either root (LidcReadMessage, IdriReadMessage) in any namespace.

    Raises AnnotationError for a file that is no reading, or one of a chest radiograph. So it does for a reading that is incomplete.
    """
    path = Path(path)
    root = _parse(path)
    if _tag(root) not in ("LidcReadMessage", "IdriReadMessage"):
        raise AnnotationError(f"'{path}' is no LIDC reading: its root is <{_tag(root)[:80]}>, not <LidcReadMessage>")
    header = {_tag(entry).lower(): (entry.text or "").strip() for part in _children(root, "ResponseHeader") for entry in part}
    if header.get("modality", "CT").upper() != "CT" or _children(root, "CXRreadingSession"):
        raise AnnotationError(f"'{path}' is the reading of a chest radiograph: leave it out, only those of CTs are used")
    uid = header.get("ctseriesinstanceuid") or header.get("seriesinstanceuid")
    if not uid:
        raise AnnotationError(f"'{path}' does not say which series it is of (SeriesInstanceUid): get it from TCIA again")
    sessions = tuple(_session(path, part) for part in _children(root, "readingSession"))
    if not sessions:
        raise AnnotationError(f"'{path}' holds no reading session: get it from TCIA again, or leave the scan out")
    remark = "" if len(sessions) == READERS else f"{len(sessions)} reading sessions instead of {READERS}"
    return Reading(path, uid, sessions, remark)


def _parse(path: Path) -> Element:
    """The root element of a file."""
    from defusedxml import DefusedXmlException
    from defusedxml.ElementTree import parse

    try:
        size = path.stat().st_size
        if size > MAX_XML_BYTES:
            raise AnnotationError(f"'{path}' has {size >> 20} MiB, far more than any LIDC reading: give LIDC's own file")
        return parse(path, forbid_dtd=True).getroot()
    except DefusedXmlException:
        raise AnnotationError(f"'{path}' holds a document type or entities, which could unfold without end: give LIDC's own file") from None
    except (OSError, ParseError, LookupError, UnicodeError) as error:
        raise AnnotationError(f"'{path}' cannot be read as XML ({error}): get it from TCIA again") from None


def _tag(element: Element) -> str:
    """An element's name without its namespace."""
    return element.tag.rpartition("}")[2]


def _children(element: Element, name: str) -> list[Element]:
    return [child for child in element if _tag(child) == name]


def _session(path: Path, element: Element) -> Session:
    nodules = [_nodule(path, part) for part in _children(element, "unblindedReadNodule")]
    outlined = [any(contour.inclusion and len(contour.points) > 1 for contour in nodule.contours) for nodule in nodules]
    return Session(
        tuple(nodule for nodule, drawn in zip(nodules, outlined, strict=True) if drawn),
        tuple(nodule for nodule, drawn in zip(nodules, outlined, strict=True) if not drawn),
        tuple(_non_nodule(path, part) for part in _children(element, "nonNodule")),
    )


def _nodule(path: Path, element: Element) -> Finding:
    name = _text(element, "noduleID")
    where = f"'{path}', nodule {quoted(name)}"
    contours = tuple(_contour(where, roi, "edgeMap", _text(roi, "inclusion")) for roi in _children(element, "roi"))
    if not any(contour.inclusion for contour in contours):
        raise AnnotationError(f"{where} has no outline and no point: get the file from TCIA again")
    rated = [rating for part in _children(element, "characteristics") for rating in part if (rating.text or "").strip()]
    return Finding(name, contours, {_tag(rating): _number(where, _tag(rating), rating.text, 0, MAX_RATING) for rating in rated})


def _non_nodule(path: Path, element: Element) -> Finding:
    name = _text(element, "nonNoduleID")
    return Finding(name, (_contour(f"'{path}', non-nodule {quoted(name)}", element, "locus"),))


def _contour(where: str, element: Element, points: str, inclusion: str = "TRUE") -> Contour:
    """The contour of an element whose children `points` hold the pixels."""
    if inclusion.upper() not in ("TRUE", "FALSE"):
        raise AnnotationError(f"{where}: inclusion {quoted(inclusion)} is neither TRUE nor FALSE: get the file from TCIA again")
    drawn = _children(element, points)
    pixels = [[_number(where, name, _text(point, name), 0, MAX_PIXEL) for name in ("xCoord", "yCoord")] for point in drawn]
    if not pixels:
        raise AnnotationError(f"{where} has an outline without points: get the file from TCIA again")
    z = _number(where, "imageZposition", _text(element, "imageZposition"), -MAX_Z_MM, MAX_Z_MM, float)
    return Contour(np.array(pixels), z, inclusion.upper() == "TRUE")


def _text(element: Element, name: str) -> str:
    """The text of the child of that name, "" without one."""
    return next(((child.text or "").strip() for child in element if _tag(child) == name), "")


def _number(where: str, name: str, text: str, low: float, high: float, kind: Callable = int) -> float:
    """A text as a number between limits; `where` and `name` are for the message."""
    try:
        value = kind(text)
    except ValueError:
        value = np.nan
    if not low <= value <= high:
        kind = "whole number" if kind is int else "number"
        raise AnnotationError(f"{where}: {name} {quoted(text or '')} is no {kind} from {low:g} to {high:g}: get the file from TCIA again")
    return value
