"""Scan files written by hand, good and bad."""

import struct
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from lungadv.data.io.read import read_scan
from lungadv.data.scan import ScanError
from tests.data.made_scans import DIRECTIONS

VOXELS = np.random.default_rng(3).integers(-1000, 1500, (4, 5, 6), dtype=np.int16)
MHD = {
    "ObjectType": "Image", "NDims": "3", "BinaryData": "True", "BinaryDataByteOrderMSB": "False", "CompressedData": "False",
    "TransformMatrix": "0 1 0 -1 0 0 0 0 1", "Offset": "1 2 3", "ElementSpacing": "0.7 0.8 2", "DimSize": "6 5 4",
    "ElementType": "MET_SHORT", "ElementDataFile": "a.raw",
}  # fmt: skip
NRRD = {
    "type": "short", "dimension": "3", "space": "left-posterior-superior", "sizes": "6 5 4", "endian": "little", "encoding": "raw",
    "space directions": "(0,0.7,0) (-0.8,0,0) (0,0,2)", "space origin": "(1,2,3)", "data file": "a.raw",
}  # fmt: skip


def write_mhd(path, **changes):
    """A header by hand: MHD with other fields (None: without); its voxels have to be written beside it."""
    fields = {name: value for name, value in (MHD | changes).items() if value is not None}
    fields["ElementDataFile"] = fields.pop("ElementDataFile")  # the last one
    path.write_text("".join(f"{name} = {value}\n" for name, value in fields.items()))
    return path


def write_nrrd(path, data=b"", **changes):
    fields = NRRD | {name.replace("_", " "): value for name, value in changes.items()}
    lines = [f"{name}: {value}\n" for name, value in fields.items() if value is not None]
    path.write_bytes(("NRRD0004\n# by hand\n" + "".join(lines) + "\n").encode() + data)
    return path


def write_nifti(path, voxels=VOXELS, **fields):
    """A NIfTI by SimpleITK, with other header fields: name=(format, byte, value)."""
    image = sitk.GetImageFromArray(voxels)
    image.SetDirection(DIRECTIONS["oblique"].ravel().tolist())
    sitk.WriteImage(image, str(path))
    content = bytearray(path.read_bytes())
    for kind, at, *values in fields.values():
        struct.pack_into("<" + kind, content, at, *values)
    path.write_bytes(content)
    return path


def assert_read_as_by_itk(path):
    image, scan = sitk.ReadImage(str(path)), read_scan(path)
    assert (np.rint(sitk.GetArrayFromImage(image)) == scan.hu).all() and scan.hu.dtype == np.int16
    voxels = np.array([[0, 0, 0], [3, 4, 5], [0, 9, 2]])
    world = [image.TransformIndexToPhysicalPoint(voxel[::-1].tolist()) for voxel in voxels]
    assert np.allclose(scan.to_world(voxels), world, atol=1e-3)
    return scan


def assert_refused(path, reason):
    """read_scan gives one line that names the file and the reason."""
    with pytest.raises(ScanError) as error:
        read_scan(path)
    text = str(error.value)
    assert Path(path).stem in text and reason in text and "\n" not in text and "Traceback" not in text, (path, text)
