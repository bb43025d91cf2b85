"""The part of the stage "banks" that judges fusion: true nodules in place and fused elsewhere, before the baseline."""

from pathlib import Path

import pandas as pd
import torch

from lungadv.banks.sites import crowding
from lungadv.data.cutouts import cut_out_dataset
from lungadv.data.kinds import CUBES, kind_of
from lungadv.data.walls import WALL, on_wall
from lungadv.detection.weights import is_weights, load_detector, shipped_folder
from lungadv.evaluation.fusion import choose_sites, fuse_elsewhere, fusion_table, noise_level, rim_table
from lungadv.evaluation.fusion_real import FOLDER, MOVE, move_sites, read_cubes, without_nodules
from lungadv.models.dense_unet import predict
from lungadv.pipeline.runs import Run
from lungadv.pipeline.stages.datasets import load
from lungadv.pipeline.stages.fpr import load_strategy
from lungadv.pipeline.stages.patches import load_patches
from lungadv.training.augment import center_crop
from lungadv.training.strategies import BASELINE
from lungadv.utils.files import real_folder

__all__ = ["missing_real_nodules", "validation_fusion", "write_fusion"]

COPIES = 3  # sites of each nodule
PLACE = {True: "on the wall", False: "free"}


def write_fusion(run: Run, folder: Path) -> None:
    """Write fusion.csv (`fusion_table`) and fusion_rim.csv (`rim_table`, of solid nodules in the free lung) into a folder.

    Their column `nodules_of` is "validation", judged by BASELINE. Where real nodules are at hand beside scans, it is also "LUNA16", judged
    by the shipped weights.
    """
    parts = {"validation": _judge_validation(run)}
    if kind_of(run.data) != CUBES and not missing_real_nodules():
        parts["LUNA16"] = _judge_real(run)
    for name, tables in zip(("fusion", "fusion_rim"), zip(*parts.values(), strict=True), strict=True):
        pd.concat(dict(zip(parts, tables, strict=True)), names=["nodules_of"]).reset_index(0).to_csv(folder / f"{name}.csv", index=False)


def missing_real_nodules() -> str:
    """Why no real nodules are fused, in words; "" where they are."""
    if not (real_folder() / FOLDER / "nodules.csv").exists():
        return f"no folder {FOLDER} in LUNGADV_REAL_CT"
    return "" if is_weights(shipped_folder()) else "the package has no shipped weights"


def validation_fusion(run: Run) -> tuple[pd.DataFrame, pd.DataFrame, dict[str, torch.Tensor]]:
    """The validation nodules, their sites (`choose_sites`), and cubes (N, 1, P, P, P) in [0, 1] by name.

    Cubes: in_place, nodules, masks, a row a nodule; sites, a row of validation's background patches; elsewhere, a row a pair.
    """
    patch, synthesizer = run.settings.patch, run.settings.synthesizer
    nodules, masks, annotations = cut_out_dataset(load(run), "validation", patch.size, patch.spacing, synthesizer.edge)
    placed, in_place = load_patches(run, "validation", ("nodule",))
    sites, backgrounds = load_patches(run, "validation", ("background",))
    in_place, backgrounds = in_place[:], backgrounds[:]
    table = annotations.join(placed[WALL])  # both go through the scans in order
    noise = [noise_level(patches) for patches in (in_place, backgrounds)]
    sites = sites.assign(noise=noise[1], crowding=crowding(backgrounds, sites["depth_mm"], patch.spacing))
    pairs = choose_sites(table.assign(noise=noise[0]), sites, COPIES, run.rng("banks", "fusion"))
    cubes = {"in_place": in_place, "nodules": nodules, "masks": masks, "sites": backgrounds}
    return table, pairs, cubes | {"elsewhere": fuse_elsewhere(pairs, nodules, masks, backgrounds)}


def _judge_validation(run):
    """`fusion_table` and `rim_table` of the validation nodules."""
    table, pairs, cubes = validation_fusion(run)
    return _judge(load_strategy(run, BASELINE), table, pairs, cubes, ["type", "attachment", "place"])


def _judge_real(run):
    """`fusion_table` and `rim_table` of real nodules."""
    detector, rng = load_detector(shipped_folder()), run.rng("banks", "real fusion")
    size, terms = detector.patch.size, (detector.patch.spacing, run.settings.synthesizer.edge)
    table, *cubes = read_cubes(real_folder(), run.settings.banks.real_nodules, rng, size + 2 * MOVE, *terms)
    pairs, backgrounds = move_sites(table, without_nodules(cubes[0], cubes[2], detector.patch.spacing), COPIES, rng)
    cubes = {name: center_crop(cube, size) for name, cube in zip(("in_place", "nodules", "masks"), cubes, strict=True)}
    cubes |= {"sites": backgrounds, "elsewhere": fuse_elsewhere(pairs, cubes["nodules"], cubes["masks"], backgrounds)}
    return _judge(detector.fpr_network, table, pairs, cubes, ["type", "place"])


def _judge(network, table, pairs, cubes, columns):
    """`fusion_table` by `columns`, and `rim_table` of solid nodules in the free lung, each on its first site."""
    table = table.assign(place=on_wall(table["depth_mm"], table["diameter_mm"]).map(PLACE))
    in_place, elsewhere = (predict(network, cubes[name])[0].numpy() for name in ("in_place", "elsewhere"))
    first = pairs.drop_duplicates("nodule")
    solid = (table["type"] == "solid") & (table["place"] == PLACE[False])
    first = first[solid.to_numpy()[first["nodule"]]]
    rows, sites = (torch.tensor(first[name].to_numpy(int)) for name in ("nodule", "site"))
    rims = rim_table(*(cubes[name][rows] for name in ("in_place", "nodules", "masks")), cubes["sites"][sites])
    return fusion_table(table, pairs, in_place, elsewhere, columns), rims
