"""Bad inputs that people who do this job report: of other tools, on whose lists they stand."""

import errno
import gzip
import os
import shutil
import signal
import subprocess
import sys
import warnings
import zipfile
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pandas as pd
import torch
from bad_input_files import HEADER, case, every, ingested, luna16, mhd, nhdr, reported, rows, scan_of, series

from lungadv.data.ingest import ingest, records
from lungadv.data.io.read import read_scan
from lungadv.data.io.write import write_scan, write_series
from lungadv.data.scan import to_unit
from lungadv.data.tables import read_table
from lungadv.utils.outputs import check_outputs

LATIN = os.fsdecode(b"M\xfcller")  # a name as an old Windows wrote it


def rounded(step):
    """A change of slices: positions `step` mm apart, written to whole mm."""

    def change(slices):
        for k, dataset in enumerate(slices.values()):
            dataset.ImagePositionPatient[2] = round(k * step)

    return change


@case("positions of slices written to whole mm, 2.5 mm apart")
def _(folder):
    return "; ".join(series(folder, rounded(2.5)).notes)


@case("positions of slices written to whole mm, 1.25 mm apart")
def _(folder):
    series(folder, rounded(1.25))


@case("a scan file whose name is not UTF-8")
def _(folder):
    luna16(folder, *rows(), "7.7,-6,-5,-292,8")
    (folder / "data/subset0/1.2.0.mhd").rename(folder / f"data/subset0/{LATIN}.mhd")
    shutil.rmtree(folder / "made")
    return ingested(folder, "luna16")


def killed(job):
    """What becomes of a worker when memory runs out."""
    os.kill(os.getpid(), signal.SIGKILL)


@case("a worker of ingest killed as when memory runs out")
def _(folder):
    for uid in ("1.2.1", "1.2.2"):
        write_series(scan_of(uid), folder / "data" / uid)
    with patch.object(records, "read_item", killed):
        ingest(folder / "data", "dicom", folder / "made/manifest.csv", workers=2)


@case("metadata.csv whose columns are not known")
def _(folder):
    (folder / "data").mkdir()
    (folder / "data/metadata.csv").write_text("series,person\n1.2.0,P1\n")
    luna16(folder, *rows(), "7.7,-6,-5,-292,8")
    return next(part for part in reported(folder, "luna16").split("; ") if "metadata" in part)


@case("a disk that knows no locks")
def _(folder):
    def flock(*given):
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    write_series(scan_of(), folder / "data/series")
    with patch("fcntl.flock", flock), warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        ingest(folder / "data", "dicom", folder / "made/manifest.csv", workers=1)
    return str(said[0].message)


@case("marks in voxel coordinates")
def _(folder):
    from lungadv.evaluation.froc import froc

    places = np.random.default_rng(0).uniform([-150, -150, -300], [150, 100, -20], (20, 3))
    nodules = pd.DataFrame(places, columns=["coordX", "coordY", "coordZ"]).assign(seriesuid="1.2", diameter_mm=8.0)
    marks = nodules.assign(probability=0.9)
    marks[["coordX", "coordY", "coordZ"]] = (places - [-170, -160, -320]) / [0.7, 0.7, 1.25]
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        froc(marks, nodules, ["1.2"], bootstraps=0)
    return next(str(one.message) for one in said if "voxel" in str(one.message))


@case("a DICOM slice without preamble and meta header, cut short")
def _(folder):
    write_series(scan_of(), folder / "series")
    for path in sorted((folder / "series").iterdir()):
        path.write_bytes(path.read_bytes()[132:])
    path.write_bytes(path.read_bytes()[:500])
    read_scan(folder / "series")


def stress(model, output, patches):
    from lungadv import stress_test

    return stress_test(model, patches, patches, output=output, steps=1, queries=1, noise=1)


def patches():
    return torch.rand(2, 1, 4, 4, 4, generator=torch.Generator().manual_seed(0))


@case("a TorchScript model that was optimised for inference")
def _(folder):
    network = torch.nn.Sequential(torch.nn.Conv3d(1, 2, 4), torch.nn.Flatten()).eval()
    table = stress(torch.jit.optimize_for_inference(torch.jit.script(network)), "logits", patches())
    return f"judged like any network: {len(table)} rows"


@case("patches as int16 HU")
def _(folder):
    stress(lambda x: x.mean((1, 2, 3, 4)), "logit", (patches() * 1400 - 1000).to(torch.int16))


@case("patches as float64")
def _(folder):
    stress(lambda x: x.mean((1, 2, 3, 4)), "logit", patches().double())


@case("to_unit of int16 HU")
def _(folder):
    return f"{to_unit(np.array([-300], np.int16)).dtype}"


@case("a model that returns probabilities, called logits")
def _(folder):
    head = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 2), torch.nn.Softmax(1)).eval()
    stress(head, "logits", patches())


def chest_of(change):
    """A data set of one scan whose HU are changed: what ingest says."""

    def made(folder):
        scan = scan_of()
        write_scan(replace(scan, hu=change(scan.hu.astype(int)).astype(np.int16)), folder / "data/a.mhd")
        (folder / "data/annotations.csv").write_text(f"{HEADER}\n")
        return reported(folder, "luna16")

    return made


@case("rescale intercept applied twice")
def _(folder):
    (folder / "data").mkdir()
    return chest_of(lambda hu: hu - 1024)(folder)


@case("rescale intercept left out")
def _(folder):
    (folder / "data").mkdir()
    return chest_of(lambda hu: hu + 1024)(folder)


@case("rescale slope 0")
def _(folder):
    series(folder, every(RescaleSlope=0))


@case("rescale slope below 0")
def _(folder):
    series(folder, every(RescaleSlope=-1))


@case("zip with members named ..\\x")
def _(folder):
    with zipfile.ZipFile(folder / "scan.zip", "w") as archive:
        archive.writestr("..\\scan.mhd", "NDims = 3\n")
    read_scan(folder / "scan.zip")


@case("PET beside a CT")
def _(folder):
    import pydicom

    write_series(scan_of("1.2.1"), folder / "data/series")
    dataset = pydicom.dcmread(folder / "data/series/0001.dcm")
    dataset.SeriesInstanceUID, dataset.Modality = "1.2.2", "PT"
    dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.128"
    dataset.save_as(folder / "data/series/pet.dcm")
    return next(part for part in reported(folder, "dicom").split("; ") if "PT" in part)


@case("ingest called from standard input, without a main guard")
def _(folder):
    for uid in ("1.2.1", "1.2.2"):
        write_series(scan_of(uid, left=-20 if uid == "1.2.1" else -10), folder / "data" / uid)
    terms = f"'{folder}/data', 'dicom', '{folder}/made/manifest.csv'"
    code = f"from lungadv.data.ingest import ingest\nprint(ingest({terms})['taken'], 'taken')"
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}
    done = subprocess.run([sys.executable, "-"], input=code, capture_output=True, encoding="utf-8", env=environment)
    return done.stdout.strip() or done.stderr.strip().splitlines()[-1]


@case("DICOM stored as MONOCHROME1")
def _(folder):
    series(folder, every(PhotometricInterpretation="MONOCHROME1"))


@case("ImageOrientationPatient that is no pair of unit axes")
def _(folder):
    series(folder, every(ImageOrientationPatient=[0.5, 0, 0, 0, 1, 0]))


@case("all slices at one place")
def _(folder):
    series(folder, every(ImagePositionPatient=[0, 0, 0]))


@case("two phases of contrast in one series")
def _(folder):
    import pydicom

    def change(slices):
        for path in list(slices):
            slices[path.with_name(f"late {path.name}")] = late = pydicom.dcmread(path)
            late.SOPInstanceUID += ".1"
            slices[path].AcquisitionNumber, late.AcquisitionNumber = 1, 2

    series(folder, change)


@case("more bytes of pixels than Rows and Columns say")
def _(folder):
    series(folder, lambda slices: [setattr(one, "PixelData", one.PixelData + bytes(8)) for one in slices.values()])


@case(".mhd naming its data file in capitals")
def _(folder):
    mhd(folder, header=lambda text: text.replace("scan.zraw", "SCAN.ZRAW"))


@case(".mhd naming its data file by a path of Windows")
def _(folder):
    mhd(folder, header=lambda text: text.replace("scan.zraw", "C:\\data\\other.zraw"))


@case(".mhd naming the data file beside it by its whole path")
def _(folder):
    mhd(folder, header=lambda text: text.replace("scan.zraw", f"{folder}/scan.zraw"))


@case("a .zraw given in place of its header")
def _(folder):
    write_scan(scan_of("scan"), folder / "scan.mhd")
    read_scan(folder / "scan.zraw")


@case(".nhdr that lists several data files")
def _(folder):
    nhdr(folder, "a%03d.raw 1 20 1")


def nifti(name, array=None, change=lambda content: content):
    """A reading of a NIfTI file whose bytes are changed."""

    def read(folder):
        import SimpleITK as sitk

        sitk.WriteImage(sitk.GetImageFromArray(scan_of().hu if array is None else array), str(folder / "a.nii"))
        (folder / name).write_bytes(change((folder / "a.nii").read_bytes()))
        read_scan(folder / name)

    return read


case("NIfTI-2")(nifti("a.nii", change=lambda content: (540).to_bytes(4, "little") + content[4:]))
case("NIfTI of several values a voxel")(nifti("a.nii", np.zeros((4, 4, 4, 3), np.int16)))
case("packed NIfTI named .nii")(nifti("b.nii", change=gzip.compress))
case("plain NIfTI named .nii.gz")(nifti("b.nii.gz"))


@case("a table in Latin-1")
def _(folder):
    (folder / "annotations.csv").write_bytes(f"{HEADER},reader\n1.2.0,-6,-5,-292,8,M\xfcller\n".encode("latin-1"))
    read_table(folder / "annotations.csv", HEADER.split(","))


@case("marks whose ids are names of files")
def _(folder):
    from lungadv.evaluation.froc import froc

    nodules = pd.DataFrame([["1.2", 1.0, 2, 3, 8]], columns=HEADER.split(","))
    froc(nodules.assign(seriesuid="1.2.mhd", probability=0.9), nodules, ["1.2"], bootstraps=0)


def attack(loss=lambda x: x.sum((1, 2, 3, 4)), start=None, **terms):
    from lungadv import pgd

    pgd(loss, patches() if start is None else start, **{"eps": 0.02, "steps": 1} | terms)


case("pgd: a start of numpy")(lambda folder: attack(start=patches().numpy()))
case("pgd: a loss that is no tensor")(lambda folder: attack(lambda x: (x.sum((1, 2, 3, 4)),)))
case("pgd: eps in words")(lambda folder: attack(eps="8/255"))
case("pgd: a seed in place of a generator")(lambda folder: attack(generator=0))


def warned(model, positives, negatives):
    """What a stress test warns of."""
    from lungadv import stress_test

    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        stress_test(model, positives, negatives, output="logit", steps=1, noise=1)
    return "; ".join(str(one.message) for one in said)


@case("a model that draws random numbers")
def _(folder):
    return warned(lambda x: 9 * torch.nn.functional.dropout(x, 0.5, training=True).mean((1, 2, 3, 4)), patches(), patches() / 2)


@case("a model that takes nodules for the other class")
def _(folder):
    return warned(lambda x: 90 * (0.4 - x.mean((1, 2, 3, 4))), patches(), patches() / 2)


@case("patches a little beyond [0, 1]")
def _(folder):
    stress(lambda x: x.mean((1, 2, 3, 4)), "logit", patches() * 1.05)


@case("a command whose stdout is closed")
def _(folder):
    (folder / "marks.csv").write_text("seriesuid\n")
    command = f"exec '{sys.executable}' -m lungadv.cli froc marks.csv --annotations marks.csv --seriesuids marks.csv >&-"
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}
    return subprocess.run(["sh", "-c", command], cwd=folder, env=environment, stderr=subprocess.PIPE, encoding="utf-8").stderr.strip()


@case("an output below a file")
def _(folder):
    (folder / "a.csv").write_text("text")
    check_outputs({".csv": folder / "a.csv/findings.csv"})
