"""Tables of nodules and lists of scans: one strict CSV reader, whose errors name the file, the line and the remedy.

A wrong table seldom fails by itself: a flipped axis, an id that a spreadsheet rounded or a dropped row only makes results worse.
Here each of these is an error. Ids stay text: as a number `056` becomes 56, and a spreadsheet saves a series UID as `1.3E+55`.
No field is skipped or filled in, and rows keep the file's line numbers.
"""

import codecs
import csv
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from lungadv.utils.errors import printable
from lungadv.utils.files import atomic_write

__all__ = [
    "FORMULA", "LUNA16", "SMALLEST_MM", "SUBSOLID", "TYPES", "UNSPECIFIED", "XYZ", "AnnotationError", "at_line", "check_scans",
    "check_types", "read_nodules", "read_table", "read_uids", "to_numbers", "write_table",
]  # fmt: skip

XYZ = ["coordX", "coordY", "coordZ"]  # LPS mm
LUNA16 = ["seriesuid", *XYZ, "diameter_mm"]  # the columns of LUNA16's annotations.csv
NUMBERS = (*XYZ, "diameter_mm", "probability")  # every other column of a table is text
SMALLEST_MM = 6.0  # smaller nodules are left out of training and scoring, as in the paper
TYPES = ("solid", "fully_calcified", "part_solid", "ground_glass")
SUBSOLID = ("part_solid", "ground_glass")  # under-represented in training
UNSPECIFIED = "unspecified"  # the type of a nodule whose table does not say it, such as LUNA16's
FORMULA = ("=", "+", "-", "@")  # what a spreadsheet takes for a formula begins so, unless it is a number
ID_COLUMNS = ("seriesuid", "seriesuids", "seriesinstanceuid", "seriesid", "scanid", "uid", "uids", "id")  # how lists of scans are headed


class AnnotationError(ValueError):
    """A table or reading that cannot be used: one line that names the file, what is wrong and what to do."""

    def __init__(self, message: str):
        super().__init__(" ".join(printable(message).split()))


def quoted(text: str, longest: int = 80) -> str:
    """A text in quotation marks for a message, cut after `longest` characters."""
    return f"'{text}'" if len(text) <= longest else f"'{text[:longest]}...'"


def at_line(path: str | Path, line: int) -> str:
    """How errors name a line of a table."""
    return f"{Path(path).name}, line {line}"


def read_table(path: str | Path, columns: Sequence[str], repeats: bool = False, blank: Sequence[str] = ()) -> pd.DataFrame:
    """A comma- or tab-separated table with all its columns: NUMBERS as float, the others as text.

    Args:
        path: the file, in UTF-8.
        columns: those that it must have.
        repeats: whether a row may come twice.
        blank: columns of NUMBERS that may be left empty: NaN.

    Returns: the table; its index holds the file's line numbers.

    Raises AnnotationError for a file that is no such table, a missing column, or a row of too many or too few fields (decimal commas).
    So it does for a number that is none or not finite, for ids that a spreadsheet made numbers, and for a row that comes twice.
    """
    header, lines, rows = _read_fields(path, columns)
    missing = [column for column in columns if column not in header]
    if missing:
        raise AnnotationError(f"'{path}' has no column {', '.join(missing)}: it needs {', '.join(columns)}")
    table = pd.DataFrame(rows, columns=header, index=pd.Index(lines, dtype=int), dtype=object)
    if "seriesuid" in table:
        _check_ids(path, table["seriesuid"])
    for column in table.columns.intersection(NUMBERS):
        table[column] = to_numbers(path, column, table[column], column in blank)
    if not repeats and table.duplicated().any():
        twice = table.index[table.duplicated()][0]
        first = table.index[(table == table.loc[twice]).all(axis=1)][0]
        raise AnnotationError(f"{at_line(path, twice)} repeats line {first}: list each row once")
    return table


def _read_fields(path: str | Path, columns: Sequence[str]) -> tuple[list[str], list[int], list[list[str]]]:
    """The header, the line numbers and the fields of each row of a table."""
    wanted = f"a table with {', '.join(columns)}" if columns else "a table"
    found = _read_rows(path, wanted)
    if not found:
        raise AnnotationError(f"'{path}' cannot be read as CSV (it is empty): give {wanted}")
    header = [name.strip() for name in found[0][1]]
    if len(header) == 1 and ";" in header[0]:
        raise AnnotationError(f"'{path}' is separated by semicolons: save it with commas or tabs, and with decimal points")
    for k, name in enumerate(header):
        if name in header[:k]:
            raise AnnotationError(f"'{path}' has two columns {quoted(name)}: keep one")
    for line, fields in found[1:]:
        if len(fields) != len(header):
            hint = "are decimals written with a comma? write 10.5, not 10,5" if len(fields) > len(header) else "complete the row"
            raise AnnotationError(f"{at_line(path, line)} has {len(fields)} fields, the header {len(header)}: {hint}")
    return header, [line for line, _ in found[1:]], [fields for _, fields in found[1:]]


def _read_rows(path: str | Path, wanted: str) -> list[tuple[int, list[str]]]:
    """Line number and fields of each row of a file of commas or tabs. wanted: what the file should be, for the message."""
    try:
        with open(path, "rb") as file:
            if file.read(2) in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
                raise AnnotationError(f"'{path}' cannot be read: it is in UTF-16 (Excel's 'Unicode text'); save it as 'CSV UTF-8'")
        with open(path, encoding="utf-8-sig", newline="") as file:
            first = file.readline()
            if first.lower().startswith("sep="):
                raise AnnotationError(f"'{path}' begins with Excel's line {quoted(first.strip())}: remove that line")
            file.seek(0)
            reader = csv.reader(file, delimiter="\t" if "\t" in first else ",", skipinitialspace=True, strict=True)
            return [(reader.line_num, fields) for fields in reader if fields]
    except UnicodeDecodeError:
        raise AnnotationError(f"'{path}' cannot be read as CSV: it is not UTF-8; save it as 'CSV UTF-8'") from None
    except (OSError, csv.Error) as error:
        raise AnnotationError(f"'{path}' cannot be read as CSV ({error}): give {wanted}") from None


def _check_ids(path: str | Path, ids: pd.Series):
    """AnnotationError for an id that is empty, or a number as spreadsheets write it: 1.3E+55 or 56.0."""
    ids = ids.drop_duplicates()
    bad = ids[(ids.str.strip() == "") | ids.str.fullmatch(r"\d+([.,]\d+)?E\+\d+|\d+\.0", flags=re.ASCII | re.IGNORECASE)]
    if not len(bad):
        return
    place, uid = at_line(path, bad.index[0]), bad.iloc[0]
    if not uid.strip():
        raise AnnotationError(f"{place}: the seriesuid is empty: write the scan's id")
    raise AnnotationError(
        f"{place}: seriesuid {quoted(uid)} is a number, not an id (a spreadsheet saved it so, and digits are lost): "
        "take the file from its source again and keep the ids as text"
    )


def to_numbers(path: str | Path, column: str, texts: pd.Series, blank: bool = False) -> pd.Series:
    """A column of texts as float; empty ones are NaN if they may be `blank`. Raises AnnotationError for a text that is no finite number."""
    values = pd.to_numeric(texts, errors="coerce").astype(float)
    bad = texts[~(np.isfinite(values) | (blank & (texts == "")))]
    if len(bad):
        comma = re.fullmatch(r"\s*[+-]?\d+,\d+\s*", bad.iloc[0], flags=re.ASCII)
        hint = f"write {bad.iloc[0].strip().replace(',', '.')}, with a decimal point" if comma else "correct it"
        raise AnnotationError(f"{at_line(path, bad.index[0])}: {column} {quoted(bad.iloc[0])} is no number: {hint}")
    return values


def check_scans(scans: Iterable[str]) -> pd.Index:
    """The listed scans as a pandas Index.

    A detector is judged on all scans that were searched, with or without a nodule.
    Raises AnnotationError for none, a text or table instead of a list, a header line, an id that is not text, or one listed twice.
    """
    if isinstance(scans, str | pd.DataFrame):
        raise AnnotationError("the scans are given as a text or table, not as a list: give a list of ids, such as the column seriesuid")
    scans = pd.Index(list(scans), dtype=object)
    if not len(scans):
        raise AnnotationError("no scan is listed: give the series UIDs of all scans that were searched, nodule-free ones included")
    if not all(isinstance(uid, str) for uid in scans):
        raise AnnotationError("the list of scans holds numbers or gaps, not text; read the ids as text")
    for uid in scans[scans.str.replace(r"[\s_-]", "", regex=True).str.lower().isin(ID_COLUMNS)]:
        raise AnnotationError(f"the list of scans has a header line '{uid}', which would count as a scan; remove it")
    if scans.has_duplicates:
        raise AnnotationError(f"scan {quoted(scans[scans.duplicated()][0])} is listed twice and would count twice; list it once")
    return scans


def read_uids(path: str | Path) -> list[str]:
    """The ids of the scans, one a line, no header. They may be quoted, or followed by commas.

    Raises AnnotationError as `check_scans`, for a line that holds more than an id, and for an id that a spreadsheet made a number.
    """
    rows = [(line, [field.strip() for field in fields]) for line, fields in _read_rows(path, "a text file of series UIDs, one a line")]
    for line, (_, *more) in rows:
        if any(more):
            raise AnnotationError(f"{at_line(path, line)} has more than an id: give a list of series UIDs alone, one a line")
    uids = pd.Series({line: uid for line, (uid, *_) in rows if uid}, dtype=object)
    _check_ids(path, uids)
    try:
        return check_scans(uids).tolist()
    except AnnotationError as error:
        raise AnnotationError(f"{path}: {error}") from None


def read_nodules(path: str | Path, uid: str | None = None) -> pd.DataFrame:
    """A CSV of nodules: LUNA16's columns (mm), type, attachment, spiculated ("True", "False" or "").

    Args:
        path: the table; type, attachment and spiculated may be left out.
        uid: the id of the only scan, for a table without a column seriesuid.

    Raises AnnotationError as `read_table`, and for a diameter that is not above 0, an unknown type, or another word in spiculated.
    """
    table = read_table(path, LUNA16[1:])
    if "seriesuid" not in table and uid is None:
        raise AnnotationError(f"'{path}' has no column seriesuid: only with a single scan it may be left out; add it")
    if "seriesuid" not in table:
        table["seriesuid"] = uid
    for name, unknown in (("type", UNSPECIFIED), ("attachment", ""), ("spiculated", "")):
        if name not in table:
            table[name] = unknown
    for line, diameter in table["diameter_mm"][table["diameter_mm"] <= 0].items():
        raise AnnotationError(f"{at_line(path, line)}: diameter_mm {diameter:g} is not above 0: correct it, or move it to the excluded")
    check_types(table, path)
    for line, word in table["spiculated"][~table["spiculated"].isin(["True", "False", ""])].items():
        raise AnnotationError(f"{at_line(path, line)}: spiculated {quoted(word)}: write True or False, or leave it empty")
    return table[[*LUNA16, "type", "attachment", "spiculated"]]


def check_types(table: pd.DataFrame, path: str | Path) -> None:
    """Raise AnnotationError at the first row whose type is none of TYPES, nor UNSPECIFIED. path: the table's file, for the message."""
    for line, name in table["type"][~table["type"].isin([*TYPES, UNSPECIFIED])].items():
        raise AnnotationError(f"{at_line(path, line)}: unknown type {quoted(name)}: write one of {', '.join([*TYPES, UNSPECIFIED])}")


def write_table(table: pd.DataFrame, path: str | Path, **options: Any) -> None:
    """Write a table as CSV, whole or not at all; its texts may come from anybody's files. options: further ones of `to_csv`.

    No spreadsheet will take a text for a formula: such a one gets an apostrophe in front, in the column `path` a `./`. Every row is one
    line: control characters become escapes, such as \\n.
    """
    texts = {name: table[name].map(lambda value, sign="./" if name == "path" else "'": _harmless(value, sign)) for name in table}
    with atomic_write(path) as temporary:
        table.assign(**texts).to_csv(temporary, index=False, **options)


def _harmless(value: object, sign: str) -> object:
    """A text with `sign` in front if it begins as a formula, and escapes for control characters; other values as they are."""
    if not isinstance(value, str):
        return value
    text = re.sub(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]", lambda found: found[0].encode("unicode_escape").decode(), value)
    return sign + text if text.startswith(FORMULA) and not all(map(_is_number, text.split())) else text


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True
