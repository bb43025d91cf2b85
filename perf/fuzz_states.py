"""What commands leave and read again, fuzzed: manifests, records, stores, finished runs, settings. And the list of all formats."""

import json
import shutil
from collections.abc import Callable
from contextlib import chdir
from dataclasses import dataclass
from functools import partial

import fuzz_formats as formats
import numpy as np
import pandas as pd
from fuzz_formats import Sample, collect, ingest_luna16
from fuzz_mutations import damage, damage_json

from lungadv import cli
from lungadv.utils.files import repo_root


@dataclass(frozen=True)
class Format:
    """How good files are made, what is called on damaged ones, and the folder of the place that they are laid into.

    inputs: whether what is called may only read them.
    """

    samples: Callable
    call: Callable
    base: str = "data"
    inputs: bool = True


def ingested(place):
    """The files of an ingested data set, by path from the place's folder."""
    sample = formats.annotation_samples(place)[0]
    for name, content in sample.files.items():
        (place.data / name).parent.mkdir(exist_ok=True)
        (place.data / name).write_bytes(content)
    formats.run_command(ingest_luna16(place))
    files = {f"data/{name}": content for name, content in collect(place.data).items()}
    return files | {f"out/{name}": content for name, content in collect(place.out).items()}


def _samples_of(files, suffixes):
    """A sample for each file of some kinds: JSON is damaged as such."""
    names = [name for name in files if name.startswith("out/") and name.endswith(suffixes)]
    return [Sample(files, (name,), damage_json if name.endswith(".json") else damage) for name in names]


def manifest_samples(place):
    return _samples_of(ingested(place), ("manifest.csv", "annotations.csv", "excluded.csv", ".ingest.json", "mimics.csv"))


def record_samples(place):
    return _samples_of(ingested(place), (".csv", ".json"))


def store_samples(place):
    return [Sample(sample.files, sample.targets, partial(damage, head=3000)) for sample in _samples_of(ingested(place), (".h5",))]


@cli.one_line_errors
def read_all(place, rng=None, target=None):
    """What `lungadv reproduce --data` reads first, and every voxel of the stores."""
    from lungadv.data.dataset import open_store
    from lungadv.data.manifest import read_manifest

    for row in read_manifest(place.out / "manifest.csv").scans.itertuples():
        if row.store:
            np.asarray(open_store(row.store, row.seriesuid).hu)


def clone(place):
    """A folder that stands for a clone, with a finished run: {path: bytes}."""
    from lungadv.pipeline.accept import expected_figures
    from lungadv.pipeline.artefacts import describe
    from lungadv.pipeline.graph import STAGES
    from lungadv.pipeline.runs import open_run

    root = repo_root()
    for name in ("settings.ini", "data_manifests/phantom.json"):
        (place.data / name).parent.mkdir(exist_ok=True)
        shutil.copy(root / name, place.data / name)
    (place.data / "Snakefile").touch()
    with chdir(place.data):
        run = open_run("tiny", 0)
        made = describe(run, "claims", {}) | {"wall_seconds": 1.0, "peak_memory_mib": 300}
        for stage in STAGES:
            run.path(stage).mkdir(parents=True)
            run.path(stage, "provenance.json").write_text(json.dumps(made | {"stage": stage}))
        for name in expected_figures():
            (run.figures / name).write_bytes(b"picture")
        pd.DataFrame([{"benchmark": "nlst", "strategy": "beta+syn", "cpm": 0.7}]).to_csv(run.figures / "table2.csv", index=False)
        shutil.copy(root / "figures/quick/claims.csv", run.path("claims", "claims.csv"))
        whole = {"wall_seconds": 1.0, "peak_memory_mib": 300, "cores": 2, "stages_built": ["claims"]}
        (run.folder / "run.json").write_text(json.dumps(whole))
        committed = place.data / "figures/tiny/expected.json"
        committed.parent.mkdir(parents=True)
        committed.write_text(json.dumps({"cpm/nlst/beta+syn": {"value": 0.7, "tolerance": 0.05, "seeds": 1}}))
    return collect(place.data)


def run_samples(place):
    """A run's tables and JSON: provenance of one stage, of the ledger, what is expected."""
    files = clone(place)
    base = "runs/phantom-tiny-0"
    names = [f"{base}/claims/claims.csv", f"{base}/claims/provenance.json", f"{base}/figures/table2.csv", f"{base}/run.json",
             f"{base}/banks/provenance.json", "figures/tiny/expected.json"]  # fmt: skip
    return [Sample(files, (name,), damage_json if name.endswith(".json") else damage) for name in names]


def settings_samples(place):
    return [Sample(clone(place), ("settings.ini",), damage)]


def use_run(place, rng, target):
    """`lungadv claims`, the comparison at the end of `lungadv reproduce`, and `make accept`, in the clone."""
    from lungadv.pipeline.__main__ import main
    from lungadv.pipeline.accept import compare_expected
    from lungadv.pipeline.runs import open_run

    def use():
        with chdir(place.data):
            if target.endswith("claims.csv"):
                formats.run_command(["claims", "--profile", "tiny"])
            elif target.endswith(("expected.json", "table2.csv")) and rng.random() < 0.5:
                cli.one_line_errors(compare_expected)(open_run("tiny", 0))
            else:
                main(["accept", "--profile", "tiny"])

    return use


def read_settings(place, rng, target):
    """`lungadv claims` in a clone: it reads the settings first."""

    def use():
        with chdir(place.data):
            formats.run_command(["claims", "--profile", rng.choice(("tiny", "quick", "full"))])

    return use


FORMATS = {
    "mhd": Format(formats.mhd_samples, formats.read_or_ingest),
    "mha": Format(lambda place: formats.whole_samples(place, ".mha", 400, "elastix/*.mha"), formats.read_or_ingest),
    "nrrd": Format(formats.nrrd_samples, formats.read_or_ingest),
    "nifti": Format(formats.nifti_samples, formats.read_or_ingest),
    "dicom": Format(formats.dicom_samples, partial(formats.read_or_ingest, kind="dicom")),
    "zip": Format(formats.zip_samples, formats.detect),
    "xml": Format(formats.xml_samples, formats.ingest_lidc),
    "marks": Format(formats.table_samples, formats.score),
    "annotations": Format(formats.annotation_samples, ingest_luna16),
    "manifest": Format(manifest_samples, lambda place, rng, target: partial(read_all, place), ""),
    "store": Format(store_samples, lambda place, rng, target: partial(read_all, place), ""),
    "records": Format(record_samples, ingest_luna16, "", inputs=False),
    "run": Format(run_samples, use_run, inputs=False),
    "settings": Format(settings_samples, read_settings, inputs=False),
    "npz": Format(formats.npz_samples, formats.stress),
    "safetensors": Format(formats.weight_samples, formats.detect_with),
}
