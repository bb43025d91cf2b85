"""From one scan to its findings: candidate generation, then false positive reduction, with trained weights.

A folder of weights holds `candidates/` and `fpr/<strategy>/` as a finished run does, so a run's folder is one.
"""

import itertools
import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
from scipy import ndimage
from tqdm import tqdm

from lungadv import ct, lungs, runs

COLUMNS = ["seriesuid", "coordX", "coordY", "coordZ", "probability", "uncertainty", "diameter_mm"]
STRATEGY = "baseline-beta-finetune"  # in the committed runs no augmented network was better on validation
SAME_MM = 8.0  # farther apart, two findings are never taken for one: what is marked on a wall may seem as large as the wall
THICK_MM = 3.0  # farther apart, slices (and pixels) miss small nodules
LEAST_LITRES = 0.5  # of lung: less is in no whole chest of an adult, but in a scan of the abdomen
CHEST_MM = 250.0  # from foot to head; a slab should hold its share of LEAST_LITRES
SETTINGS = ("patch_size", "patch_spacing", "cg_spacing", "cg_anchors", "cg_merge", "cg_keep", "cg_per_scan")  # what `detect` needs of them
STEPS = ("searching candidates", "weighing candidates", "measuring findings")


def shipped_folder():
    """Where the weights lie that come with the package."""
    return Path(__file__).parent / "weights"


def default_weights():
    """The shipped weights, else those of the latest finished quick run. Raises InputError when there are none."""
    shipped = shipped_folder()
    if is_weights(shipped):
        return shipped
    try:
        found = [folder for folder in runs.runs_folder().glob("phantom-quick-*") if is_weights(folder)]
    except runs.InputError:  # not in a clone
        found = []
    if not found:
        raise runs.InputError("no trained weights here: run `make reproduce` in a clone first, or give a folder of weights with --weights")
    return max(found, key=lambda folder: _weights_file(folder).stat().st_mtime)


def _weights_file(folder):
    return Path(folder) / "fpr" / STRATEGY / "weights.safetensors"


def is_weights(folder):
    """Whether a folder holds the networks of both stages."""
    return _weights_file(folder).exists() and (Path(folder) / "candidates" / "networks.json").exists()


def provenance(folder):
    """The provenance of both stages of the weights in a folder: candidates, FPR. Raises InputError when there are none, or of two runs.

    Candidates go on to the FPR network as the run's settings say, so networks of two profiles do not fit together.
    """
    if not is_weights(folder):
        raise runs.InputError(f"{folder} holds no weights: give a finished run's folder, or one with its candidates/ and fpr/{STRATEGY}/")
    files = [Path(folder) / "candidates" / "provenance.json", _weights_file(folder).parent / "provenance.json"]
    first, second = map(_read_provenance, files)
    for key in ("profile", "seed", "settings"):
        if first[key] != second[key]:
            what = "other settings" if key == "settings" else f"{key} {first[key]} and {second[key]}"
            raise runs.InputError(f"{folder} mixes the networks of two runs ({what}): give candidates/ and fpr/ of one run")
    return first, second


def _read_provenance(file):
    """What a provenance.json says. Raises InputError when it is none, or of a version with other settings."""
    try:
        made = json.loads(file.read_text(encoding="utf-8"))
        missing = [key for key in ("profile", "seed", "settings") if key not in made]
        missing += [key for key in SETTINGS if not missing and key not in made["settings"]]
    except (OSError, ValueError, TypeError) as error:
        raise runs.InputError(f"'{file}' is no provenance ({error}): give the weights of a finished run") from None
    if missing:
        raise runs.InputError(f"'{file}' lacks {missing[0]}, as of another version: give the weights of a finished run of this version")
    return made


def load_networks(folder):
    """The networks of candidate generation, that of false positive reduction, and the settings they were trained with.

    Raises InputError when the folder holds none, or broken ones, those of another architecture, or of two runs.
    """
    import torch
    from safetensors import SafetensorError

    from lungadv import candidates, fpr

    folder = Path(folder)
    try:
        settings = SimpleNamespace(**provenance(folder)[1]["settings"])
        networks, network = candidates.load_networks(folder / "candidates"), fpr.load_weights(_weights_file(folder).parent)
        fpr.predict(network, torch.zeros(1, 1, *[settings.patch_size] * 3))  # whether the network takes patches of that size
        return networks, network, settings
    except (SafetensorError, RuntimeError, OSError, ValueError, KeyError, TypeError) as error:
        reason = str(error).strip().splitlines()[0]
        raise runs.InputError(f"the weights in {folder} cannot be loaded ({reason}): give those of a finished run") from None


def lung_mask(scan):
    """The lungs in a scan, bool (z, y, x) on its voxels. Raises InputError when the scan is empty or shows none."""
    if scan.hu.min() == scan.hu.max():
        raise runs.InputError(f"scan '{scan.uid}' is empty: all its voxels are {scan.hu.min()} HU; export it again")
    mask = lungs.lung_mask(scan)
    if not mask.any():
        raise runs.InputError(f"no lungs were found in scan '{scan.uid}': give a CT of the chest, in HU")
    return mask


def detect(scan, weights, mask=None):
    """The findings in a scan, most probable first: a DataFrame of COLUMNS, coordinates in LPS mm, probability and uncertainty in [0, 1].

    The diameter is measured in the scan, see `diameters`; a finding inside the sphere of a more probable one is the same and left out.
    `weights` is a folder of weights; `mask` that of `lung_mask`, where it is known. Raises InputError when the folder holds no weights,
    or broken ones, or when the scan is empty, shows no lungs or nothing to look at. Shows its progress on stderr.
    """
    from lungadv import candidates

    networks, network, settings = load_networks(weights)
    mask = lung_mask(scan) if mask is None else mask
    with tqdm(total=len(STEPS), leave=False, bar_format="{desc:<22}{bar:20}{n}/{total} {elapsed}") as bar:

        def step(function, *arguments):
            bar.set_description_str(STEPS[bar.n])
            result = function(*arguments)
            bar.update()
            return result

        found = step(candidates.detect, networks, scan, mask, settings)
        if found.empty:
            raise runs.InputError(f"no candidate was found in scan '{scan.uid}': give a CT of the chest, in HU")
        centres = found[["coordX", "coordY", "coordZ"]].to_numpy(float)
        patches = ct.to_unit(ct.extract_patches(scan, centres, settings.patch_size, settings.patch_spacing))
        probability, uncertainty = step(weigh, network, patches)
        findings = found.assign(seriesuid=scan.uid, probability=probability, uncertainty=uncertainty)
        findings["diameter_mm"] = step(diameters, scan, centres)
    return distinct(findings[COLUMNS].sort_values("probability", ascending=False, ignore_index=True))


def weigh(network, patches):
    """Probability and uncertainty, each (N,), of patches (N, 1, P, P, P) in [0, 1]: means over the eight mirror images of each.

    On validation phantoms that finds more than the patch alone does (FPR networks are trained with mirrored patches).
    """
    from lungadv import fpr

    mirrored = [axes for count in range(4) for axes in itertools.combinations((2, 3, 4), count)]
    answers = [fpr.predict(network, patches.flip(axes)) for axes in mirrored]
    return tuple(np.mean([np.asarray(answer[k]) for answer in answers], axis=0) for k in (0, 1))


def distinct(findings):
    """The findings (most probable first) without those inside the sphere of a more probable one, SAME_MM from it at most."""
    places, radius = findings[["coordX", "coordY", "coordZ"]].to_numpy(float), np.minimum(findings["diameter_mm"] / 2, SAME_MM).to_numpy()
    inside = np.linalg.norm(places[:, None] - places, axis=2) < radius  # row: whose place, column: in whose sphere
    kept = np.ones(len(findings), dtype=bool)
    for k in range(len(findings)):
        kept[k] = not (inside[k, :k] & kept[:k]).any()
    return findings[kept].reset_index(drop=True)


# How large a finding is.

CUBE, CUBE_MM = 64, 0.8  # voxels a side of the cube that is measured in, mm between them
REACH_MM = 20.0  # of a ray: half the largest diameter that is measured
DRIFT_MM = 5.0  # the farthest that a finding's centre is moved
LEAST_MM = 2.0  # what is smaller cannot be told apart in a CT
LUNG_HU, FULL_HU = -850, 100  # of air-filled lung where there is too little of it; what is brighter counts as this (calcium, contrast)
LEAST_HU = 40  # a border lies so much above the lung at least


def diameters(scan, centres_mm):
    """The diameters in mm, (N,), of what lies at world points (N, 3): of the sphere that fits its border best.

    From LEAST_MM to 2 REACH_MM. The border is where rays from the centre fall below half the way from the lung to the centre's HU.
    Rays that run on into the chest wall or a vessel are left out; the sphere's centre becomes the next centre, four times. Of part-solid
    nodules this measures the solid part.
    """
    rays = _directions(200)
    return np.array([_diameter(_smooth(scan, centre), rays) for centre in np.asarray(centres_mm, float).reshape(-1, 3)])


def _directions(count):
    """`count` directions (count, 3), evenly over the sphere: a Fibonacci lattice."""
    k = np.arange(count) + 0.5
    z, angle = 1 - 2 * k / count, np.pi * (1 + 5**0.5) * k
    across = np.sqrt(1 - z**2)
    return np.stack([z, across * np.sin(angle), across * np.cos(angle)], axis=1)


def _smooth(scan, centre):
    """A cube of HU around a world point, with little noise."""
    return ndimage.gaussian_filter(ct.extract_patches(scan, centre[None], CUBE, CUBE_MM).numpy()[0, 0], 0.5 / CUBE_MM)


def _diameter(cube, rays):
    """The diameter in mm of what lies in the middle of a cube of HU."""
    lung = np.median(cube[cube < -500]) if (cube < -500).mean() > 0.01 else LUNG_HU
    middle = centre = np.full(3, (CUBE - 1) / 2)
    for _ in range(5):
        core = min(np.median(_sample(cube, centre, rays[::4], np.array([0.0, 1.0]))), FULL_HU)
        reach = _reach(cube, centre, rays, max((core + lung) / 2, lung + LEAST_HU))
        border = (reach <= 1.5 * np.quantile(reach, 0.4)) & (reach < REACH_MM)
        if border.sum() < 20:  # no border to see
            return max(2 * float(np.quantile(reach, 0.4)), LEAST_MM)
        points = rays[border] * reach[border, None]
        (*shift, rest), *_ = np.linalg.lstsq(np.c_[2 * points, np.ones(len(points))], (points**2).sum(1), rcond=None)
        radius = np.sqrt(max(rest + np.dot(shift, shift), 0))
        centre = middle + _shortened(centre - middle + _shortened(np.array(shift), 2 / CUBE_MM), DRIFT_MM / CUBE_MM)
    return max(2 * float(np.clip(radius, reach[border].min(), reach[border].max())), LEAST_MM)


def _sample(cube, centre, rays, distances):
    """HU (rays, distances) along rays (R, 3) at distances in mm from a centre in voxels."""
    points = centre + rays[:, None] * (distances / CUBE_MM)[:, None]
    return ndimage.map_coordinates(cube, points.reshape(-1, 3).T, order=1, mode="nearest").reshape(len(rays), -1)


def _reach(cube, centre, rays, level):
    """How far, in mm, each ray goes before the HU fall below a level; REACH_MM at most. (R,)"""
    step = 0.5
    values = _sample(cube, centre, rays, np.arange(0, REACH_MM + step, step))
    below = values < level
    after = np.where(below.any(axis=1), below.argmax(axis=1), values.shape[1] - 1)
    here, there = (values[np.arange(len(rays)), np.maximum(k, 0)] for k in (after - 1, after))
    fraction = np.where(here > there, np.clip((here - level) / np.maximum(here - there, 1e-6), 0, 1), 1)
    return np.where(below[:, 0], 0, np.minimum((after - 1 + fraction) * step, REACH_MM))


def _shortened(vector, longest):
    """A vector, shortened where it is longer than that."""
    return vector * min(1, longest / max(np.linalg.norm(vector), 1e-9))


# What the reader of the findings should know of the scan and the weights.


def warnings(scan, weights, mask=None):
    """What to tell the reader of findings in this scan by these weights: a list of sentences, empty when there is nothing.

    `mask` is that of `lung_mask`, where it is known. Raises InputError as `lung_mask` and `provenance` do.
    """
    said = []
    short, upright = lungs.slab(scan), int(np.abs(scan.direction[2]).argmax())  # the axis from foot to head
    mask = lung_mask(scan) if mask is None else mask
    litres = mask.sum() * np.prod(scan.spacing) / 1e6
    apart, wide = scan.spacing[upright], max(np.delete(scan.spacing, upright))
    if short:
        said.append(
            f"this scan {short}; "
            "nodules outside it were not seen, and findings near its first and last slices have less context than in training"
        )
    if litres < LEAST_LITRES * (min(1, lungs.extent_mm(scan) / CHEST_MM) if short else 1):
        said.append(f"only {1000 * litres:.0f} ml of lung: is this a chest? findings outside the lungs mean nothing")
    if apart > THICK_MM:
        said.append(f"the slices are {apart:.1f} mm apart: nodules smaller than {2 * apart:.0f} mm may be missed, and diameters are rough")
    if wide > THICK_MM:
        said.append(f"the pixels are {wide:.1f} mm wide: nodules smaller than {2 * wide:.0f} mm may be missed, and diameters are rough")
    profile = provenance(weights)[0]["profile"]
    if profile == "tiny":
        said.append("the weights are of the profile tiny, which only shows that everything runs: the findings mean nothing")
    return said


def contact_sheet(scan, findings, path, count=12):
    """Draw the most probable findings as a PNG: axial slices around each, ringed at its diameter, with the numbers."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    from lungadv import plots

    plots.style()
    size, spacing = 64, 1.0
    shown = findings.head(count)
    patches = ct.to_unit(ct.extract_patches(scan, shown[["coordX", "coordY", "coordZ"]].to_numpy(float), size, spacing))
    rows = -(-max(len(shown), 1) // 4)
    figure, axes = plt.subplots(rows, 4, figsize=(8, 2.6 * rows + 0.4), squeeze=False)
    for axis in axes.flat:
        axis.axis("off")
    for row, patch, axis in zip(shown.itertuples(), patches, axes.flat, strict=False):
        axis.imshow(np.asarray(patch)[0, size // 2], cmap="gray", vmin=0, vmax=1)
        centre = (size - 1) / 2
        axis.add_patch(plt.Circle((centre, centre), row.diameter_mm / spacing / 2 + 3, fill=False, color="#E69F00", lw=1.2))
        axis.set_title(
            f"{row.Index + 1}: p {row.probability:.2f}, u {row.uncertainty:.2f}, {row.diameter_mm:.0f} mm\n"
            f"({row.coordX:.0f}, {row.coordY:.0f}, {row.coordZ:.0f}) mm",
            fontsize=7,
        )
    figure.suptitle(f"{scan.uid}\n{len(findings)} findings, the first {len(shown)} of them. Not for clinical use.", fontsize=7)
    figure.tight_layout()
    with runs.replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=130, metadata={"Software": None})
    plt.close(figure)


def write_markups(findings, path):
    """Write findings as the point list of a 3D Slicer markups file (.mrk.json), whole or not at all, most probable first.

    Positions are LPS mm, as in the findings, and the file says so: Slicer itself turns them to its own RAS.
    Source: the markups schema 1.0.3 of 3D Slicer.
    """
    points = [
        {
            "id": str(k),
            "label": f"{k}: p {row.probability:.2f}",
            "description": f"uncertainty {row.uncertainty:.2f}, {row.diameter_mm:.1f} mm",
            "position": [row.coordX, row.coordY, row.coordZ],
            "positionStatus": "defined",
            "visibility": True,
        }
        for k, row in enumerate(findings.itertuples(), 1)
    ]
    schema = "https://raw.githubusercontent.com/Slicer/Slicer/main/Modules/Loadable/Markups/Resources/Schema/markups-schema-v1.0.3.json#"
    markups = {"type": "Fiducial", "coordinateSystem": "LPS", "coordinateUnits": "mm", "controlPoints": points}
    with runs.replacing(path) as temporary:
        temporary.write_text(json.dumps({"@schema": schema, "markups": [markups]}, indent=1) + "\n", encoding="utf-8")


def write_findings(findings, path):
    """Write findings as CSV, whole or not at all."""
    with runs.replacing(path) as temporary:
        pd.DataFrame(findings, columns=COLUMNS).to_csv(temporary, index=False, float_format="%.6g")


def write_json(scan, findings, weights, said, path):
    """Write findings as JSON, whole or not at all, with what they were made from.

    Keys: seriesuid, size and spacing_mm (x, y, z), coordinates ("LPS mm"), weights (profile, seed, data, commit), warnings, findings
    (coordX, coordY, coordZ, probability, uncertainty, diameter_mm of each, most probable first).
    """
    made = provenance(weights)[1]
    content = {
        "seriesuid": scan.uid,
        "size": scan.hu.shape[::-1],
        "spacing_mm": scan.spacing,
        "coordinates": "LPS mm",
        "weights": {key: made.get(key) for key in ("stage", "profile", "seed", "data", "commit")},
        "warnings": said,
        "not_for_clinical_use": True,
        "findings": findings[COLUMNS[1:]].astype(float).round(6).to_dict("records"),
    }
    with runs.replacing(path) as temporary:
        temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


# The weights that come with the package.

SHIPPED_MIB = 10.0  # all networks together; what would be larger is shipped in bfloat16


def ship(run, target):
    """Copy what `detect` needs of a finished run into the folder `target`, with a model card: the weights that come with the package.

    candidates/ (three networks, their calibration) and fpr/<STRATEGY>/, each with its provenance, in float32, or in bfloat16 where
    that would take more than SHIPPED_MIB. An older folder is replaced as a whole. Raises InputError when the run is not finished, or
    when the weights are larger than SHIPPED_MIB even so.
    """
    stages = {"candidates": "networks.json", f"fpr/{STRATEGY}": "network.json"}
    for stage in (*stages, "datasets", "benchmarks"):
        if not run.path(stage, "provenance.json").exists():
            raise runs.InputError(f"{run.path(stage)} is missing: finish `make reproduce PROFILE={run.profile} SEED={run.seed}` first")
    target = Path(target)
    temporary = target.with_name(f".{target.name}.new")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        files = [path for stage in stages for path in sorted(run.path(stage).glob("*.safetensors"))]
        half = sum(path.stat().st_size for path in files) > SHIPPED_MIB * 2**20
        for stage, architecture in stages.items():
            (temporary / stage).mkdir(parents=True)
            for name in (architecture, "provenance.json"):
                shutil.copyfile(run.path(stage, name), temporary / stage / name)
        for path in files:
            _ship_tensors(path, temporary / path.relative_to(run.folder), half)
        size = sum(path.stat().st_size for path in temporary.rglob("*")) / 2**20
        if size > SHIPPED_MIB:
            raise runs.InputError(f"the weights of {run.folder.name} take {size:.1f} MiB, over {SHIPPED_MIB:g}: ship a smaller profile")
        load_networks(temporary)
        (temporary / "MODEL_CARD.md").write_text(model_card(run, temporary, half), encoding="utf-8")
        shutil.rmtree(target, ignore_errors=True)
        temporary.rename(target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return target


def _ship_tensors(source, target, half):
    """Copy a file of weights, in bfloat16 if asked; the calibration of scores and counts of batches stay as they are."""
    import torch
    from safetensors.torch import load_file, save_file

    if half:
        tensors = load_file(source)
        save_file({name: value.bfloat16() if value.dtype == torch.float32 else value for name, value in tensors.items()}, target)
    else:
        shutil.copyfile(source, target)


def model_card(run, folder, half):
    """The model card of the weights in `folder`, which are of `run`, as markdown; its numbers are those of the run's own tables."""
    made = provenance(folder)[1]
    scans, nodules = (pd.read_csv(run.path("datasets", f"{name}.csv"), dtype=str) for name in ("scans", "annotations"))
    card = PHANTOM_CARD if made["data"] == "phantom" else DATA_CARD
    return CARD.format(
        strategy=STRATEGY,
        origin=card["origin"].format(**made),
        meaning=card["meaning"],
        benchmarks=card["benchmarks"],
        scans=(scans["dataset"] == "train").sum(),
        nodules=(nodules["dataset"] == "train").sum(),
        measured=_measured(run),
        torch=made["versions"]["torch"],
        changed=" (with uncommitted changes)" if made["dirty"] else "",
        stored="bfloat16" if half else "float32",
        data="" if made["data"] == "phantom" else f" DATA={made['data']}",
        sums="\n".join(f"    {runs.sha256(path)}  {path.relative_to(folder)}" for path in sorted(folder.rglob("*.safetensors"))),
        **{key: made[key] for key in ("profile", "seed", "commit", "device", "precision", "data_sha256")},
    )


def _measured(run):
    """The rows of the model card's table, from the run's own."""
    table, numbers = pd.read_csv(run.path("benchmarks", "table2.csv")), pd.read_csv(run.path("candidates", "numbers.csv"))
    rows = []
    for row in table[table["strategy"] == runs.STRATEGIES[STRATEGY]].itertuples():
        mine = numbers[(numbers["claim"] == "M2") & (numbers["condition"] == row.benchmark)].groupby("measure")["value"]
        found, per_scan = mine.get_group("detected"), mine.get_group("candidates_per_scan").iloc[0]
        share = f"{found.mean():.3f} of {len(found)}, at {per_scan:.0f} candidates a scan"
        rows.append(f"| {row.benchmark} | {share} | {row.cpm:.3f} ({row.lower:.3f} to {row.upper:.3f}) |")
    return "\n".join(rows)


PHANTOM_CARD = {
    "origin": "simulated chests only (this project's phantom): no scan of a patient was used",
    "meaning": """What that means: the networks know the anatomy, the nodules and the noise that the simulator draws, and nothing else.
In patients they miss nodules, and mark what is none (vessels, the hilum, the edges of vertebrae and ribs, scars), more often than the
numbers below say, which are of simulated chests as well.""",
    "benchmarks": "simulated chests, sharper and noisier than those of training, with another family of nodule shapes",
}
DATA_CARD = {
    "origin": "the data set {data}",
    "meaning": "What that means: on scans from other scanners, protocols or populations the numbers below need not hold.",
    "benchmarks": "the benchmark scans of the same data set",
}
CARD = """# Model card: the weights of `lungadv detect`

**Not for clinical use.** For research on detectors and attacks: no decision on a patient may rest on a finding, or on the absence of one.

## What it is

Three ResUNets that name candidates, and the DenseUNet `{strategy}` that weighs the evidence for and against a nodule in each. Input: a CT
of the chest in HU. Output: places in LPS mm, probability, uncertainty (high where there is little evidence). Diameters are measured in the
scan, not learnt.

## What it was trained on

{origin}; {scans} scans with {nodules} nodules (profile {profile}, seed {seed}; sha256 of the recipe or manifest: {data_sha256}).

{meaning}

## What was measured

On {benchmarks}, never used in training (one
look at each patch, where `lungadv detect` takes the mean over its eight mirror images):

| benchmark | nodules named as candidates | CPM (95 % interval) |
|---|---|---|
{measured}

## How it was made

Commit {commit}{changed}, torch {torch}, on {device} in {precision}; stored in {stored}. The settings are in the two provenance.json.
`git checkout {commit} && make reproduce weights PROFILE={profile} SEED={seed}{data}` makes this folder again. sha256:

{sums}
"""
