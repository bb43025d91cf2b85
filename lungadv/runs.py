"""Profiles, run folders, provenance and random streams: what every stage of the pipeline shares.

A *run* is one pass of the pipeline: a profile (a section of `settings.ini`), a seed and a data set. Each *stage*
writes one folder of the run, to a temporary name that is renamed when it is complete, so a killed run leaves
nothing half-made.
"""

import hashlib
import importlib
import json
import os
import platform
import resource
import shutil
import subprocess
import time
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace

import numpy as np

from lungadv.settings import PARTS, load_settings as settings_of_profile
from lungadv.utils.errors import InputError  # noqa: F401
from lungadv.utils.files import repo_root  # noqa: F401

STRATEGIES = {  # Table II's rows by folder name, the controls (each baseline, trained on as long without new data), and what goes beyond
    "baseline-ce": "baseline-ce",
    "baseline-beta": "baseline-beta",
    "baseline-beta-finetune": "baseline-beta-finetune",
    "control-ce": "baseline-ce, trained on (control)",
    "control-beta": "baseline-beta, trained on (control)",
    "control": "baseline-beta-finetune, trained on (control)",
    "beta+syn-random": "beta+syn (random)",
    "beta+syn": "beta+syn",
    "beta+perturb": "beta+perturb",
    "beta+perturb+syn": "beta+perturb+syn",
    "beta+online": "beta+online (beyond the paper)",
}
BEYOND = ("beta+online",)  # strategies that the paper does not have: no claim of its is judged on them


@dataclass(frozen=True)
class Stage:
    """Where a stage is built, how many threads it computes with, and the stages it reads."""

    build: str
    threads: int
    needs: tuple = ()


STAGES = {
    "two_moons": Stage("lungadv.two_moons:build", 1),
    "datasets": Stage("lungadv.datasets:build", 2),
    "synthesizer": Stage("lungadv.synthesizer:build", 1, ("datasets",)),
    "candidates": Stage("lungadv.candidates:build", 2, ("datasets",)),
    "patches": Stage("lungadv.fpr:build_patches", 2, ("datasets", "candidates")),
    "outline": Stage("lungadv.fpr:build_outline", 2, ("patches",)),
    "fpr/baseline-ce": Stage("lungadv.fpr:build", 1, ("patches", "outline")),
    "fpr/baseline-beta": Stage("lungadv.fpr:build", 1, ("patches", "outline")),
    "fpr/baseline-beta-finetune": Stage("lungadv.fpr:build", 1, ("patches", "fpr/baseline-ce")),
    "banks": Stage("lungadv.banks:build", 2, ("patches", "synthesizer", "fpr/baseline-beta-finetune")),
    "fpr/control-ce": Stage("lungadv.fpr:build", 1, ("patches", "fpr/baseline-ce")),
    "fpr/control-beta": Stage("lungadv.fpr:build", 1, ("patches", "fpr/baseline-beta")),
    "fpr/control": Stage("lungadv.fpr:build", 1, ("patches", "fpr/baseline-beta-finetune")),
    **{
        f"fpr/{name}": Stage("lungadv.fpr:build", 1, ("patches", "fpr/baseline-beta-finetune", "banks"))
        for name in ("beta+syn-random", "beta+syn", "beta+perturb", "beta+perturb+syn")
    },
    "fpr/beta+online": Stage("lungadv.fpr:build", 1, ("patches", "fpr/baseline-beta-finetune")),
    "benchmarks": Stage("lungadv.benchmarks:build", 2, ("candidates", *(f"fpr/{name}" for name in STRATEGIES))),
    "stress": Stage("lungadv.stress:build", 2, ("banks", *(f"fpr/{name}" for name in STRATEGIES))),
    "claims": Stage("lungadv.claims:build", 1, ("two_moons", "candidates", "benchmarks", "stress")),
}


DEVELOPMENT_SEEDS = 100  # seeds from here on are for development; the ledger counts those below


FLAT = {  # until every module reads the parts
    "patch_size": "patch.size",
    "patch_spacing": "patch.spacing",
    "attack_eps": "attack.eps",
    "attack_steps": "attack.steps",
    "latent_eps": "latent.eps",
    "latent_steps": "latent.steps",
    "latent_curve": "latent.curve_nodules",
    "latent_curve_eps": "latent.curve_eps",
    "cg_spacing": "candidates.spacing",
    "cg_width": "candidates.width",
    "cg_crop": "candidates.crop_size",
    "cg_scale": "candidates.max_scale",
    "cg_batch": "candidates.batch_size",
    "cg_rate": "candidates.learning_rate",
    "cg_sigma": "candidates.sigma",
    "cg_anchors": "candidates.anchors",
    "cg_merge": "candidates.merge_distance",
    "cg_keep": "candidates.per_source",
    "cg_per_scan": "candidates.per_scan",
    "cg_updates": "candidates.updates",
    "cg_finetune_updates": "candidates.finetune_updates",
    "cg_attack_scans": "candidates.attack_scans",
    "cg_harden_updates": "candidates.adversarial_updates",
    "cg_harden_steps": "candidates.adversarial_steps",
    "fpr_width": "fpr.width",
    "fpr_batch": "fpr.batch_size",
    "fpr_rate": "fpr.learning_rate",
    "fpr_outline_updates": "fpr.segmentation_updates",
    "fpr_updates": "fpr.updates",
    "fpr_finetune_updates": "fpr.finetune_updates",
    "fpr_candidates": "fpr.candidates",
    "fpr_backgrounds": "fpr.backgrounds",
    "fpr_looks": "fpr.validation_checks",
    "fpr_watched": "fpr.validation_patches",
    "online_steps": "fpr.online_steps",
    "froc_bootstraps": "froc.bootstraps",
    "stress_positives": "stress.positives",
    "stress_negatives": "stress.negatives",
    "stress_noise": "stress.noise_patches",
    "stress_whitebox": "stress.whitebox_patches",
    "stress_curve": "stress.curve_nodules",
    "stress_audit": "stress.audit_patches",
    "stress_eps": "stress.curve_eps",
    "stress_calibration": "stress.calibration_patches",
    "stress_synthetic": "stress.synthetic_nodules",
    "stress_search": "stress.random_search_nodules",
    "stress_uniform": "stress.uniform_noise",
    "stress_poisson": "stress.poisson_scales",
    "syn_edge": "synthesizer.edge",
    "syn_latent": "synthesizer.latent_size",
    "syn_width": "synthesizer.width",
    "syn_steps": "synthesizer.updates",
    "syn_judged": "synthesizer.critic_every",
    "syn_batch": "synthesizer.batch_size",
    "syn_rate": "synthesizer.learning_rate",
    "syn_kl": "synthesizer.kl_weight",
    "syn_critic": "synthesizer.critic_weight",
    "syn_penalty": "synthesizer.gradient_penalty",
    "syn_conditioned_steps": "conditioned_synthesizer.updates",
    "syn_conditioned_judged": "conditioned_synthesizer.critic_every",
    "syn_conditioned_kl": "conditioned_synthesizer.kl_weight",
    "syn_conditioned_critic": "conditioned_synthesizer.critic_weight",
    "syn_size": "synthesizer.size_weight",
    "syn_orders": "conditioned_synthesizer.requested_sizes",
    "bank_backgrounds": "banks.backgrounds",
    "bank_samples": "banks.samples",
    "bank_noise": "banks.noise_patches",
    "moons_seeds": "two_moons.seeds",
    "moons_steps": "two_moons.updates",
    "moons_batch": "two_moons.batch_size",
    "moons_rate": "two_moons.learning_rate",
    "moons_width": "two_moons.width",
    "moons_tail": "two_moons.tail",
    "moons_latent": "two_moons.latent_size",
    "moons_vae_steps": "two_moons.vae_updates",
    "moons_samples": "two_moons.samples",
    "moons_latent_eps": "two_moons.latent_eps",
    "moons_noise_eps": "two_moons.noise_eps",
    "moons_search_steps": "two_moons.search_steps",
    "moons_restarts": "two_moons.restarts",
}


def load_settings(profile, **overrides):
    """The settings of one profile, by part and, until every module reads the parts, flat."""
    parts = {}
    for key, value in overrides.items():
        if key in FLAT:
            part, name = FLAT[key].split(".")
            parts.setdefault(part, {})[name] = value
        else:
            parts[key] = value
    nested = settings_of_profile(profile, **parts)
    flat = {key: getattr(getattr(nested, place.split(".")[0]), place.split(".")[1]) for key, place in FLAT.items()}
    return SimpleNamespace(**flat, **{part: getattr(nested, part) for part in PARTS})


@dataclass(frozen=True)
class Run:
    """One pass of the pipeline: its profile, seed, data, settings and folder."""

    profile: str
    seed: int
    data: str
    settings: SimpleNamespace
    folder: Path

    def path(self, stage, *names):
        """A file of a stage's folder."""
        return self.folder.joinpath(stage, *names)

    @property
    def figures(self):
        """Where the run's figures and the numbers behind them are written."""
        folder = self.folder / "figures"
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def _entropy(self, items):
        key = json.dumps([self.seed, *map(str, items)]).encode()
        return int.from_bytes(hashlib.sha256(key).digest()[:8], "little")

    def rng(self, *items):
        """A numpy generator derived from the run's seed and `items`, such as a stage and a scan."""
        return np.random.default_rng(self._entropy(items))

    def generator(self, *items, device="cpu"):
        """A torch generator derived from the run's seed and `items`."""
        import torch

        return torch.Generator(device=device).manual_seed(self._entropy(items) >> 1)


def runs_folder():
    """Where runs are kept: `runs` in the clone, or LUNGADV_RUNS."""
    return Path(os.environ.get("LUNGADV_RUNS") or repo_root() / "runs").resolve()


def open_run(profile="tiny", seed=0, data="phantom", **overrides):
    """The run of these terms; its folder is runs/<data>-<profile>-<seed> (LUNGADV_RUNS moves `runs`).

    `data` is "phantom" or the path of a manifest (see `datasets`); a manifest's folder is named after it and a hash of
    its whole path, so that two manifests of one name do not share it.
    """
    settings = load_settings(profile, **overrides)
    if not isinstance(seed, int) or seed < 0:
        raise InputError(f"seed {seed!r} is not a whole number from 0 up")
    if data != "phantom" and not Path(data).exists():
        raise InputError(f"manifest '{data}' does not exist: give the path of a CSV manifest, or 'phantom'")
    name = "phantom"
    if data != "phantom":
        data = str(Path(data).resolve())
        name = f"{Path(data).stem}-{hashlib.sha256(data.encode()).hexdigest()[:8]}"
    return Run(profile, seed, data, settings, runs_folder() / f"{name}-{profile}-{seed}")


def device():
    """The accelerator if there is one, else the CPU."""
    import torch

    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def fast_type(device):
    """bfloat16 where the processor computes in it, float32 elsewhere."""
    import torch

    fast = device.type == "cuda" or (device.type == "cpu" and torch.cpu._is_avx512_bf16_supported())
    return torch.bfloat16 if fast else torch.float32


def autocast(device):
    """The context in which convolutions compute in `fast_type`."""
    import torch

    kind = fast_type(device)
    return torch.autocast(device.type, kind, enabled=kind != torch.float32)


def require(run, stage):
    """The folder of a finished stage. At tiny size a missing one is built; in other profiles it is an InputError."""
    folder = run.path(stage)
    if not (folder / "provenance.json").exists():
        if run.profile != "tiny":
            raise InputError(
                f"{folder} is missing: run `make reproduce PROFILE={run.profile} SEED={run.seed}`, "
                "or the notebook of that stage, first"
            )
        build(run, stage)
    return folder


def build(run, stage):
    """Build one stage of a run, whatever is there already."""
    if stage not in STAGES:
        raise InputError(f"unknown stage '{stage}': choose one of {', '.join(STAGES)}")
    module, function = STAGES[stage].build.split(":")
    arguments = stage.split("/")[1:]  # "fpr/beta+syn" is fpr.build(run, "beta+syn")
    return getattr(importlib.import_module(module), function)(run, *arguments)


@contextmanager
def writing(run, stage):
    """A temporary folder that becomes the stage's folder, with provenance.json, when the block ends well.

    The provenance describes the state in which the stage began. Of its outputs, those under 1 MiB are hashed: tables
    and small weights, not gigabytes of voxels that follow from the seed.
    """
    import torch

    started, threads = time.perf_counter(), torch.get_num_threads()
    torch.set_num_threads(STAGES[stage].threads)
    inputs = {name: require(run, name) / "provenance.json" for name in STAGES[stage].needs}
    provenance = describe(run, stage, inputs)
    final = run.path(stage)
    temporary = final.with_name(f".{final.name}.{os.getpid()}")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        yield temporary
        provenance |= {
            "peak_memory_mib": peak_memory_mib(),
            "wall_seconds": round(time.perf_counter() - started, 2),
            "outputs": {str(path.relative_to(temporary)): sha256(path) for path in _small_files(temporary)},
        }
        (temporary / "provenance.json").write_text(json.dumps(provenance, indent=1))
        _replace_folder(temporary, final)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        torch.set_num_threads(threads)


def _small_files(folder, limit=2**20):
    return sorted(path for path in folder.rglob("*") if path.is_file() and path.stat().st_size < limit)


def _replace_folder(new, old):
    if old.exists():
        stale = old.with_name(f".{old.name}.stale.{os.getpid()}")
        os.replace(old, stale)
        shutil.rmtree(stale)
    os.replace(new, old)


def describe(run, stage, inputs):
    """Who makes a stage: commit, parameters, versions, device and the hashes of its inputs."""
    return {
        "stage": stage,
        "profile": run.profile,
        "seed": run.seed,
        "data": Path(run.data).name,
        "data_sha256": data_sha256(run),
        "settings": {key: value for key, value in vars(run.settings).items() if key in FLAT},
        **git_state(),
        "versions": {name: version(name) for name in ("torch", "numpy", "scipy", "pandas")},
        "python": platform.python_version(),
        "device": str(device()),
        "precision": str(fast_type(device())).removeprefix("torch."),  # of the convolutions
        "threads": STAGES[stage].threads,
        "inputs": {name: sha256(path) for name, path in inputs.items()},
    }


def data_sha256(run):
    """The hash of what says which scans a run has: the phantom's recipe, or the manifest."""
    return sha256(repo_root() / "data_manifests" / "phantom.json" if run.data == "phantom" else run.data)


def peak_memory_mib():
    """The most memory that this process or one of its children has held so far."""
    return round(max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)) / 1024)


def git_state():
    """The commit of the clone and whether its files differ from it; empty outside a clone."""

    def git(*arguments):
        return subprocess.run(["git", *arguments], cwd=repo_root(), capture_output=True, encoding="utf-8", check=True).stdout

    try:
        return {"commit": git("rev-parse", "HEAD").strip(), "dirty": bool(git("status", "--porcelain").strip())}
    except (OSError, subprocess.CalledProcessError, InputError):
        return {"commit": None, "dirty": None}


def counted(number, name):
    """A number of things in words: 1 scan, 2 scans."""
    return f"{number} {name}" if number == 1 else f"{number} {name}s"


def sha256(path):
    """The hex digest of a file's bytes."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def replacing(path):
    """A temporary path beside `path` that replaces it when the block ends well."""
    path = Path(path)
    temporary = path.with_name(f".{os.getpid()}.{path.name}")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
