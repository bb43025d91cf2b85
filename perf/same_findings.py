"""Does `lungadv detect` still find the same? `python perf/same_findings.py SCAN FINDINGS`

Runs the detector with the shipped weights on SCAN and compares with FINDINGS, a CSV that an earlier version wrote, to the last digit.
"""

import argparse
import sys
import tempfile
from pathlib import Path

from lungadv import detect, read_scan
from lungadv.detection.report import write_findings


def main() -> int:
    """Detect, compare, and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scan", type=Path)
    parser.add_argument("findings", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "findings.csv"
        write_findings(detect(read_scan(options.scan)), path)
        new, old = path.read_text().splitlines(), options.findings.read_text().splitlines()
    differing = [pair for pair in zip(old, new, strict=False) if pair[0] != pair[1]]
    for before, after in differing[:5]:
        print(f"before: {before}\nnow:    {after}")
    print(f"{len(old) - 1} findings before, {len(new) - 1} now, {len(differing)} lines differ")
    return int(old != new)


if __name__ == "__main__":
    sys.exit(main())
