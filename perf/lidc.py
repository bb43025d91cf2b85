"""LIDC-IDRI-0001: what the readers' XML gives, against their votes voxel by voxel and against LUNA16's row. Numbers beside their limits."""

import numpy as np
import typer

from lungadv.data.io.read import read_scan
from lungadv.data.lidc import consensus
from lungadv.data.lidc_xml import read_lidc
from lungadv.data.tables import XYZ, read_nodules
from lungadv.phantom.realism import REAL
from lungadv.utils.files import real_folder

LIMITS = {"voxels": 0, "diameter": 0.02, "centre": 1.0}
DIAMETER = 23.40  # mm, of the voxels with two votes or more


def main():
    """Print the table. The files are those of LUNGADV_REAL_CT (default ../shared/real_ct)."""
    folder = real_folder()
    if not folder.is_dir():
        print(f"no real scans at {folder}: LUNGADV_REAL_CT names the folder that holds them")
        return
    path = folder / REAL
    scan, votes = read_scan(path), read_scan(str(path).replace(".mhd", "_nodule_votes.nii.gz")).hu
    table, mask = consensus(read_lidc(path.parent / "069.xml"), scan)
    nodule = table[table["kind"] == "nodule"].iloc[0]
    row = read_nodules(folder / "luna16_tables" / "annotations.csv").set_index("seriesuid").loc[scan.uid]
    apart = np.linalg.norm((nodule[XYZ] - row[XYZ]).astype(float))
    measured = {
        "voxels": ("voxels that differ from those of 2 votes or more", np.count_nonzero((mask > 0) != (votes >= 2))),
        "diameter": (f"diameter, from {DIAMETER} mm, as a share", abs(nodule["diameter_mm"] / DIAMETER - 1)),
        "centre": ("mm from the centre of LUNA16's row", apart),
    }
    print(f"{'measure':<52} {'value':>9} {'wanted':>8}")
    for name, (what, value) in measured.items():
        print(f"{what:<52} {value:>9.4f} {f'<= {LIMITS[name]:g}':>8} {'held' if value <= LIMITS[name] else 'NOT held'}")


if __name__ == "__main__":
    typer.run(main)
