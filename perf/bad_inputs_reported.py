"""Bad inputs that people who do this job report: of other tools, on whose lists they stand."""

import errno
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
from bad_input_files import HEADER, case, every, ingested, luna16, reported, rows, scan_of, series

from lungadv.data.ingest import ingest, records
from lungadv.data.io.read import read_scan
from lungadv.data.io.write import write_scan, write_series
from lungadv.data.scan import to_unit

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
