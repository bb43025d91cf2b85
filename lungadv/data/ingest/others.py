"""What lies beside CT in DICOM folders: PET, segmentations, reports, localizers. It is left out, line by line, and counted by modality."""

from lungadv.utils.errors import plural

__all__ = ["count_others", "describe_others", "other_lines"]


def other_lines(records: list[dict]) -> list[dict]:
    """Lines of the report for the series of records that are no CT slices, one a series."""
    return [
        {
            "seriesuid": series["uid"],
            "path": record["path"],
            "status": "left out",
            "reason": f"{series['other']}, {plural(len(series['files']), 'file')}: only slices of CT are read",
            "modality": series["other"],
            "files": len(series["files"]),
        }
        for record in records
        for series in record["series"]
        if "other" in series
    ]


def count_others(lines: list[dict]) -> dict[str, int]:
    """How many series of each modality are left out, by lines of the report; the modalities in order."""
    kinds = sorted(line["modality"] for line in lines if "modality" in line)
    return {kind: kinds.count(kind) for kind in kinds}


def describe_others(lines: list[dict]) -> str:
    """How many series and files of each modality are left out, a sentence; "" where none is."""
    counts = count_others(lines)
    files = {kind: sum(line["files"] for line in lines if line.get("modality") == kind) for kind in counts}
    said = [f"{kind} {number} series of {plural(files[kind], 'file')}" for kind, number in counts.items()]
    return f"Left out as no slices of CT: {', '.join(said)}." if said else ""
