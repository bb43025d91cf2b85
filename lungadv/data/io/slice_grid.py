"""The regular grid of a DICOM series: positions may be rounded in their files, but none may be missing."""

from collections.abc import Collection

import numpy as np

from lungadv.data.scan import ScanError

__all__ = ["check_duplicates", "fit_grid"]

ALIKE = 0.02  # of their median: steps that differ by no more are equal, their ends give the grid
NOTED, MOST_OFF = 0.1, 0.25  # of a step: a slice this far off the fitted grid is told of; farther off, the series is refused
GAP = 1.6  # steps: where one is missing, the largest is twice the smallest; positions of 2.5 mm in whole mm give 1.5


def check_duplicates(heights: np.ndarray, names: list[str], acquisitions: Collection[str] = ()) -> None:
    """Raises ScanError for slices at one place. heights: mm along the normal, sorted; names: of their files.

    acquisitions: the AcquisitionNumbers of all slices: phases of one patient may be exported as one series.
    """
    (same,) = np.nonzero(np.diff(heights) < 1e-2)
    if not len(same):
        return
    first = f"two slices at {heights[same[0]]:.2f} mm, '{names[same[0]]}' and '{names[same[0] + 1]}'"
    if len(same) == 1:
        raise ScanError(f"holds {first}: remove the duplicate")
    if len(same) == len(names) - 1:
        raise ScanError(f"holds {len(names)} slices at one place, {heights[0]:.2f} mm: their positions were lost; export the series again")
    remedy = "remove the duplicates; if positions were rounded, export the series with exact ones"
    if len(acquisitions) > 1:
        remedy = f"it mixes {len(acquisitions)} acquisitions (AcquisitionNumber {', '.join(sorted(acquisitions)[:4])}); keep one"
    raise ScanError(f"holds {len(same)} times two slices at one place, first {first}: {remedy}")


def fit_grid(heights: np.ndarray) -> tuple[float, float, str]:
    """The equally spaced grid of slices -> (mm of the first slice, step in mm, what is to be told of it or "").

    heights: mm along the normal, sorted, no two alike. Each is held against the fitted line, not against its neighbours: rounded to
    0.1 mm, steps of 0.625 mm are 0.6 or 0.7 mm. Raises ScanError where slices are missing.
    """
    steps = np.diff(heights)
    if np.ptp(steps) <= max(ALIKE * np.median(steps), 0.01):
        return heights[0], (heights[-1] - heights[0]) / len(steps), ""
    step, first = (float(value) for value in np.polyfit(np.arange(len(heights)), heights, 1))
    off = np.abs(heights - first - step * np.arange(len(heights))).max()
    if off > MOST_OFF * step or steps.max() > GAP * steps.min():
        rounded = ", positions were rounded to whole mm" if np.allclose(heights, np.rint(heights), atol=1e-3) else ""
        raise ScanError(
            f"holds slices {steps.min():.2f} to {steps.max():.2f} mm apart (after {heights[steps.argmax()]:.2f} mm): "
            f"slices are missing{rounded}, or two acquisitions are mixed; give a gapless series"
        )
    how = f"its slices lie up to {off:.2f} mm ({off / step:.0%} of the step of {step:.3g} mm) off a regular grid"
    note = f"{how}: were their positions rounded? places along the stack are as uncertain"
    return first, step, note if off > NOTED * step else ""
