"""Every bad input that is told from a good one, made anew, and the one line that each gets: a Markdown table."""

import tempfile
import warnings
from contextlib import redirect_stderr
from io import StringIO
from pathlib import Path
from unittest.mock import patch

import bad_inputs_hostile  # noqa: F401 adds its cases
import bad_inputs_reported  # noqa: F401
import numpy as np
import pandas as pd
import typer
from bad_input_files import CASES, case, every, ingested, luna16, mhd, rows, scan_of, series

from lungadv.data import store
from lungadv.data.ingest import ingest
from lungadv.data.io.read import read_scan
from lungadv.data.io.write import write_scan, write_series
from lungadv.data.lidc_xml import read_lidc
from lungadv.utils.errors import InputError


@case("truncated .zraw")
def _(folder):
    mhd(folder, data=lambda content: content[: len(content) // 2])


@case("header and data size differ")
def _(folder):
    mhd(folder, header=lambda text: text.replace("DimSize = 40 40 20", "DimSize = 40 40 30"))


@case(".mhd naming a file outside its folder")
def _(folder):
    mhd(folder, header=lambda text: text.replace("scan.zraw", "../scan.zraw"))


@case("missing slice")
def _(folder):
    series(folder, lambda slices: (folder / "series/0007.dcm").unlink() or slices.pop(folder / "series/0007.dcm"))


@case("duplicate slice")
def _(folder):
    def change(slices):
        slices[folder / "series/copy.dcm"] = slices[folder / "series/0007.dcm"]

    series(folder, change)


@case("two series mixed")
def _(folder):
    series(folder, lambda slices: every(SeriesInstanceUID="1.2.9")(dict(list(slices.items())[::2])))


@case("SeriesInstanceUID that is a path")
def _(folder):
    series(folder, every(SeriesInstanceUID="../../x"))


@case("localizer")
def _(folder):
    series(folder, lambda slices: every(ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])(dict(list(slices.items())[:1])))


@case("gantry tilt")
def _(folder):
    def change(slices):
        for k, dataset in enumerate(slices.values()):
            dataset.ImagePositionPatient[1] += 0.3 * k

    series(folder, change)


@case("colour image")
def _(folder):
    series(folder, every(SamplesPerPixel=3, PhotometricInterpretation="RGB"))


@case("4D image")
def _(folder):
    mhd(folder, header=lambda text: text.replace("NDims = 3", "NDims = 4"))


@case("missing rescale")
def _(folder):
    series(folder, lambda slices: [delattr(dataset, "RescaleIntercept") for dataset in slices.values()])


@case("NaN")
def _(folder):
    import SimpleITK as sitk

    values = scan_of().hu.astype(np.float32)
    values[3, 4, 5] = np.nan
    sitk.WriteImage(sitk.GetImageFromArray(values), str(folder / "scan.nrrd"))
    read_scan(folder / "scan.nrrd")


@case("spacing 0")
def _(folder):
    mhd(folder, header=lambda text: text.replace("ElementSpacing = 1 1 2", "ElementSpacing = 1 1 0"))


@case("unit direction missing")
def _(folder):
    mhd(folder, header=lambda text: "".join(line for line in text.splitlines(True) if not line.startswith("TransformMatrix")))


@case("empty folder")
def _(folder):
    read_scan(folder)


@case("text renamed .dcm")
def _(folder):
    (folder / "notes.dcm").write_text("text\n")
    read_scan(folder)


@case("text renamed .dcm beside slices, ingested")
def _(folder):
    write_series(scan_of(), folder / "data/series")
    (folder / "data/series/notes.dcm").write_text("text\n")
    return ingested(folder, "dicom")


@case("CSV with missing column")
def _(folder):
    luna16(folder, "1.2.0,-6,-5,-292", header="seriesuid,coordX,coordY,coordZ")


@case("CSV ids read as numbers")
def _(folder):
    luna16(folder, "1.3E+55,-6,-5,-292,8")


@case("CSV with comma decimals")
def _(folder):
    luna16(folder, "1.2.0,-6,5,-5,0,-292,0,8")


@case("CSV with duplicate rows")
def _(folder):
    luna16(folder, rows()[0], rows()[0])


@case("nodule outside the volume")
def _(folder):
    return luna16(folder, *rows()[:3], "1.2.3,-6,-5,-100,8")


@case("annotation of an unknown scan")
def _(folder):
    return luna16(folder, *rows(), "7.7,-6,-5,-292,8")


@case("coordinates that fit only after an LPS/RAS flip")
def _(folder):
    luna16(folder, *rows(lambda x, y, z: (-x, -y, z), left=4), left=4)


@case("coordinates with x and y negated that stay inside")
def _(folder):
    luna16(folder, *rows(lambda x, y, z: (-x, -y, z)))


@case("coordinates that fit only after an x/z swap")
def _(folder):
    luna16(folder, *rows(lambda x, y, z: (z, y, x)))


@case("the same voxels under two names")
def _(folder):
    (folder / "data").mkdir()
    write_scan(scan_of("1.2.0"), folder / "data/copy.mhd")
    return luna16(folder, *rows())


@case("XML with entity expansion")
def _(folder):
    entities = '<!ENTITY b0 "ha">' + "".join(f'<!ENTITY b{k + 1} "{f"&b{k};" * 10}">' for k in range(9))
    (folder / "reading.xml").write_text(f"<!DOCTYPE a [{entities}]><a>&b9;</a>")
    read_lidc(folder / "reading.xml")


@case("zip with ../ paths")
def _(folder):
    import zipfile

    with zipfile.ZipFile(folder / "scan.zip", "w") as archive:
        archive.writestr("../scan.mhd", "NDims = 3\n")
    read_scan(folder / "scan.zip")


@case("patient in two splits")
def _(folder):
    import pydicom

    for uid in ("1.2.1", "1.2.2"):
        write_series(scan_of(uid), folder / "data" / uid)
        for path in (folder / "data" / uid).iterdir():
            dataset = pydicom.dcmread(path)
            dataset.PatientID = "P1"
            dataset.save_as(path)
    ingest(folder / "data", "dicom", folder / "made/manifest.csv", workers=1)
    table = pd.read_csv(folder / "made/manifest.csv", dtype=str, keep_default_na=False)
    table.assign(dataset=["train", "nlst"]).to_csv(folder / "made/manifest.csv", index=False)
    ingested(folder, "dicom")


@case("checksum changed since ingest")
def _(folder):
    luna16(folder, *rows(), "7.7,-6,-5,-292,8")
    data = folder / "data/subset0/1.2.0.zraw"
    content = bytearray(data.read_bytes())
    content[-1] ^= 1
    data.write_bytes(content)
    ingested(folder, "luna16")


@case("disk full while writing the store")
def _(folder):
    with patch.object(store, "_write_bytes", lambda path, data: Path("/dev/full").write_bytes(data)):
        luna16(folder, *rows())


def message(name):
    """The one line that a case gets, its folder left out. AssertionError where the input is taken without a word."""
    with tempfile.TemporaryDirectory() as folder, redirect_stderr(StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        folder = Path(folder).resolve() / "x"
        folder.mkdir()
        try:
            said = CASES[name](folder)
        except (InputError, ValueError) as error:  # as the commands do
            said = str(error)
        assert isinstance(said, str), f"{name} was taken"
        return " ".join(said.split()) if "\n" in said else said.replace(f"{folder}/", "").replace(str(folder), "folder")


def main():
    """Print the table."""
    print("| bad input | what one reads |\n|---|---|")
    for name in CASES:
        said = message(name).replace("|", "\\|").replace("<", "&lt;")
        print(f"| {name} | {said} |")


if __name__ == "__main__":
    typer.run(main)
