"""The list of bad inputs in perf/bad_inputs.py: each gets one line that names the file and what is wrong."""

import bad_inputs
import pytest

SAYS = {
    # hostile files
    "zip bomb: more than a scan can be": ("scan.zip", "unpacks to more than 4294967296 bytes"),
    "zip with a link": ("scan.zip", "is a link or no plain file"),
    "packed voxels that unpack without end": ("scan.zraw", "too many for the 64000 of its header"),
    "XML with an external entity": ("reading.xml", "a document type or entities"),
    "XML nested without end": ("reading.xml", "cannot be read as XML"),
    "symbolic link to a slice among slices": ("link.dcm", "remove the duplicate"),
    "hard link to a slice among slices": ("link.dcm", "remove the duplicate"),
    "symbolic link to itself among slices": ("series", "Too many levels of symbolic links"),
    "symbolic link to a device among slices": ("series", "slices are missing"),
    ".mhd naming an absolute path": ("scan.mhd", "'/etc/passwd', which is outside its folder"),
    ".mhd naming a link to a file outside its folder": ("scan.mhd", "'link.zraw', which is outside its folder"),
    ".nhdr naming an absolute path": ("scan.nhdr", "'/etc/passwd', which is outside its folder"),
    ".nhdr naming a file above its folder": ("scan.nhdr", "'../scan.raw', which is outside its folder"),
    "safetensors whose header has 2 GB": ("folder", "header too large"),
    "npz with pickled arrays": ("patches.npz", "holds Python objects"),
    "pickle named .npz": ("patches.npz", "is no .npz file"),
    "scan named as a formula, its findings": ("'=cmd|", "0.9"),
    "scan named as a formula, ingested": ("=1+1.mhd", "would be a formula in a spreadsheet: rename it"),
    "patient named as a formula, ingested": ("'@SUM(A1)",),
    "scan whose name has a line break": ("a b.mhd", "a line break or another control character: rename it"),
    "SeriesInstanceUID with a slash": ("0001.dcm", "not digits and dots"),
    "SeriesInstanceUID with a line break": ("0001.dcm", "not digits and dots"),
    "seriesuid with a line break in a table": ("annotations.csv", "its scan is not there"),
    # reported by people of other tools
    "positions of slices written to whole mm, 2.5 mm apart": ("off a regular grid: were their positions rounded?",),
    "positions of slices written to whole mm, 1.25 mm apart": ("series", "positions were rounded to whole mm"),
    "a scan file whose name is not UTF-8": ("M\\xfcller.mhd", "is not UTF-8 text: rename it"),
    "a worker of ingest killed as when memory runs out": ("was killed, most likely because memory ran out", "--workers 1"),
    "metadata.csv whose columns are not known": ("metadata.csv", "no column Series UID or SeriesInstanceUID"),
    "a disk that knows no locks": ("knows no locks", "it goes on without"),
    "marks in voxel coordinates": ("look like voxel indices", "must be LPS millimetres"),
    "a DICOM slice without preamble and meta header, cut short": ("0020.dcm", "cut short"),
    "a TorchScript model that was optimised for inference": ("gradient",),
    "patches as int16 HU": ("int16", "convert HU with lungadv.to_unit"),
    "patches as float64": ("float64", "save them with .astype('float32')"),
    "to_unit of int16 HU": ("float32",),
    "a model that returns probabilities, called logits": ("returned probabilities", "before the softmax"),
    "rescale intercept applied twice": ("a.mhd", "was the rescale intercept applied twice?"),
    "rescale intercept left out": ("a.mhd", "was the rescale intercept left out?"),
    "rescale slope 0": ("0001.dcm", "RescaleSlope 0"),
    "rescale slope below 0": ("0001.dcm", "RescaleSlope -1"),
    "zip with members named ..\\x": ("scan.zip", "would leave the folder"),
    "PET beside a CT": ("PT, 1 file", "only slices of CT are read"),
    "ingest called from standard input, without a main guard": ("2 taken",),
    # others
    "truncated .zraw": ("scan.zraw", "cut short"),
    "header and data size differ": ("scan.zraw", "its header says"),
    ".mhd naming a file outside its folder": ("scan.mhd", "outside its folder"),
    "missing slice": ("series", "slices are missing"),
    "duplicate slice": ("copy.dcm", "remove the duplicate"),
    "two series mixed": ("series", "holds 2 series"),
    "SeriesInstanceUID that is a path": ("0001.dcm", "not digits and dots"),
    "localizer": ("0001.dcm", "is a localizer"),
    "gantry tilt": ("series", "a tilted gantry"),
    "colour image": ("0001.dcm", "no grey CT image"),
    "4D image": ("scan.mhd", "4-dimensional"),
    "missing rescale": ("0001.dcm", "no RescaleIntercept"),
    "NaN": ("scan.nrrd", "not finite"),
    "spacing 0": ("scan.mhd", "correct the header"),
    "unit direction missing": ("scan.mhd", "add 'TransformMatrix"),
    "empty folder": ("folder", "holds no DICOM series"),
    "text renamed .dcm": ("notes.dcm", "no DICOM file"),
    "text renamed .dcm beside slices, ingested": ("notes.dcm", "was read without it"),
    "CSV with missing column": ("annotations.csv", "no column diameter_mm"),
    "CSV ids read as numbers": ("annotations.csv, line 2", "keep the ids as text"),
    "CSV with comma decimals": ("annotations.csv, line 2", "decimals written with a comma"),
    "CSV with duplicate rows": ("annotations.csv, line 3", "list each row once"),
    "nodule outside the volume": ("annotations.csv, line 5", "lies outside scan '1.2.3'"),
    "annotation of an unknown scan": ("annotations.csv: line 6", "its scan is not there"),
    "coordinates that fit only after an LPS/RAS flip": ("annotations.csv, line 2", "fit as x and y negated (RAS instead of LPS)"),
    "coordinates with x and y negated that stay inside": ("annotations.csv", "4 do as x and y negated (RAS instead of LPS)"),
    "coordinates that fit only after an x/z swap": ("annotations.csv, line 2", "fit as x and z swapped"),
    "the same voxels under two names": ("copy.mhd", "holds the same voxels as 'subset0/1.2.0.mhd': keep one of them"),
    "XML with entity expansion": ("reading.xml", "unfold without end"),
    "zip with ../ paths": ("scan.zip", "would leave the folder"),
    "patient in two splits": ("manifest.csv, line 3", "patient 'P1' is in nlst and train"),
    "checksum changed since ingest": ("1.2.0.zraw", "has changed since it was read"),
    "disk full while writing the store": ("made", "make room and call again"),
}


def test_every_case_is_here():
    assert list(SAYS) == list(bad_inputs.CASES)


@pytest.mark.parametrize("name", SAYS)
def test_a_bad_input_gets_one_line_with_file_and_reason(name):
    said = bad_inputs.message(name)
    assert all(part in said for part in SAYS[name]) and "\n" not in said and "Traceback" not in said
