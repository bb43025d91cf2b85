"""Steps as jobs of a cluster: what each asks for, and the profiles that come with the clone."""

import subprocess
from importlib.util import find_spec

import pytest
import yaml

from lungadv.pipeline.demands import ON_ACCELERATOR, QUICK, demands
from lungadv.pipeline.execute import _snakemake
from lungadv.pipeline.graph import CUBE_STAGES, STAGES
from lungadv.pipeline.steps import STEPS
from lungadv.utils.errors import InputError
from lungadv.utils.files import repo_root

PROFILES = repo_root() / "profiles"


def test_every_step_says_what_it_takes_and_accelerators_are_for_the_full_profile():
    assert {stage.split("/")[0] for stage in STAGES | CUBE_STAGES} == set(QUICK)
    for step in STEPS:
        small, large = demands(step, "tiny"), demands(step, "full")
        assert set(small) == {"mem_mb", "runtime"} and small["mem_mb"] <= large["mem_mb"] and small["runtime"] <= large["runtime"]
        assert small["mem_mb"] >= 1.5 * QUICK.get((step.stage or "").split("/")[0], (0, 0))[0]
        assert large.get("gpu", 0) == ((step.stage or "").split("/")[0] in ON_ACCELERATOR)


def test_an_engine_that_is_no_profile_and_one_without_its_plugin_are_one_line(run, tmp_path):
    with pytest.raises(InputError, match="holds no config.yaml of a Snakemake profile: give profiles/slurm"):
        _snakemake(run, 1, tmp_path)
    (tmp_path / "config.yaml").write_text("executor: mainframe-9\n")
    with pytest.raises(InputError, match="needs snakemake-executor-plugin-mainframe-9: install it with `pip install 'lungadv.cluster"):
        _snakemake(run, 1, tmp_path)


def test_a_dry_run_on_slurm_plans_every_step(run):
    if not find_spec("snakemake_executor_plugin_slurm"):
        pytest.skip("snakemake-executor-plugin-slurm is not installed: pip install 'lungadv[cluster]'")
    run.folder.mkdir(parents=True)
    command = [*_snakemake(run, 2, PROFILES / "slurm"), "--dry-run"]
    shown = subprocess.run(command, capture_output=True, encoding="utf-8", cwd=run.folder)
    assert shown.returncode == 0, shown.stdout + shown.stderr
    text = shown.stdout + shown.stderr
    assert all(step.name in text for step in STEPS)


def test_the_manifests_of_kubernetes_fit_together():
    job, volume = (yaml.safe_load((PROFILES / "k8s" / f"{name}.yaml").read_text()) for name in ("run", "volume"))
    assert (job["kind"], volume["kind"]) == ("Job", "PersistentVolumeClaim") and volume["spec"]["accessModes"] == ["ReadWriteMany"]
    pod = job["spec"]["template"]["spec"]
    (container,), (mounted,) = pod["containers"], pod["volumes"]
    assert mounted["persistentVolumeClaim"]["claimName"] == volume["metadata"]["name"]
    place = container["volumeMounts"][0]["mountPath"]
    assert container["workingDir"].startswith(place) and container["env"][0]["value"].startswith(place)
    assert job["spec"]["completionMode"] == "Indexed" and "$JOB_COMPLETION_INDEX" in container["command"][-1]
    words = [word for word in container["command"][-1].split() if word.startswith("--")]
    assert words == ["--profile", "--seed", "--data", "--cores"]
