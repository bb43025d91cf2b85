"""The stage `patches` of a run on nodule cubes: nodules and what lies beside them in the same cubes, cut once."""

from pathlib import Path

import pandas as pd
from safetensors.torch import save_file

from lungadv.data.cube_patches import cut_cube_patches
from lungadv.data.nodule_cubes import DATASETS, FALSE_POSITIVE
from lungadv.data.scan import to_unit
from lungadv.evaluation.real_nodules import border_auc
from lungadv.pipeline.artefacts import stage_output
from lungadv.pipeline.runs import Run
from lungadv.pipeline.stages.cube_datasets import load_cubes
from lungadv.training.augment import center_crop

__all__ = ["build"]

POSITIVES = 3  # of each training nodule, each at another offset


def build(run: Run) -> Path:
    """Cut the patches of every data set: patches/<dataset>.csv and .safetensors, as the stage of scans lays them out.

    A published false positive is of kind "candidate". border.csv has `border_auc` of each data set: 0.5 where the outermost voxels of
    patches tell nothing of their label.
    """
    patch = run.settings.patch
    with stage_output(run, "patches") as folder:
        cubes, borders = load_cubes(run), []
        for dataset in DATASETS:
            counts = {"positives": POSITIVES if dataset == "train" else 1, "negatives": run.settings.fpr.backgrounds}
            table, hu, masks = cut_cube_patches(cubes.of(dataset), patch.size, patch.spacing, **counts, rng=run.rng("patches", dataset))
            tensors = {"hu": hu} | ({"outline": masks} if dataset == "train" else {})
            save_file(tensors, folder / f"{dataset}.safetensors")
            table.replace({"kind": {FALSE_POSITIVE: "candidate"}}).to_csv(folder / f"{dataset}.csv", index=False)
            borders.append(_border(dataset, table, to_unit(center_crop(hu, patch.size).float())))
        pd.DataFrame(borders).to_csv(folder / "border.csv", index=False, float_format="%.4f")
    return run.path("patches")


def _border(dataset, table, patches):
    """A row of border.csv; without an AUC where too few cubes have both labels."""
    count = table.loc[table["has_both"], "path"].nunique()
    return {"dataset": dataset, "cubes": count, "auc": border_auc(table, patches) if count >= 5 else None}
