"""Damaged files of every format, kills and full disks, in small; perf/fuzz.py, kills.py and full_disk.py do the same at length."""

import os
import re
import shutil
import subprocess
import sys

import fuzz_states
import pytest

from lungadv.utils.files import repo_root

INPUTS = 500


def run(script, *arguments):
    """What a script of perf/ prints; its rows of numbers by their first column."""
    command = [sys.executable, str(repo_root() / "perf" / script), *arguments]
    environment = os.environ | {"PYTHONPATH": str(repo_root()), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, encoding="utf-8", env=environment, timeout=500)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in done.stdout.splitlines() if line.startswith("| ")]
    return done.stdout, {row[0]: row[1:] for row in rows[1:]}


def test_damaged_files_are_taken_or_refused_in_one_line():
    """No crash, no hang of 20 s, no traceback, nothing printed besides, no file elsewhere, nothing half-written."""
    said, rows = run("fuzz.py", "--inputs", str(INPUTS))
    assert set(rows) == set(fuzz_states.FORMATS) and f"{INPUTS} inputs, 0 went wrong" in said
    assert sum(int(number) for row in rows.values() for number in row) == INPUTS
    assert all(sum(map(int, row)) >= INPUTS // len(rows) for row in rows.values())
    # damage is noticed in each; a damaged record is not refused but read anew
    assert all(int(row[1]) > 0 for name, row in rows.items() if name != "records")


def test_killed_commands_leave_whole_files_and_the_next_call_gives_the_same():
    _, rows = run("kills.py", "--kills", "2", "--only", "ingest,accept")
    assert {name: row[1] for name, row in rows.items()} == {"ingest": "2", "accept": "2"}
    assert all(row[3:] == ["0", "0", "0"] for row in rows.values())


@pytest.mark.skipif(
    not shutil.which("unshare") or subprocess.run(["unshare", "-rm", "true"], capture_output=True).returncode != 0,
    reason="small disks need user namespaces",
)
def test_a_full_disk_is_one_line_and_with_room_all_is_made():
    said, _ = run("full_disk.py", "--only", "ingest,accept")
    assert len(re.findall("error: no space is left on the disk of .* \\| nothing \\| the same tables \\|", said)) == 7
