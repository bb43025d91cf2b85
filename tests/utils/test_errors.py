"""Messages, and what can be written."""

import os

import pytest

from lungadv.data.scan import ScanError
from lungadv.data.tables import AnnotationError
from lungadv.utils.errors import SHOWN, InputError, check_name, printable
from tests.processes import hand_over

LATIN = os.fsdecode(b"M\xfcller")  # a name as an old Windows wrote it


def test_what_is_not_utf8_is_shown_by_its_bytes():
    assert printable(LATIN) == "M\\xfcller" and printable("Müller 肺") == "Müller 肺" and printable("\ud800") == "\\ud800"
    assert "Müller".encode("ascii", SHOWN) == b"M\\xfcller"  # on a terminal of fewer letters
    for kind in (InputError, ScanError, AnnotationError):
        error, _ = hand_over(kind(f"'{LATIN}' is wrong"))  # as a pool of processes hands errors on
        assert str(error) == "'M\\xfcller' is wrong"


def test_a_name_that_is_no_text_is_refused_and_any_text_is_taken():
    check_name("/data/Müller/肺", "folder")
    with pytest.raises(InputError, match=r"folder '/data/M\\xfcller': its name is not UTF-8 text: rename it"):
        check_name(f"/data/{LATIN}", "folder")
