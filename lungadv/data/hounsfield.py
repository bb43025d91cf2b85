"""Whether the values of a scan can be HU of a chest: its intercept may have been left out, applied twice, or its sign lost."""

import numpy as np

from lungadv.data.scan import AIR, LOWEST_HU, Scan

__all__ = ["doubt_hu", "padding_remark"]

NO_AIR, TISSUE, DARKEST = -500, -300, -800  # HU: air and lung lie below, tissue above; most of a scan that is too low is darker
LEAST_AIR, LEAST_TISSUE, MOST_DARK = 1e-3, 0.05, 0.5  # of the voxels that are no padding; a chest has 0.3 or more of air and tissue
CUT_OFF = 0.3  # of a scan; 1000 HU too low, air and lung become padding: 0.5 or more of a chest
MUCH_PADDING = 0.5  # of a scan; the corners around a round field of view are 0.21


def doubt_hu(scan: Scan) -> str:
    """Why the values of a scan are no HU of a chest, with the remedy, or "". Padding counts as nothing."""
    hu = np.asarray(scan.hu)
    lowest = int(hu.min())
    if lowest > NO_AIR:
        return f"holds no air, its lowest value is {lowest}: is it a mask, or was the rescale intercept left out? give a CT in HU"
    real = max(hu.size - scan.padded, 1)
    if (np.count_nonzero(hu <= NO_AIR) - scan.padded) / real < LEAST_AIR:
        return f"holds no air but its padding{_middle(hu)}: was the rescale intercept left out? export it in HU"
    return _doubt_tissue(hu, scan.padded)


def _doubt_tissue(hu: np.ndarray, padded: int) -> str:
    """Why the values lie too low for a chest, with the remedy, or ""."""
    cut = (padded + np.count_nonzero(hu <= LOWEST_HU)) / hu.size
    blank = np.count_nonzero(hu == AIR)  # what padding becomes, here and in other programs
    real = max(hu.size - blank, 1)
    bright, dark = np.count_nonzero(hu > TISSUE) / real, (np.count_nonzero(hu < DARKEST) - blank) / real
    if cut < CUT_OFF or bright > LEAST_TISSUE or dark < MOST_DARK:
        return ""
    return (
        f"holds hardly any tissue, {bright:.1%} of its values are over {TISSUE} HU, and {cut:.0%} of all are {LOWEST_HU} or less: "
        "was the rescale intercept applied twice? export it in HU"
    )


def _middle(hu: np.ndarray) -> str:
    """The median of what is not AIR, in words; "" where there is nothing else."""
    values = hu[hu != AIR]
    return f", half of its values are over {np.median(values):.0f}" if len(values) else ""


def padding_remark(scan: Scan) -> str:
    """A few words for a scan that is mostly padding, or ""."""
    share = scan.padded / scan.hu.size
    return f"{share:.0%} of its voxels are padding" if share > MUCH_PADDING else ""
