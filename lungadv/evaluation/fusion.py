"""Whether fusion keeps a nodule as it is: true nodules in place, and cut out and fused into other lungs, before one network.

No synthesizer takes part. A network that finds a nodule where it grew must find it elsewhere.
Else a synthetic nodule is missed for its fusion, not for what it is.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch

from lungadv.banks.sites import align, fitting_sites
from lungadv.data.scan import to_hu, to_unit
from lungadv.data.walls import INWARD, on_wall
from lungadv.models.synthesizer import blend
from lungadv.training.augment import cube_symmetry

__all__ = ["LIMIT", "TISSUE_HU", "choose_sites", "fuse_elsewhere", "fusion_table", "noise_level", "rim_table"]

LIMIT = 0.05  # by which the sensitivities in place and elsewhere may differ
SAME_NOISE = 1.25
TISSUE_HU = 40.0  # of the even soft tissue on which a halo would show


def choose_sites(nodules: pd.DataFrame, sites: pd.DataFrame, copies: int, rng: np.random.Generator) -> pd.DataFrame:
    """Up to `copies` sites for each nodule that suit it: a row a pair, with `nodule`, `site` (positions), `axes` and `flips`.

    Both tables have the columns WALL and `noise` (`noise_level`), nodules also diameter_mm, sites `crowding`. A site is as noisy as the
    nodule's place, within a factor of SAME_NOISE: in noise a nodule is missed for the noise. On the wall the sites are those whose wall
    lies most nearly as the nodule's does, once the nodule is turned by `axes` and `flips` (`cube_symmetry`).
    """
    rows, inward, noise = [], sites[INWARD].to_numpy(), sites["noise"].to_numpy()
    for k, nodule in enumerate(nodules.to_dict("records")):
        fitting = rng.permutation(fitting_sites(sites, nodule["diameter_mm"], nodule["depth_mm"], nodule["medial"]))
        fitting = fitting[np.abs(np.log(noise[fitting] / nodule["noise"])) <= np.log(SAME_NOISE)]
        turns = [((0, 1, 2), (False,) * 3, 0.0)] * len(fitting)
        if on_wall(nodule["depth_mm"], nodule["diameter_mm"]):
            turns = [align([nodule[column] for column in INWARD], inward[site]) for site in fitting]
        pairs = sorted(zip(fitting, turns, strict=True), key=lambda pair: -pair[1][2])
        rows += [{"nodule": k, "site": site, "axes": axes, "flips": flips} for site, (axes, flips, _) in pairs[:copies]]
    return pd.DataFrame(rows, columns=["nodule", "site", "axes", "flips"])


def noise_level(patches: torch.Tensor) -> np.ndarray:
    """How noisy patches (N, 1, P, P, P) are: the median absolute step between neighbours along x, (N,), at least 1e-4."""
    return np.maximum(patches.diff(dim=-1).flatten(1).abs().median(dim=1).values.numpy(), 1e-4)


def fuse_elsewhere(pairs: pd.DataFrame, nodules: torch.Tensor, masks: torch.Tensor, backgrounds: torch.Tensor) -> torch.Tensor:
    """The patches (M, 1, P, P, P) in [0, 1] of the rows of `choose_sites`; the cubes given are (N, 1, P, P, P) in [0, 1]."""
    patches = [
        blend(backgrounds[row.site], *(cube_symmetry(cubes[row.nodule], row.axes, row.flips) for cubes in (nodules, masks)))
        for row in pairs.itertuples()
    ]
    return torch.stack(patches) if patches else backgrounds[:0]


def fusion_table(
    nodules: pd.DataFrame, pairs: pd.DataFrame, in_place: np.ndarray, elsewhere: np.ndarray, columns: Sequence[str]
) -> pd.DataFrame:
    """Sensitivity at confidence 0.5 in place and elsewhere, of all nodules and of the groups of each of `columns`: a row a group.

    in_place (N,), elsewhere (M,): confidence of the nodules and of the rows of `choose_sites`. A nodule counts once, however many sites
    it has; those without a site are counted in `without_site` and left out. `kept` says whether the two differ by LIMIT at most.
    """
    found = pd.Series(elsewhere > 0.5).groupby(pairs["nodule"].to_numpy()).mean().reindex(range(len(nodules)))
    table = nodules.reset_index(drop=True).assign(in_place=(in_place > 0.5).astype(float), elsewhere=found.to_numpy(), all="all")
    rows = []
    for column in ("all", *columns):
        for name, group in table.groupby(column, sort=False):
            placed = group.dropna(subset="elsewhere")
            row = {"by": column, "group": name, "nodules": len(placed), "without_site": len(group) - len(placed)}
            rows.append(row | placed[["in_place", "elsewhere"]].mean().to_dict())
    rows = pd.DataFrame(rows)
    rows["difference"] = rows["elsewhere"] - rows["in_place"]
    return rows.assign(kept=rows["difference"].abs() <= LIMIT)


def rim_table(in_place: torch.Tensor, nodules: torch.Tensor, masks: torch.Tensor, lungs: torch.Tensor) -> pd.DataFrame:
    """Mean HU of the outer half of the rim (mask above 0 and under 1/2) of nodules in place, and fused on lung and on soft tissue.

    All are cubes (N, 1, P, P, P) in [0, 1]; `lungs` are other backgrounds of the same nodules. `around`: of the same voxels of the
    background alone. Without a halo the rim on tissue lies between the tissue and the nodule.
    """
    rim = (masks > 0) & (masks < 0.5)
    tissue = torch.full_like(in_place, to_unit(torch.tensor(TISSUE_HU)).item())
    rows = {"in place": (in_place, None), "on lung": (blend(lungs, nodules, masks), lungs)}
    rows["on tissue"] = (blend(tissue, nodules, masks), tissue)
    mean = {name: [float("nan") if cube is None else to_hu(cube[rim]).mean().item() for cube in cubes] for name, cubes in rows.items()}
    return pd.DataFrame([{"where": name, "rim_hu": rim_hu, "around_hu": around} for name, (rim_hu, around) in mean.items()])
