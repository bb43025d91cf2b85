"""The formats that are fuzzed: good files of each, real ones where they are at hand, how one is damaged, and the command that meets it."""

import gzip
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from fuzz_mutations import damage, damage_dicom, damage_json, damage_npz, damage_safetensors, damage_zip

from lungadv.data.io.write import write_scan, write_series
from lungadv.data.scan import Scan
from lungadv.utils.files import real_folder

HEADER = "seriesuid,coordX,coordY,coordZ,diameter_mm"
ROW = "-6,-5,-292,8"
UID = "1.2.0"


@dataclass(frozen=True)
class Place:
    """Where an input lies (data), what a command may write into (out), and the file that executed code would make (trap)."""

    data: Path
    out: Path
    trap: Path


@dataclass(frozen=True)
class Sample:
    """Good files by relative path, those of them that are damaged, and how: from (generator, bytes) to bytes."""

    files: dict
    targets: tuple
    damage: Callable

    def lay(self, rng, folder, good=False):
        """Write the files into a folder, one of the targets damaged unless `good`; returns its name."""
        target = rng.choice(self.targets)
        for name, content in self.files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            if isinstance(content, Path):  # a large one that stays as it is
                os.symlink(content, folder / name)
            else:
                (folder / name).write_bytes(content if good or name != target else self.damage(rng, content))
        return target


def chest(uid="scan", shape=(12, 24, 24)):
    """A small chest: lung in tissue, and a nodule."""
    hu = np.full(shape, 40, np.int16)
    hu[:, 3:-3, 3:-3] = -850
    hu[5:9, 10:14, 10:14] = 30
    return Scan(hu, (1, 1, 2), (-20, -20, -306), np.eye(3), uid)


def run_command(arguments):
    """Call `lungadv` with arguments, in this process. Raises SystemExit with its exit code."""
    from lungadv.cli import app

    try:
        app(arguments, prog_name="lungadv")
    except SystemExit as done:
        if done.code:
            raise


def collect(folder):
    """The files of a folder by relative path, and the folder emptied."""
    found = {path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}
    shutil.rmtree(folder)
    folder.mkdir()
    return found


def real(pattern, most=3):
    """Real files at hand, none where the folder is not there."""
    return sorted(real_folder().glob(pattern))[:most]


def mhd_samples(place):
    write_scan(chest(), place.data / "scan.mhd")
    files = collect(place.data)
    made = [Sample(files, ("scan.mhd", "scan.mhd", "scan.zraw"), damage)]
    for path in real("lidc_idri_0001/*.mhd"):
        fields = [line.partition(" = ")[::2] for line in path.read_text().splitlines()]
        here = {"DimSize": "24 24 12", "ElementDataFile": "scan.zraw", "CompressedDataSize": str(len(files["scan.zraw"]))}
        text = "".join(f"{name} = {here.get(name, value)}\n" for name, value in fields)
        made.append(Sample(files | {"scan.mhd": text.encode()}, ("scan.mhd",), damage))
    return made


def whole_samples(place, suffix, head, pattern):
    """Samples of a format of one file, by SimpleITK and real ones."""
    import SimpleITK as sitk

    made = []
    for packed in (False, True):
        sitk.WriteImage(sitk.GetImageFromArray(chest().hu), str(place.data / f"scan{suffix}"), useCompression=packed)
        made.append(collect(place.data))
    made += [{f"scan{suffix}": path.read_bytes()} for path in real(pattern)]
    return [Sample(files, tuple(files), partial(damage, head=head)) for files in made]


def nifti_samples(place):
    """Plain ones, and packed ones that are damaged before or after packing."""

    def damage_packed(rng, content):
        return damage(rng, content) if rng.random() < 0.4 else gzip.compress(damage(rng, gzip.decompress(content), 352), 1)

    made = whole_samples(place, ".nii", 352, "no such file")
    packed = [gzip.compress(made[0].files["scan.nii"], 1), *(path.read_bytes() for path in real("totalsegmentator/abdomen*.nii.gz"))]
    return made + [Sample({"scan.nii.gz": content}, ("scan.nii.gz",), damage_packed) for content in packed]


def nrrd_samples(place):
    """Single files, and a header beside its voxels."""
    fields = {
        "type": "short", "dimension": "3", "space": "left-posterior-superior", "sizes": "24 24 12", "endian": "little", "encoding": "raw",
        "space directions": "(1,0,0) (0,1,0) (0,0,2)", "space origin": "(-20,-20,-306)", "data file": "scan.raw",
    }  # fmt: skip
    header = "NRRD0004\n" + "".join(f"{name}: {value}\n" for name, value in fields.items()) + "\n"
    pair = Sample({"scan.nhdr": header.encode(), "scan.raw": chest().hu.tobytes()}, ("scan.nhdr",), damage)
    return [*whole_samples(place, ".nrrd", 400, "cip_ct64/ct-64*.nrrd"), pair]


def dicom_samples(place):
    write_series(chest(UID, (4, 24, 24)), place.data / "series")
    made = [collect(place.data / "series")]
    for folder in ("cip_ct64/ct-64Dicom", "lung_pet_ct_dx_A0002/dicom"):
        slices = real(f"{folder}/*.dcm", 4)
        made += [{path.name: path.read_bytes() for path in slices}] if slices else []
    return [Sample(files, tuple(files), damage_dicom) for files in made]


def zip_samples(place):
    import io
    import zipfile

    made = []
    for sample in (mhd_samples(place)[0], dicom_samples(place)[0]):
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, content in sample.files.items():
                archive.writestr(name, content)
        made.append(Sample({"scan.zip": buffer.getvalue()}, ("scan.zip",), damage_zip))
    return made


def detect(place, rng, target):
    """`lungadv detect` of the scan, or of the folder of slices; the script that calls it stops at the lungs."""
    scan = target.replace(".zraw", ".mhd") if target.startswith("scan.") else ""
    return ["detect", str(place.data / scan), "--out", str(place.out / "findings.csv")]


def read_or_ingest(place, rng, target, kind="luna16"):
    """`lungadv detect` or `lungadv ingest` of the scan."""
    if rng.random() < 0.5:
        return detect(place, rng, target)
    if kind == "luna16":
        (place.data / "annotations.csv").write_text(f"{HEADER}\n")
    return ["ingest", str(place.data), "--kind", kind, "--out", str(place.out / "manifest.csv")]


XML = (
    '<?xml version="1.0"?><LidcReadMessage xmlns="http://www.nih.gov"><ResponseHeader><SeriesInstanceUid>{uid}</SeriesInstanceUid>'
    "</ResponseHeader>{sessions}</LidcReadMessage>"
)
NODULE = (
    "<readingSession><unblindedReadNodule><noduleID>n</noduleID><characteristics><texture>5</texture><calcification>6</calcification>"
    "</characteristics><roi><imageZposition>-302</imageZposition><inclusion>TRUE</inclusion>{points}</roi></unblindedReadNodule>"
    "<nonNodule><nonNoduleID>x</nonNoduleID><imageZposition>-304</imageZposition><locus><xCoord>3</xCoord><yCoord>4</yCoord></locus>"
    "</nonNodule></readingSession>"
)


def xml_samples(place):
    """LIDC readings beside a made series: drawn by hand on it, and real ones that are given its uid."""
    files = {f"series/{name}": content for name, content in dicom_samples(place)[0].files.items()}
    outline = [(9, 9), (14, 9), (14, 14), (9, 14), (9, 9)]
    points = "".join(f"<edgeMap><xCoord>{x}</xCoord><yCoord>{y}</yCoord></edgeMap>" for x, y in outline)
    texts = [XML.format(uid=UID, sessions=NODULE.format(points=points) * 4).encode()] * 3
    for path in [*real("lidc_xml/*.xml", 9), *real("lidc_idri_0001/*.xml")]:
        text = path.read_text()
        uid = text.partition("SeriesInstanceUid>")[2].partition("<")[0] or UID
        texts += [] if "CXRreadingSession" in text else [text.replace(uid, UID).encode()]
    return [Sample(files | {"reading.xml": text}, ("reading.xml",), damage) for text in texts]


def table_samples(place):
    """The tables of `froc`: made ones, and real annotations with a mark on each."""
    uids, rows = [f"1.2.{k}" for k in range(4)], [f"1.2.{k},1,{k},3,8,solid" for k in range(4)]
    made = [(f"{HEADER},type", rows, uids)]
    for path in real("luna16_tables/annotations.csv"):
        head, *rest = path.read_text().splitlines()
        made.append((head, rest[:30], sorted({row.partition(",")[0] for row in rest[:30]})))
    samples = []
    for head, rows, uids in made:
        found = [",".join([*row.split(",")[:4], f"0.{k + 1}"]) for k, row in enumerate(rows)]
        marks = [HEADER.replace("diameter_mm", "probability"), *found]
        texts = {"marks.csv": marks, "annotations.csv": [head, *rows], "uids.csv": uids, "excluded.csv": [HEADER, f"{uids[0]},9,9,9,-1"]}
        files = {name: "\n".join([*lines, ""]).encode() for name, lines in texts.items()}
        samples.append(Sample(files, tuple(files), damage))
    return samples


def score(place, rng, target):
    options = [f"--{name}={place.data / file}" for name, file in
               {"annotations": "annotations.csv", "seriesuids": "uids.csv", "excluded": "excluded.csv"}.items()]  # fmt: skip
    return ["froc", str(place.data / "marks.csv"), *options, "--json", str(place.out / "froc.json")]


def annotation_samples(place):
    """The tables of a data set in LUNA16's layout."""
    (place.data / "subset0").mkdir()
    write_scan(chest(UID), place.data / f"subset0/{UID}.mhd")
    texts = {
        "annotations.csv": f"{HEADER},type\n{UID},{ROW},solid\n7.7,{ROW},solid\n",
        "annotations_excluded.csv": f"{HEADER}\n{UID},{ROW[:-1]}-1\n",
        "mimics.csv": f"{HEADER},kind\n{UID},{ROW},vessel\n",
        "metadata.csv": f"Series UID,Subject ID\n{UID},P1\n",
    }
    files = collect(place.data) | {name: text.encode() for name, text in texts.items()}
    return [Sample(files, tuple(texts), damage)]


def ingest_luna16(place, rng=None, target=None):
    return ["ingest", str(place.data), "--kind", "luna16", "--out", str(place.out / "manifest.csv")]


def ingest_lidc(place, rng, target):
    return ["ingest", str(place.data), "--kind", "lidc", "--out", str(place.out / "manifest.csv")]


def npz_samples(place):
    values = np.random.default_rng(0).random((2, 2, 1, 8, 8, 8), np.float32)
    np.savez(place.data / "p.npz", positives=values[0], negatives=values[1])
    return [Sample(collect(place.data), ("p.npz",), partial(damage_npz, trap=place.trap))]


def stress(place, rng, target):
    """`lungadv stress` with a model that is not there: what is said of it shows that the patches were taken."""
    return ["stress", "nowhere:make", "--patches", str(place.data / "p.npz"), "--output", "logit", "--out", str(place.out)]


def weight_samples(place):
    from lungadv.detection.weights import shipped_folder

    folder = shipped_folder()
    files = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*.*") if path.suffix in (".json", ".safetensors")}
    write_scan(chest(), place.data / "scan.mhd")
    scan = collect(place.data)
    samples = []
    for name, path in sorted(files.items()):
        kind = damage_json if path.suffix == ".json" else damage_safetensors
        samples.append(Sample(scan | files | {name: path.read_bytes()}, (name,), kind))
    return samples


def detect_with(place, rng, target):
    return ["detect", str(place.data / "scan.mhd"), "--out", str(place.out / "findings.csv"), "--weights", str(place.data)]
