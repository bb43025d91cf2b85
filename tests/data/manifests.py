"""A manifest of two small scans."""

import numpy as np

from lungadv.data.io.write import write_scan
from lungadv.data.scan import Scan

MANIFEST = "seriesuid,path,dataset\n1.2,a/1.2.mhd,train\n1.3,a/1.3.mhd,nlst\n"


NODULES = """seriesuid,coordX,coordY,coordZ,diameter_mm,type
1.2,10,12,-290,8,solid
1.2,20,12,-290,4,solid
1.2,14,20,-280,10,ground_glass
"""


def write_manifest(folder, manifest=MANIFEST, annotations=NODULES):
    (folder / "a").mkdir()
    for uid in ("1.2", "1.3"):
        write_scan(Scan(np.full((20, 30, 30), -800, np.int16), (1, 1, 2), (0, 0, -300), np.eye(3), uid), folder / "a" / f"{uid}.mhd")
    (folder / "scans.csv").write_text(manifest)
    if annotations is not None:
        (folder / "annotations.csv").write_text(annotations)
    return folder / "scans.csv"


def row(*values):
    return "seriesuid,coordX,coordY,coordZ,diameter_mm,type\n" + ",".join(values) + "\n"
