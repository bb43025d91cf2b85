"""MetaImage (.mhd, .mha), whose world is LPS. Source: https://itk.org/Wiki/MetaIO/Documentation.

SimpleITK reads size, geometry and type. The names of files beside a check are the cases of test_metaimage that need it.
"""

import re
from pathlib import Path

from lungadv.data.io.header import VolumeHeader, header_of, pixel_type, read_information, stored_type
from lungadv.data.io.text_header import beside, field_of, flag_of, numbers_in, split_fields, start_of
from lungadv.data.scan import ScanError

__all__ = ["read_metaimage_header"]


def read_metaimage_header(path: Path) -> VolumeHeader:
    """The header of an .mhd or .mha. Raises ScanError for what is not one complete three-dimensional CT volume."""
    text = start_of(path)
    last = text.find(b"ElementDataFile")
    if last < 0:
        raise ScanError("is no MetaImage header: it has no line 'ElementDataFile = ...'")
    end = text.find(b"\n", last) + 1 or len(text)
    fields = split_fields(text[:end].decode("latin-1").split("\n"), "=")
    _check_fields(fields)
    data = field_of(fields, "ElementDataFile")
    local = data == "LOCAL"
    packed = flag_of(fields, "CompressedData", default=False)
    length = fields.get("CompressedDataSize")
    files = _data_files(path, data, text[end:].decode("latin-1").split("\n"))
    reader = read_information(path, "MetaImageIO")
    if len(files) > 1 and (packed or reader.GetSize()[2] % len(files)):  # list_odd.mhd
        raise ScanError(f"lists {len(files)} files for {reader.GetSize()[2]} slices, or packed ones: store it as one .mha")
    order = ">" if flag_of(fields, "BinaryDataByteOrderMSB", "ElementByteOrderMSB", default=False) else "<"
    return header_of(
        reader,
        pixel_type(reader, order),
        files,
        skip=0 if local else numbers_in("HeaderSize", fields.get("HeaderSize", "0"), 1, int)[0],
        start=end if local else 0,
        packed=packed,
        packed_bytes=None if length is None else numbers_in("CompressedDataSize", length, 1, int)[0],
        slope=_number_of(fields, "ElementToIntensityFunctionSlope", "1"),  # SimpleITK leaves both out: scaled.mhd
        intercept=_number_of(fields, "ElementToIntensityFunctionOffset", "0"),
    )


def _number_of(fields, name, default):
    return numbers_in(name, fields.get(name, default), 1)[0]


def _check_fields(fields):
    """What a header must say, and say in numbers. SimpleITK takes a default instead, or reads what is none of CT."""
    count = numbers_in("NDims", field_of(fields, "NDims"), 1, int)[0]
    if count != 3:  # flat.mhd; many.mhd crashes SimpleITK
        raise ScanError(f"is {count}-dimensional: give one three-dimensional CT volume")
    size = numbers_in("DimSize", field_of(fields, "DimSize"), 3, int)
    if min(size) < 2:  # negative.mhd
        raise ScanError(f"is 3-dimensional of size {size}: give one three-dimensional CT volume of at least two slices")
    numbers_in("ElementSpacing", field_of(fields, "ElementSpacing", "ElementSize"), 3)  # no_spacing.mhd
    numbers_in("Offset", field_of(fields, "Offset", "Position", "Origin"), 3)  # no_offset.mhd, infinite.mhd
    numbers_in("TransformMatrix", field_of(fields, "TransformMatrix", "Rotation", "Orientation"), 9)  # no_direction.mhd
    if (channels := fields.get("ElementNumberOfChannels", "1")) != "1":  # colour.mhd
        raise ScanError(f"has {channels} values a voxel (colour?): give one CT volume of HU")
    if not flag_of(fields, "BinaryData", default=True):  # ascii.mhd
        raise ScanError("holds its voxels as text: store it as binary")
    if not re.fullmatch("MET_(U?(CHAR|SHORT|INT|LONG)|FLOAT|DOUBLE)", kind := fields.get("ElementType", "None")):  # type.mhd
        stored_type("<", {}, kind)


def _data_files(path, name, below):
    """The files that hold the voxels; `below` are the lines under the header."""
    words = name.split()
    if words == ["LOCAL"]:
        return (path,)
    if words[:1] == ["LIST"] and words[1:] in ([], ["2"]):
        return tuple(beside(path, line.strip()) for line in below if line.strip())
    return (beside(path, name),)
