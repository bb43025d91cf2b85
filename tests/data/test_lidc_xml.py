"""LIDC-IDRI's XML: both roots, every namespace, hostile and broken files."""

import pytest

from lungadv.data.lidc_xml import read_lidc
from lungadv.data.tables import AnnotationError
from tests.data.lidc_files import LIDC, MESSAGE, box, message, nodule_xml, non_nodule_xml, read, session_xml
from tests.data.real_files import REAL, real

SQUARE = nodule_xml((-390, "TRUE", box(10, 20, 4, 4)))


@pytest.mark.parametrize("root", ["LidcReadMessage", "IdriReadMessage"])
@pytest.mark.parametrize("space", ["http://www.nih.gov", "http://www.nih.gov/idri", ""])
def test_both_roots_in_any_namespace(tmp_path, root, space):
    header = "<CTSeriesInstanceUid>a</CTSeriesInstanceUid><Modality>CT</Modality>"
    reading = read(tmp_path, session_xml(SQUARE, non_nodule_xml(-380, (1, 2))) * 4, root=root, space=space, header=header)
    assert reading.uid == "a" and reading.remark == "" and len(reading.sessions) == 4
    session = reading.sessions[0]
    (contour,) = session.nodules[0].contours
    assert contour.z == -390 and contour.inclusion and contour.points.tolist()[0] == [9, 19]
    assert session.nodules[0].ratings == {"texture": 5, "calcification": 6}
    assert session.non_nodules[0].contours[0].points.tolist() == [[1, 2]]


@pytest.mark.parametrize("sessions", [1, 3, 5])
def test_sessions_missing_or_more_are_said(tmp_path, sessions):
    assert read(tmp_path, session_xml() * sessions).remark == f"{sessions} reading sessions instead of 4"


ENTITIES = "".join(f'<!ENTITY a{k + 1} "{f"&a{k};" * 10}">' for k in range(9))


LAUGHS = f'<!DOCTYPE l [<!ENTITY a0 "ha">{ENTITIES}]><LidcReadMessage>&a9;</LidcReadMessage>'  # a thousand million of them


BAD_XML = {
    "laughs": (LAUGHS, "could unfold without end"),
    "outside": ('<!DOCTYPE l [<!ENTITY a SYSTEM "file:///etc/passwd">]><LidcReadMessage>&a;</LidcReadMessage>', "could unfold without end"),
    "doctype": ("<!DOCTYPE l><LidcReadMessage/>", "could unfold without end"),
    "cut": ("<LidcReadMessage><ResponseHeader>", "cannot be read as XML"),
    "encoding": ('<?xml version="1.0" encoding="klingon"?><LidcReadMessage/>', "cannot be read as XML"),
    "voc": ("<annotation/>", "its root is <annotation>"),
    "no uid": ("<LidcReadMessage/>", "does not say which series"),
    "no session": (MESSAGE.format(**LIDC, body=""), "no reading session"),
    "no point": (message((-390, "TRUE", [])), "nodule 'n' has an outline without points"),
    "hole": (message((-390, "FALSE", box(1, 1, 1, 1))), "no outline and no point"),
    "inclusion": (message((-390, "maybe", [(1, 2)])), "inclusion 'maybe' is neither"),
    "pixel": (message((-390, "TRUE", [("1.5", 2)])), "xCoord '1.5' is no whole number"),
    "far": (message((-390, "TRUE", [(1, 10**9)])), "yCoord '1000000000' is no whole number"),
    "z": (message(("nan", "TRUE", [(1, 2)])), "imageZposition 'nan' is no number"),
    "rating": (message((-390, "TRUE", [(1, 2)]), texture=9), "texture '9' is no whole number from 0 to 6"),
    "radiograph": (
        MESSAGE.format(**LIDC | {"root": "IdriReadMessage"}, body="<CXRreadingSession/>"),
        "reading of a chest radiograph",
    ),
    "film": (MESSAGE.format(**LIDC | {"header": "<Modality>CXR</Modality>"}, body=""), "reading of a chest radiograph"),
}


@pytest.mark.parametrize("case", BAD_XML)
def test_bad_readings_name_file_and_remedy(tmp_path, case):
    text, reason = BAD_XML[case]
    (tmp_path / "reading.xml").write_text(text)
    with pytest.raises(AnnotationError, match=f"reading.xml.*{reason}") as error:
        read_lidc(tmp_path / "reading.xml")
    assert "\n" not in str(error.value)


@real
def test_every_reading_among_the_real_files():
    found, refused = {}, []
    for path in sorted(REAL.rglob("*.xml")):
        try:
            nodules = [nodule for session in read_lidc(path).sessions for nodule in session.nodules]
            found[path.name] = sum(not contour.inclusion for nodule in nodules for contour in nodule.contours)
        except AnnotationError as error:
            refused.append(str(error))
    assert found == {"069.xml": 0, "188_259.xml": 1, "189_130.xml": 12, "189_142.xml": 0}
    assert sum("chest radiograph" in reason for reason in refused) == 1
    assert sum("its root is <annotation>" in reason for reason in refused) == len(refused) - 1 == 3
