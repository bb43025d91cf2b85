"""Wrong tables, rows outside, rows of scans that are not there."""

import re

import pytest

from lungadv.data.tables import LUNA16
from lungadv.utils.errors import InputError
from lungadv.utils.files import repo_root
from tests.data.ingest.folders import HEADER, luna16, report_of, take

TABLES = {
    "column": ("seriesuid,coordX\n1.2.0,1\n", "no column coordY"),
    "number": (f"{HEADER}\n1.2.0,-10,x,-280,8\n", "annotations.csv, line 2: coordY 'x' is no number"),
    "comma": (f"{HEADER}\n1.2.0,-10,5,-12,-280,8\n", "annotations.csv, line 2 has 6 fields"),
    "twice": (f"{HEADER}\n1.2.0,-10,-12,-280,8\n1.2.0,-10,-12,-280,8\n", "line 3 repeats line 2"),
    "ids": (f"{HEADER}\n1.3E+55,-10,-12,-280,8\n", "line 2: seriesuid '1.3E.55' is a number"),
    "strangers": (f"{HEADER}\n7.7,-10,-12,-280,8\n7.8,-10,-12,-280,8\n", "annotations.csv, line 2: scan '7.7' is not under"),
    "flipped": (f"{HEADER}\n1.2.0,-9,24,-280,8\n1.2.1,5,20,-290,8\n", "all 2 rows of this table fit as x and y negated"),
    "swapped": (f"{HEADER}\n1.2.0,-280,-12,-10,8\n1.2.1,-290,-20,5,8\n", "all 2 rows of this table fit as x and z swapped"),
}


@pytest.mark.parametrize("case", TABLES)
def test_a_wrong_table_is_named_with_its_line(tmp_path, out, case):
    table, reason = TABLES[case]
    with pytest.raises(InputError, match=reason) as error:
        take(luna16(tmp_path / "luna", 2, table), "luna16", out)
    assert "\n" not in str(error.value) and not out.exists()


def test_a_nodule_outside_refuses_its_scan_and_unknown_scans_are_listed(tmp_path, out):
    rows = ["1.2.0,-10,-12,-280,8", "1.2.1,-10,-12,-280,8", "1.2.1,-10,-12,280,8", "7.7,0,0,0,5", "7.7,1,1,1,5"]
    found = take(luna16(tmp_path / "luna", 2, "\n".join([HEADER, *rows, ""])), "luna16", out)
    lines = report_of(out)
    assert (found["taken"], found["refused"], found["nodules"]) == (1, 1, 1)
    assert (found["left_out_rows"], found["left_out_files"]) == (4, 0)
    assert "annotations.csv, line 4: [-10.0, -12.0, 280.0] mm lies outside scan '1.2.1'" in lines["reason"][1]
    assert lines["reason"][2:].tolist() == ["line 3 and 1 more: its scan was refused", "line 5 and 1 more: its scan is not there"]


def test_the_row_that_the_guide_adds_has_the_phantoms_columns():
    text = (repo_root() / "docs" / "how-to" / "luna16.md").read_text(encoding="utf-8")
    added = re.search(r"annotations.csv \| sed 's/\$/(.*?)/'", text)[1]
    assert HEADER.count(",") + added.count(",") + 1 == len([*LUNA16, "type", "attachment"])
