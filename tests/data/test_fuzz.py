"""Fuzzed tables and readings: one clear error each."""

import subprocess
import sys

from tests.data.lidc_files import LIDC, MESSAGE, box, nodule_xml, non_nodule_xml, session_xml

FUZZ = """
import resource, sys
from pathlib import Path
import numpy as np
from hypothesis import example, given, settings, strategies as st
from lungadv.data.scan import Scan
from lungadv.data.lidc import consensus
from lungadv.data.lidc_xml import read_lidc
from lungadv.data.luna16 import read_excluded
from lungadv.data.orientation import check_positions
from lungadv.data.tables import XYZ, AnnotationError, read_nodules, read_uids

used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 2**30,) * 2)
resource.setrlimit(resource.RLIMIT_CPU, (50, 50))
path = Path(sys.argv[1]) / "fuzzed"
scan = Scan(np.full((40, 60, 50), -800, np.int16), (1, 1, 2), (10, 200, -400), np.eye(3), "a")
seed = Path(sys.argv[2]).read_bytes()
pieces = [b",", b"\\t", b";", b'"', b"\\n", b"\\0", b"\\xff", b"", b"-1", b"1e999", b"9" * 400, b"nan", b"1.3E+55",
          "\\u0663".encode(), b"<a>" * 9, b"</roi>", b"<", b">", b"&x;", b"<!DOCTYPE l [", b'<!ENTITY x "y">',
          b"<inclusion>", b"TRUE", b"32767", b"xmlns='b'", b"FALSE", b"{"]
edit = st.tuples(st.integers(0, 10**6), st.integers(0, 40), st.sampled_from(pieces) | st.binary(max_size=6))
limits = settings(max_examples=int(sys.argv[3]), deadline=None, database=None, derandomize=True)


def mutated(text, edits):
    for where, length, piece in edits:
        where %= len(text) + 1
        text = text[:where] + piece + text[where + length:]
    return text


def try_all(text, *readers):
    path.write_bytes(text)
    for read in readers:
        try:
            read(path)
        except AnnotationError as error:
            assert "\\n" not in str(error) and len(str(error)) < 1000, str(error)


def nodules(path):
    table = read_nodules(path)
    assert np.isfinite(table[XYZ].to_numpy()).all() and (table["diameter_mm"] > 0).all()
    check_positions(table, {"a": scan}, path)


@limits
@given(st.lists(edit, max_size=8))
def tables(edits):
    text = b"seriesuid,coordX,coordY,coordZ,diameter_mm,type\\na,30,230,-390,6,solid\\na,31,231,-380,7,ground_glass\\n"
    try_all(mutated(text, edits), nodules, read_excluded, read_uids)


@limits
@given(st.lists(edit, max_size=4))
@example([(10**6, 0, b"<a>" * 10**5)])
def readings(edits):
    try_all(mutated(seed, edits), lambda path: consensus(read_lidc(path), scan))


tables()
readings()
"""


def test_fuzzed_tables_and_readings_end_in_clear_errors(tmp_path):
    """In a process of its own with 1 GiB and 50 s of processor time: no crash, no hang, no other error."""
    drawn = session_xml(nodule_xml((-390, "TRUE", box(10, 20, 4, 4)), (-390, "FALSE", box(11, 21, 1, 1))))
    (tmp_path / "seed.xml").write_text(MESSAGE.format(**LIDC, body=drawn * 3 + session_xml(non_nodule_xml(-380, (3, 4)))))
    command = [sys.executable, "-c", FUZZ, str(tmp_path), str(tmp_path / "seed.xml"), "300"]
    done = subprocess.run(command, capture_output=True, encoding="utf-8", timeout=120)
    assert done.returncode == 0, done.stderr[-3000:]
