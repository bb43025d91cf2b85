"""The pipeline: one rule a step of `lungadv.pipeline.steps.steps_of(run)`, run inside the run's folder by `lungadv reproduce`.

A step is made again when its notebook's code, a module that this imports, a data file, the settings that its stage declares
or an upstream stage changes; by content, not by time. Threads are fixed, so --cores never changes a result.
"""

import hashlib
import sys

from lungadv.pipeline import accept, runs, steps
from lungadv.pipeline.demands import demands
from lungadv.utils.processes import killed

terms = {name: str(config[name]) for name in ("profile", "seed", "data")}
run = runs.open_run(terms["profile"], int(terms["seed"]), terms["data"])
# The ledger pools the finished runs of other seeds: it is made again when one more has come.
others = [str(other.path("benchmarks", "provenance.json")) for other in accept.finished_seeds(run) if other.seed != run.seed]
# What a step says that was killed: 137 is SIGKILL's status in a shell.
remedy = "close other programs; the same command goes on after the last finished step"
last = " || {{ code=$?; test $code -ne 137 || echo 'error:' {params.killed:q} >&2; exit $code; }}"


rule all:
    input:
        [steps.outputs(step) for step in steps.steps_of(run)],
    default_target: True


for step in steps.steps_of(run):

    if step.notebook:

        rule:
            name:
                step.name
            input:
                notebook=ancient(steps.notebook_path(step)),  # its code counts, below; kept outputs do not
                sources=steps.sources(step),
                stages=[f"{name}/provenance.json" for name in step.needs(run)],
                manifest=steps.manifest_files(run) if step.stage == "datasets" else [],
                seeds=others if step.stage == "claims" else [],
            output:
                steps.outputs(step),
            log:
                f"notebooks/{step.name}.ipynb",
            params:
                python=sys.executable,
                killed=str(killed(f"the step {step.name}", remedy)),
                code=hashlib.sha256(steps.notebook_code(steps.notebook_path(step)).encode()).hexdigest(),
                given=[word for name, value in {**terms, **step.parameters}.items() for word in ("-p", name, value)],
                fixed=step.threads,
                settings=steps.step_settings(step, run.settings),
            priority: steps.priority(step)
            threads: step.threads
            resources:
                **demands(step, run.profile),
            shell:
                "{params.python:q} -m lungadv.pipeline notebook {input.notebook:q} {log:q} --threads {params.fixed} {params.given:q}" + last

    else:

        rule:
            name:
                step.name
            input:
                sources=steps.sources(step),
                stages=[f"{name}/provenance.json" for name in step.needs(run)],
                manifest=steps.manifest_files(run) if step.stage == "datasets" else [],
            output:
                steps.outputs(step),
            params:
                python=sys.executable,
                killed=str(killed(f"the step {step.name}", remedy)),
                stage=step.stage,
                given=[f"--{name}={value}" for name, value in terms.items()],
                settings=steps.step_settings(step, run.settings),
            priority: steps.priority(step)
            threads: step.threads
            resources:
                **demands(step, run.profile),
            shell:
                "{params.python:q} -m lungadv.pipeline stage {params.stage:q} {params.given:q}" + last
