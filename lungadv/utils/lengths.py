"""Lengths in mm on a grid of voxels."""


def whole_voxels(length: float, spacing: float, least: int = 1, step: int = 1) -> int:
    """A length in mm as voxels of `spacing` mm: the nearest multiple of `step`, and `least` at least."""
    return max(least, step * round(length / spacing / step))
