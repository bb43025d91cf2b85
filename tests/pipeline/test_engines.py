"""Steps as jobs of a cluster: what each asks for, and the profiles that come with the clone."""

import os
import subprocess
from importlib.util import find_spec

import pytest
import yaml

from lungadv.pipeline.demands import ON_ACCELERATOR, QUICK, demands
from lungadv.pipeline.execute import _snakemake
from lungadv.pipeline.graph import STAGES
from lungadv.pipeline.steps import STEPS
from lungadv.utils.errors import InputError
from lungadv.utils.files import repo_root

PROFILES = repo_root() / "profiles"


def test_every_step_says_what_it_takes_and_accelerators_are_for_the_full_profile():
    assert {stage.split("/")[0] for stage in STAGES} == set(QUICK)
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


@pytest.mark.parametrize("name", ["slurm", "k8s"])
def test_a_dry_run_plans_every_step(name, run):
    config = yaml.safe_load((PROFILES / name / "config.yaml").read_text())
    plugin = f"snakemake_executor_plugin_{config['executor']}"
    if not find_spec(plugin):
        pytest.skip(f"{plugin} is not installed: pip install 'lungadv[cluster]'")
    run.folder.mkdir(parents=True)
    command = [*_snakemake(run, 2, PROFILES / name), "--dry-run"]
    shown = subprocess.run(command, capture_output=True, encoding="utf-8", env=os.environ, cwd=run.folder)
    assert shown.returncode == 0, shown.stdout + shown.stderr
    text = shown.stdout + shown.stderr
    assert all(step.name in text for step in STEPS)


def test_the_manifests_name_one_volume_account_and_namespace():
    config = yaml.safe_load((PROFILES / "k8s" / "config.yaml").read_text())
    made = [item for name in ("submit", "volume") for item in yaml.safe_load_all((PROFILES / "k8s" / f"{name}.yaml").read_text())]
    kinds = {item["kind"]: item for item in made}
    assert {item["metadata"]["namespace"] for item in made} == {config["kubernetes-namespace"]}
    pod, (volume, place) = kinds["Job"]["spec"]["template"]["spec"], config["kubernetes-persistent-volumes"].split(":")
    assert kinds["PersistentVolumeClaim"]["metadata"]["name"] == volume == pod["volumes"][0]["persistentVolumeClaim"]["claimName"]
    (container,) = pod["containers"]
    assert container["volumeMounts"][0]["mountPath"] == place and container["workingDir"].startswith(place)
    assert container["image"] == config["container-image"]
    assert pod["serviceAccountName"] == kinds["ServiceAccount"]["metadata"]["name"] == config["kubernetes-service-account-name"]
    assert kinds["PersistentVolumeClaim"]["spec"]["accessModes"] == ["ReadWriteMany"]
