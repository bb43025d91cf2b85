"""Findings as a DICOM structured report: TID 1500 "Measurement Report", one sphere in patient coordinates a finding."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

import lungadv
from lungadv.data.io.dicom import Series, read_full_headers
from lungadv.detection.weights import read_provenance
from lungadv.utils.errors import InputError
from lungadv.utils.files import atomic_write

if TYPE_CHECKING:
    import pydicom

__all__ = ["read_images", "write_sr"]

DISCLAIMER = "Not for clinical use"
MAKER, PROGRAM = "lungadv contributors", "lungadv detect"
SERIES_NUMBER = 9000  # of the report among its study's series: beyond those that scanners give
MAY_BE_EMPTY = (  # attributes of type 2, which every slice should have and highdicom asks for; files often lack some
    "PatientID", "PatientName", "PatientBirthDate", "PatientSex", "AccessionNumber", "StudyID", "StudyDate", "StudyTime",
)  # fmt: skip
AXES = np.array([[-1, 0, 0], [1, 0, 0], [0, -1, 0], [0, 1, 0], [0, 0, -1], [0, 0, 1]])  # ends of an ellipsoid's axes, as DICOM orders them


def read_images(folder: Path, series: str | Series | None) -> "list[pydicom.FileDataset]":
    """The headers of the CT slices that a report refers to: those that `read_scan` reads of a DICOM folder, or those of a `Series`.

    What a header lacks of patient and study is empty in them.
    Raises InputError when highdicom is not installed, for what is no folder, and for slices that name no study or frame of reference.
    """
    try:
        import highdicom  # noqa: F401
    except ImportError:
        raise InputError("a DICOM SR needs highdicom: install it with `pip install 'lungadv[sr]'`, or leave out --sr") from None
    if not Path(folder).is_dir():
        raise InputError(f"a DICOM SR refers to its images, and '{folder}' is no folder of DICOM slices: give one, or leave out --sr")
    images = read_full_headers(Path(folder), series)
    for name in ("FrameOfReferenceUID", "StudyInstanceUID"):
        if not all(image.get(name) for image in images):
            raise InputError(f"'{folder}' has slices without {name}, which a DICOM SR refers to: leave out --sr")
    for image in images:
        for name in MAY_BE_EMPTY:
            if name not in image:
                setattr(image, name, "")
    return images


def write_sr(images: "list[pydicom.FileDataset]", findings: pd.DataFrame, weights: str | Path, path: str | Path) -> None:
    """Write findings as a Comprehensive 3D SR after TID 1500, whole or not at all.

    images: see `read_images`; weights: the folder that the findings were made with. Each finding is a sphere of its diameter in LPS mm,
    with its probability and uncertainty. The report has new UIDs each time, and is neither complete, final nor verified.
    Source: DICOM PS3.16, TID 1500 and TID 1411.
    """
    import highdicom

    document = highdicom.sr.Comprehensive3DSR(
        evidence=images,
        content=_report_content(images, findings, read_provenance(weights)[1]),
        series_instance_uid=highdicom.UID(),
        series_number=SERIES_NUMBER,
        sop_instance_uid=highdicom.UID(),
        instance_number=1,
        manufacturer=MAKER,
        manufacturer_model_name=PROGRAM,
        software_versions=lungadv.__version__,
        series_description=f"lungadv findings. {DISCLAIMER}",
    )
    with atomic_write(path) as temporary:
        document.save_as(temporary)


def _report_content(images, findings, provenance):
    """The content tree of the report, from headers, findings and the provenance of the weights."""
    from highdicom import UID, sr
    from pydicom.sr.codedict import codes

    device = sr.DeviceObserverIdentifyingAttributes(
        uid=UID(), name=f"{PROGRAM} {lungadv.__version__}. {DISCLAIMER}", manufacturer_name=MAKER, model_name=PROGRAM
    )
    origin = ", ".join(f"{key} {provenance.get(key)}" for key in ("profile", "seed", "data", "commit"))
    algorithm = sr.AlgorithmIdentification(PROGRAM, lungadv.__version__, [DISCLAIMER, f"weights: {origin}"], manufacturer=MAKER)
    return sr.MeasurementReport(
        observation_context=sr.ObservationContext(sr.ObserverContext(codes.DCM.Device, device)),
        procedure_reported=codes.cid100.CTUnspecifiedBodyRegion,
        imaging_measurements=[_measurement_group(images, row, algorithm) for row in findings.itertuples()],
        title=codes.DCM.ImagingMeasurementReport,
    )[0]


def _measurement_group(images, row, algorithm):
    """The content items of one finding: its sphere, the slices that it reaches, and what was measured."""
    from highdicom import UID, sr
    from pydicom.sr.codedict import codes

    centre = np.array([row.coordX, row.coordY, row.coordZ])
    slices = _slices_through(images, centre, row.diameter_mm)
    surface = sr.VolumeSurface(
        graphic_type=sr.GraphicTypeValues3D.ELLIPSOID,
        graphic_data=centre + AXES * row.diameter_mm / 2,
        frame_of_reference_uid=images[0].FrameOfReferenceUID,
        source_images=[sr.SourceImageForSegmentation.from_source_image(image) for image in slices],
    )
    uncertainty = sr.CodedConcept("uncertainty", "99LUNGADV", "Uncertainty 2/S of the Beta distribution")
    return sr.VolumetricROIMeasurementsAndQualitativeEvaluations(
        tracking_identifier=sr.TrackingIdentifier(UID(), f"finding {row.Index + 1}"),
        referenced_volume_surface=surface,
        finding_type=codes.SCT.Nodule,
        finding_sites=[sr.FindingSite(codes.SCT.Lung)],
        algorithm_id=algorithm,
        measurements=[
            sr.Measurement(codes.DCM.CertaintyOfFinding, round(100 * float(row.probability), 4), codes.UCUM.Percent),
            sr.Measurement(uncertainty, round(float(row.uncertainty), 6), codes.UCUM.NoUnits),
            sr.Measurement(codes.SCT.Diameter, round(float(row.diameter_mm), 3), codes.UCUM.Millimeter),
        ],
    )


def _slices_through(images, centre, diameter):
    """The images that a sphere reaches, the nearest one at least; centre: (3,) LPS mm, diameter: mm."""
    across, down = np.reshape([float(value) for value in images[0].ImageOrientationPatient], (2, 3))
    distances = np.abs([(np.array(image.ImagePositionPatient, float) - centre) @ np.cross(across, down) for image in images])
    return [image for image, distance in zip(images, distances, strict=True) if distance <= max(diameter / 2, distances.min())]
