"""A folder of LUNA16, LIDC-IDRI or DICOM, read once, checked and written down as a manifest.

The folder is only read. In another folder ingest makes

    <name>.csv                    the manifest: one row a scan that was taken
    annotations.csv,              nodules,
    annotations_excluded.csv      and what is neither a nodule nor a false positive
    mimics.csv                    a phantom's, copied
    masks/<uid>.mhd               nodules outlined by LIDC's readers: label k is the scan's k-th row of annotations.csv
    store/<uid>.h5                the voxels, in chunks that are read patch by patch
    <name>.report.csv             one line a scan: taken or refused, and why
    <name>.ingest.json            the folder that the manifest's paths start from, counts, what is left out
    <name>.items/                 what was found in each scan: a call that was stopped goes on from there

What cannot be used is refused with its reason and does not stop the rest. A second call reads nothing twice: it compares sizes and times,
and where these differ checksums.

A new kind of data set is one entry in `sources.SOURCES`.
"""

from lungadv.data.ingest.run import ingest

__all__ = ["ingest"]
