"""The recipe of a simulated scan: its keys, their defaults and limits, and the check that names what cannot be."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from lungadv.data.tables import TYPES
from lungadv.phantom.scanner import check_acquisition

__all__ = ["DOSES", "PHOTONS", "RECIPE", "check_number", "check_recipe"]

RECIPE = {
    "shape": (176, 200, 232),  # voxels, z y x
    "spacing": (1.25, 1.25, 1.25),  # mm, x y z
    "thickness": None,  # mm of a slice; None: the spacing of the slices
    "kernel": "soft",  # one of projection.KERNELS
    "photons": 3e4,  # a view and detector cell, unattenuated: see DOSES
    "iodine": 0,  # HU that contrast agent adds to blood
    "nodules": (),  # each {"type": ..., "diameter_mm": optional}
    "mimics": 0,
    "small_nodules": 0,  # of 3-6 mm
    "disputed": 0,  # faint findings of 6-10 mm that at most two of four readers call a nodule
    "shift": False,  # another family of nodule shapes
}
DOSES = {"standard": 1.5e5, "low": 3e4, "ultralow": 1e4}  # photons a view and detector cell, unattenuated
PHOTONS = (1.0, 1e12)  # the least and the most
IODINE = (0, 500)  # HU
FIELD_OF_VIEW = (150.0, 450.0)  # mm: what a chest needs, and the largest scanner shows
MOST_NODULES = 255  # of one person: their labels are uint8
MOST_MIMICS = 255
MOST_VOXELS = 2.5e8  # 5 GiB while it is made


def check_recipe(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """The recipe with the defaults of RECIPE filled in. Raises ValueError that names the parameter that cannot be."""
    unknown = sorted(set(recipe) - set(RECIPE))
    if unknown:
        raise ValueError(f"unknown recipe key '{unknown[0]}': choose from {', '.join(RECIPE)}")
    recipe = RECIPE | dict(recipe)
    for key in ("shape", "spacing"):
        values = np.asarray(recipe[key], dtype=object)
        if values.shape != (3,):
            raise ValueError(f"{key} must be three numbers, not {recipe[key]}")
        for value in values:
            check_number(key, value, 0.1 if key == "spacing" else 32, 1e4, whole=key == "shape")
    size = np.array(recipe["shape"])[::-1] * recipe["spacing"]
    if (size < FIELD_OF_VIEW[0]).any() or (size > FIELD_OF_VIEW[1]).any():
        low, high = FIELD_OF_VIEW
        raise ValueError(f"shape and spacing span {size.round().tolist()} mm (x, y, z): give {low:.0f} to {high:.0f} mm on each axis")
    check_number("photons", recipe["photons"], *PHOTONS)
    check_number("iodine", recipe["iodine"], *IODINE)
    if (voxels := np.prod(np.array(recipe["shape"], float))) > MOST_VOXELS:
        raise ValueError(f"shape {tuple(recipe['shape'])} has {voxels:.2g} voxels: give at most {MOST_VOXELS:.2g}")
    if recipe["thickness"] is not None:
        check_number("thickness", recipe["thickness"], recipe["spacing"][2], 10 * recipe["spacing"][2])
    if not isinstance(recipe["shift"], bool):
        raise ValueError(f"shift must be True or False, not {recipe['shift']!r}")
    check_acquisition(recipe["spacing"], recipe["photons"], recipe["kernel"], recipe["thickness"])
    _check_findings(recipe, 0.2 * size.min())
    return recipe


def _check_findings(recipe, largest):
    """Check nodules, none larger than `largest` mm, and the counts of all else that is placed in the lungs."""
    for key, most in (("mimics", MOST_MIMICS), ("small_nodules", MOST_NODULES), ("disputed", MOST_NODULES)):
        check_number(key, recipe[key], 0, most, whole=True)
    if not isinstance(recipe["nodules"], (list, tuple)):
        raise ValueError(f"nodules must be a list of nodules, not {recipe['nodules']}")
    if (count := len(recipe["nodules"]) + recipe["small_nodules"] + recipe["disputed"]) > MOST_NODULES:
        raise ValueError(f"nodules: {count} with small and disputed ones, more nodules than fit: at most {MOST_NODULES} have labels")
    for nodule in recipe["nodules"]:
        if not isinstance(nodule, dict) or set(nodule) - {"type", "diameter_mm"}:
            raise ValueError(f"nodules: {nodule} must have a type, may have a diameter_mm, and nothing else")
        if nodule.get("type") not in TYPES:
            raise ValueError(f"nodules: unknown type '{nodule.get('type')}', choose from {', '.join(TYPES)}")
        if nodule.get("diameter_mm") is not None:
            check_number("nodules: diameter_mm", nodule["diameter_mm"], 2, largest)


def check_number(name: str, value: Any, low: float, high: float, whole: bool = False) -> None:
    """Raises ValueError unless `value` is a number from `low` to `high`, and an integer where it must be `whole`."""
    kinds = (int, np.integer) if whole else (int, float, np.integer, np.floating)
    if isinstance(value, bool) or not isinstance(value, kinds) or not low <= value <= high:
        raise ValueError(f"{name} must be a {'whole ' if whole else ''}number from {low:g} to {high:g}, not {value}")
