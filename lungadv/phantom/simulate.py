"""One simulated person from a recipe: anatomy, nodules and mimics, and the scan of them.

Each part draws from a stream of its own, keyed by (seed, index, part). So parts can be made alone and in any order.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any
from zlib import crc32

import numpy as np
import pandas as pd

from lungadv.data.scan import Scan
from lungadv.phantom.anatomy import draw_person
from lungadv.phantom.bones import paint_bones
from lungadv.phantom.grid import Grid
from lungadv.phantom.mimics import MIMICS, paint_mimic
from lungadv.phantom.nodules import Finding, draw_diameter, paint_nodule
from lungadv.phantom.parenchyma import paint_parenchyma
from lungadv.phantom.person import Person
from lungadv.phantom.placement import Placer
from lungadv.phantom.recipe import check_number, check_recipe
from lungadv.phantom.scanner import acquire
from lungadv.phantom.soft_tissue import paint_soft_tissue
from lungadv.phantom.vessels import Tree, draw_vessels, paint_vessels

__all__ = ["CONSENSUS", "UID_ROOT", "Phantom", "random_stream", "simulate", "simulate_anatomy"]

VOTES = {"nodules": (3, 4, 4, 4), "small_nodules": (1, 2, 3, 4), "disputed": (1, 2)}  # how many of four readers call it a nodule
CONSENSUS = 3  # readers of four who must call it a nodule in the reference standard, as in LUNA16
UID_ROOT = "1.2.826.0.1.3680043.8.498"  # pydicom's, which anybody may use
ORIGIN = (1.5, -20.5, -310.0)  # mm x y z, world coordinates of the middle of the lowest slice


@dataclass
class Phantom:
    """One simulated person and the scan."""

    scan: Scan
    lungs: np.ndarray  # uint8 (z, y, x): 3 in the left lung, 4 in the right one
    labels: np.ndarray  # uint8 (z, y, x): k in the mask of row k, from 1, of `nodules`
    nodules: pd.DataFrame  # coordX, coordY, coordZ (world mm), diameter_mm, type, attachment, spiculated, readers (of four who call it one)
    mimics: pd.DataFrame  # coordX, coordY, coordZ (world mm), diameter_mm, kind


def random_stream(seed: int, index: int, part: str) -> np.random.Generator:
    """The random generator of one part of person `index` of `seed`."""
    return np.random.default_rng(np.random.SeedSequence((seed, index, crc32(part.encode()))))


def simulate(recipe: Mapping[str, Any], seed: int, index: int, draw: int = 0) -> Phantom:
    """Simulate person `index` of `seed`.

    `recipe` may hold any key of `recipe.RECIPE`. Another `draw` gives the same person other nodules, mimics and noise.
    The voxels depend on (recipe, seed, index, draw) alone.
    Raises ValueError that names the parameter of a recipe that cannot be.
    """
    recipe = check_recipe(recipe)
    for name, value in (("seed", seed), ("index", index), ("draw", draw)):
        check_number(name, value, 0, 2**63, whole=True)
    grid, person, trees, hu, lungs = simulate_anatomy(recipe, seed, index)
    placer = Placer(grid, person, trees)
    stream = partial(_drawn_stream, seed, index, draw)
    labels, nodules = _add_nodules(hu, placer, recipe, stream)
    mimics = _add_mimics(hu, placer, recipe, stream)
    image = acquire(hu, grid.spacing, recipe["photons"], recipe["kernel"], stream("noise"), recipe["thickness"])
    origin = tuple(np.round(grid.start[::-1] + ORIGIN, 3))
    plan = crc32(json.dumps(recipe, sort_keys=True, default=float).encode())  # a person may be scanned in several ways
    uid = f"{UID_ROOT}.{seed}.{index}.{plan}" + (f".{draw}" if draw else "")
    scan = Scan(image, grid.spacing, origin, np.eye(3), uid)
    nodules = _table(scan, nodules, ["type", "attachment", "spiculated", "readers"])
    return Phantom(scan, lungs, labels, nodules, _table(scan, mimics, ["kind"]))


def _drawn_stream(seed, index, draw, part):
    """The random generator of a part of person `index` that another draw changes."""
    return random_stream(seed, index, f"{part}, draw {draw}" if draw else part)


def simulate_anatomy(recipe: Mapping[str, Any], seed: int, index: int) -> tuple[Grid, Person, list[Tree], np.ndarray, np.ndarray]:
    """A chest without nodules, from a checked recipe: grid, person, vessel trees, HU float32 and lungs uint8 (z, y, x)."""
    grid = Grid(tuple(int(n) for n in recipe["shape"]), tuple(float(s) for s in recipe["spacing"]))
    person = draw_person(grid, random_stream(seed, index, "chest"))
    hu, texture = paint_soft_tissue(grid, person, recipe["iodine"])
    paint_bones(hu, grid, person, random_stream(seed, index, "bones"))
    lungs = paint_parenchyma(hu, grid, person, texture, random_stream(seed, index, "lungs"))
    trees = draw_vessels(grid, person, random_stream(seed, index, "vessels"))
    paint_vessels(hu, grid, person, trees, recipe["iodine"])
    return grid, person, trees, hu, lungs


def _add_nodules(hu, placer, recipe, stream):
    """Paint the recipe's nodules, small and disputed ones: labels (z, y, x), and a row of the table for each."""
    labels = np.zeros(hu.shape, np.uint8)
    rng = stream("nodules")
    findings = [Finding(n["type"], n.get("diameter_mm") or draw_diameter(rng)) for n in recipe["nodules"]]
    for _ in range(recipe["small_nodules"]):
        findings.append(Finding("solid" if rng.random() < 0.8 else "ground_glass", draw_diameter(rng, 3, 5.9), "small_nodules"))
    findings += [Finding("ground_glass", rng.uniform(6, 10), "disputed") for _ in range(recipe["disputed"])]
    votes = [int(rng.choice(VOTES[finding.parameter])) for finding in findings]
    rows = {}
    for k in sorted(range(len(findings)), key=lambda k: -findings[k].diameter):  # the largest first, while there is room
        finding, own = findings[k], stream(f"nodule {k}")
        attachment, spiculated, centre = paint_nodule(hu, labels, k + 1, placer, finding, own, recipe["shift"])
        rows[k] = (centre, finding.diameter, finding.kind, attachment, spiculated, votes[k])
    return labels, [rows[k] for k in range(len(findings))]


def _add_mimics(hu, placer, recipe, stream):
    """Paint the recipe's mimics: a row of the table for each."""
    rows = []
    kinds = stream("mimics").choice(list(MIMICS), recipe["mimics"], p=list(MIMICS.values()))
    for k, kind in enumerate(kinds):
        centre, diameter = paint_mimic(hu, placer, str(kind), stream(f"mimic {k}"), recipe["iodine"])
        rows.append((placer.grid.to_index(centre), diameter, str(kind)))
    return rows


def _table(scan, rows, names):
    """Rows (voxel z y x, diameter, *names) as a table in world coordinates."""
    world = np.asarray(scan.to_world(np.array([row[0] for row in rows]).reshape(-1, 3)))
    table = pd.DataFrame(world, columns=["coordX", "coordY", "coordZ"])
    for k, name in enumerate(["diameter_mm", *names], start=1):
        table[name] = [row[k] for row in rows]
    return table
