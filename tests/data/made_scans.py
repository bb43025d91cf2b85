"""Scans made for tests, and the same ones as SimpleITK images."""

import numpy as np
import pydicom
import SimpleITK as sitk

from lungadv.data.io.write import write_series
from lungadv.data.scan import AIR, Scan


def rotation(axis, degrees):
    """A rotation matrix about an axis."""
    x, y, z = np.array(axis) / np.linalg.norm(axis)
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    angle = np.radians(degrees)
    return np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross


def noise_scan(direction=None, spacing=(0.7, 0.9, 2.0), shape=(20, 26, 34), seed=0):
    """A scan of noise: any error of geometry shows."""
    hu = np.random.default_rng(seed).integers(-1000, 1500, shape, dtype=np.int16)
    return Scan(hu, spacing, (-30.5, 12.25, -280), np.eye(3) if direction is None else direction, "noise")


def to_sitk(scan):
    image = sitk.GetImageFromArray(scan.hu)
    image.SetSpacing(scan.spacing)
    image.SetOrigin(scan.origin)
    image.SetDirection(scan.direction.ravel().tolist())
    return image


def sitk_patch(scan, centre, size, spacing):
    """The same patch by SimpleITK."""
    origin = np.array(centre) - (size - 1) / 2 * spacing
    grid = ((size,) * 3, sitk.Transform(), sitk.sitkLinear, origin.tolist(), (spacing,) * 3, np.eye(3).ravel().tolist())
    return sitk.GetArrayFromImage(sitk.Resample(sitk.Cast(to_sitk(scan), sitk.sitkFloat64), *grid, AIR))


DIRECTIONS = {
    "straight": np.eye(3),
    "flipped": np.diag([-1.0, -1.0, 1.0]),
    "mirrored": np.diag([1.0, 1.0, -1.0]),
    "permuted": np.eye(3)[[2, 0, 1]],
    "rotated": rotation([0, 0, 1], 20),
    "oblique": rotation([1, 2, 3], 35),
}


def phantom_scan(name):
    """Noise whose geometry has decimals, with a uid that DICOM accepts."""
    spacing, origin = (0.703125, 2 / 3, 1.2345), (-173.1234567, 12.25, -1280.04)
    return Scan(noise_scan().hu, spacing, origin, DIRECTIONS[name], "1.2.826.0.1.3680043.10.1.5")


def write_dicom(folder, edit=None, scan=None):
    """A DICOM series of which pydicom has edited each slice: edit(dataset, z)."""
    scan = scan or phantom_scan("rotated")
    write_series(scan, folder)
    for z, path in enumerate(sorted(folder.iterdir())):
        dataset = pydicom.dcmread(path)
        if edit:
            edit(dataset, z)
        dataset.save_as(path)
    return scan
