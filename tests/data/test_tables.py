"""Tables by comma or tab, lists of scans, and every way in which they are wrong."""

import csv

import pandas as pd
import pytest

from lungadv.data.lidc_xml import read_lidc
from lungadv.data.tables import LUNA16, XYZ, AnnotationError, read_nodules, read_table, read_uids, write_table

HEAD = ",".join(LUNA16) + "\n"


def test_tables_by_comma_or_tab_give_the_same(tmp_path):
    comma, tab = tmp_path / "a.csv", tmp_path / "a.tsv"
    comma.write_text("\ufeff" + HEAD + '056, 1,-2e1,+3.5,6\n\n"57",1,2,3,6\n', encoding="utf-8")
    tab.write_text(HEAD.replace(",", "\t") + "056\t1\t-20\t3.5\t6\n\n57\t1\t2\t3\t6\n")
    one, other = read_table(comma, LUNA16), read_table(tab, LUNA16)
    pd.testing.assert_frame_equal(one, other)
    assert one.index.tolist() == [2, 4] and one["seriesuid"].tolist() == ["056", "57"]
    assert one.dtypes[1:].tolist() == [float] * 4 and one.loc[2, XYZ].tolist() == [1, -20, 3.5]


BAD_TABLES = {
    "nothing": ("", "cannot be read as CSV .*empty"),
    "column": ("seriesuid,coordX\na,1\n", "no column coordY, coordZ, diameter_mm"),
    "two columns": (HEAD.strip() + ",coordX\na,1,2,3,6,1\n", "two columns 'coordX'"),
    "semicolons": (HEAD.replace(",", ";") + "a;1,5;2;3;6\n", "semicolons"),
    "decimal commas": (HEAD + "a,1,5,2,5,3,5,6,5\n", "line 2 has 9 fields, the header 5: .*write 10.5"),
    "quoted comma": (HEAD + 'a,1,2,"-3,5",6\n', r"line 2: coordZ '-3,5' is no number: write -3\.5"),
    "short": (HEAD + "a,1,2,3,6\nb,1,2\n", "line 3 has 3 fields"),
    "text": (HEAD + "a,1,2,three,6\n", "line 2: coordZ 'three' is no number"),
    "nan": (HEAD + "a,1,2,nan,6\n", "line 2: coordZ 'nan'"),
    "gap": (HEAD + "a,1,2,,6\n", "line 2: coordZ ''"),
    "infinite": (HEAD + "a,1,2,1e999,6\n", "line 2: coordZ '1e999'"),
    "spreadsheet": (HEAD + "1.3E+55,1,2,3,6\n", r"line 2: seriesuid '1.3E\+55' is a number, not an id"),
    "german spreadsheet": (HEAD.replace(",", "\t") + "1,3E+55\t1\t2\t3\t6\n", "is a number, not an id"),
    "floats": (HEAD + "56.0,1,2,3,6\n", "'56.0' is a number, not an id"),
    "no id": (HEAD + " ,1,2,3,6\n", "line 2: the seriesuid is empty"),
    "twice": (HEAD + "a,1,2,3,6\n\na,1,2,3,6\n", "line 4 repeats line 2"),
    "quote": (HEAD + 'a,1,2,"3,6\n', "cannot be read as CSV"),
}


@pytest.mark.parametrize("case", BAD_TABLES)
def test_bad_tables_name_file_line_and_remedy(tmp_path, case):
    text, reason = BAD_TABLES[case]
    path = tmp_path / "nodules.csv"
    path.write_text(text)
    with pytest.raises(AnnotationError, match=reason) as error:
        read_table(path, LUNA16)
    assert "nodules.csv" in str(error.value) and "\n" not in str(error.value) and ":" in str(error.value)


def test_files_that_are_no_text(tmp_path):
    (tmp_path / "a.csv").write_text(HEAD, encoding="utf-16")
    for path in (tmp_path / "a.csv", tmp_path / "nowhere.csv", tmp_path):
        for read in (lambda path: read_table(path, LUNA16), read_uids, read_lidc):
            with pytest.raises(AnnotationError, match="cannot be read"):
                read(path)


def test_uid_list(tmp_path):
    path = tmp_path / "seriesuids.csv"
    path.write_text("056\r\n57\n\n")
    assert read_uids(path) == ["056", "57"]
    path.write_text("1.2\n\n1.3E+55\n")
    with pytest.raises(AnnotationError, match="seriesuids.csv, line 3: .*a spreadsheet saved it"):
        read_uids(path)
    for text, message in (("seriesuid\n056\n", "header"), ("a\na\n", "twice"), ("\n", "no scan")):
        path.write_text(text)
        with pytest.raises(AnnotationError, match=f"seriesuids.csv: .*{message}"):
            read_uids(path)


def test_nodules_of_any_csv(tmp_path):
    path = tmp_path / "nodules.csv"
    path.write_text("coordX,coordY,coordZ,diameter_mm,type,note\n1,2,3,6,ground_glass,seen\n")
    assert read_nodules(path, uid="1.2").to_dict("records") == [
        {"seriesuid": "1.2", "coordX": 1, "coordY": 2, "coordZ": 3, "diameter_mm": 6, "type": "ground_glass"}
        | {"attachment": "", "spiculated": ""}
    ]
    with pytest.raises(AnnotationError, match="no column seriesuid"):
        read_nodules(path)
    path.write_text(HEAD + "a,1,2,3,6\na,1,2,3,-1\n")
    with pytest.raises(AnnotationError, match="line 3: diameter_mm -1 is not above 0"):
        read_nodules(path)
    path.write_text(HEAD.strip() + ",type\na,1,2,3,6,cyst\n")
    with pytest.raises(AnnotationError, match="line 2: unknown type 'cyst': write one of solid"):
        read_nodules(path)
    path.write_text(HEAD.strip() + ",spiculated\na,1,2,3,6,True\na,1,2,9,6,maybe\n")
    with pytest.raises(AnnotationError, match="line 3: spiculated 'maybe': write True or False"):
        read_nodules(path)


@pytest.mark.parametrize(
    "text, written",
    [
        ("=cmd|' /C calc'!A0", "'=cmd|' /C calc'!A0"),
        ("@SUM(A1)", "'@SUM(A1)"),
        ("+1+1", "'+1+1"),
        ("-x", "'-x"),
        ("\t=1", "\\t=1"),
        ("a\r\n=1\u2028", "a\\r\\n=1\\u2028"),
        ("-1.5e3", "-1.5e3"),
        ("-20.0 -25.0 -306.0", "-20.0 -25.0 -306.0"),
        ("1.2.840", "1.2.840"),
        ("a=b, c", "a=b, c"),
    ],
)
def test_no_text_of_a_written_table_is_a_formula_or_breaks_a_line(tmp_path, text, written):
    path = tmp_path / "a.csv"
    write_table(pd.DataFrame({"seriesuid": [text, "a"], "path": [text, "b"], "coordX": [-1.5, 2]}), path)
    assert len(path.read_text().splitlines()) == 3
    with open(path, newline="") as file:
        _, row, other = csv.reader(file)
    assert row[0] == written and other == ["a", "b", "2.0"]
    assert row[1:] == [f"./{written[1:]}" if written.startswith("'") else written, "-1.5"]
