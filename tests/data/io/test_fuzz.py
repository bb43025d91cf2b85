"""Damaged headers of every kind, in a process of its own."""

import gzip
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from lungadv.data.io.read import read_scan
from lungadv.data.io.write import write_series
from lungadv.data.scan import Scan, ScanError
from tests.data.io.made_files import VOXELS, write_mhd, write_nifti, write_nrrd


def test_damaged_headers_give_a_scan_or_one_clear_error(tmp_path):
    """Neither a crash nor a hang nor a blow-up: each read has 2 seconds, the process half a GiB more than it starts with."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    result = subprocess.run([sys.executable, __file__, tmp_path], env=environment, capture_output=True, encoding="utf-8", timeout=120)
    assert result.returncode == 0 and result.stdout.count("fuzzed") == 7, result.stdout[-2000:] + result.stderr[-4000:]


def fuzz(folder):
    import faulthandler
    import resource

    from hypothesis import HealthCheck, given, settings
    from hypothesis import strategies as st

    words = [b"0", b"-1", b"3", b"4096", b"99999999", b"1e999", b"nan", b"", b"LIST", b"..", b"\0", b"9" * 5000, b"(", b"=", b":", b"\n"]
    piece = st.one_of(st.sampled_from(words), st.binary(min_size=1, max_size=4))
    change = st.tuples(st.sampled_from(["byte", "insert", "delete", "word", "line"]), st.integers(0, 2**16), piece)

    def damaged(content, head, changes):
        """The content with its first `head` bytes changed."""
        start = content[:head]
        for kind, at, new in changes:
            at = at % (len(start) + 1)
            if kind == "byte":
                start = start[:at] + new + start[at + len(new) :]
            elif kind == "insert":
                start = start[:at] + new + start[at:]
            elif kind == "delete":
                start = start[:at] + start[at + 1 + len(new) :]
            elif kind == "word":
                found = list(re.finditer(rb"[^\s,()]+", start)) or [re.match(b"", start)]
                start = start[: found[at % len(found)].start()] + new + start[found[at % len(found)].end() :]
            else:
                lines = start.split(b"\n")
                lines[at % len(lines)] = new
                start = b"\n".join(lines)
        return start + content[head:]

    (folder / "a.raw").write_bytes(VOXELS.tobytes())
    image = sitk.GetImageFromArray(VOXELS)
    sitk.WriteImage(image, str(folder / "b.mha"), useCompression=True)
    sitk.WriteImage(image, str(folder / "b.nrrd"), useCompression=True)
    (folder / "b.nii.gz").write_bytes(gzip.compress(write_nifti(folder / "b.nii").read_bytes(), 0))
    series = folder / "series"
    write_series(Scan(VOXELS, (1, 1, 2), (0, 0, 0), np.eye(3), "1.2.3"), series)
    targets = {
        write_mhd(folder / "b.mhd"): 10_000, folder / "b.mha": 400, write_nrrd(folder / "b.nhdr"): 10_000, folder / "b.nrrd": 400,
        folder / "b.nii": 352, folder / "b.nii.gz": 400, series / "0002.dcm": 2000,
    }  # fmt: skip
    with open("/proc/self/statm") as statm:
        size = int(statm.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + 2**29,) * 2)

    def check(path, content, head):
        outcomes = {"read": 0, "refused": 0}

        @settings(max_examples=200, deadline=None, database=None, derandomize=True, suppress_health_check=list(HealthCheck))
        @given(st.lists(change, min_size=1, max_size=3))
        def read(changes):
            path.write_bytes(damaged(content, head, changes))
            faulthandler.dump_traceback_later(2, exit=True)
            try:
                read_scan(series if path.parent == series else path)
                outcomes["read"] += 1
            except ScanError as error:
                assert "\n" not in str(error) and len(str(error)) < 2000, str(error)
                outcomes["refused"] += 1
            finally:
                faulthandler.cancel_dump_traceback_later()

        read()
        return outcomes

    for path, head in targets.items():
        content = path.read_bytes()
        print("fuzzed", path.name, check(path, content, head))
        path.write_bytes(content)


if __name__ == "__main__":
    fuzz(Path(sys.argv[1]))
