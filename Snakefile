"""The pipeline: one rule a step of `lungadv.pipeline.STEPS`, run inside the run's folder by `lungadv reproduce`.

A step is made again when its notebook, a module that this imports, a data file, a setting that these mention
or an upstream stage changes; by content, not by time. Threads are fixed, so --cores never changes a result.
"""

import sys

from lungadv import pipeline, runs

terms = {name: str(config[name]) for name in ("profile", "seed", "data")}
run = runs.open_run(terms["profile"], int(terms["seed"]), terms["data"])
# The ledger pools the finished runs of other seeds: it is made again when one more has come.
others = [str(other.path("benchmarks", "provenance.json")) for other in pipeline.finished_seeds(run) if other.seed != run.seed]
steps = pipeline.present()


rule all:
    input:
        [pipeline.outputs(step) for step in steps],
    default_target: True


for step in steps:

    if step.notebook:

        rule:
            name:
                step.name
            input:
                notebook=pipeline.notebook_path(step),
                sources=pipeline.sources(step),
                stages=[f"{name}/provenance.json" for name in step.needs],
                manifest=pipeline.manifest_files(run) if step.stage == "datasets" else [],
                seeds=others if step.stage == "claims" else [],
            output:
                pipeline.outputs(step),
            log:
                f"notebooks/{step.name}.ipynb",
            params:
                python=sys.executable,
                given=[word for name, value in {**terms, **step.parameters}.items() for word in ("-p", name, value)],
                fixed=step.threads,
                settings=pipeline.settings_of(step, run.settings),
            priority: pipeline.waiting(step)
            threads: step.threads
            shell:
                "{params.python:q} -m lungadv.pipeline notebook {input.notebook:q} {log:q} --threads {params.fixed} {params.given:q}"

    else:

        rule:
            name:
                step.name
            input:
                sources=pipeline.sources(step),
                stages=[f"{name}/provenance.json" for name in step.needs],
            output:
                pipeline.outputs(step),
            params:
                python=sys.executable,
                stage=step.stage,
                given=[f"--{name}={value}" for name, value in terms.items()],
                settings=pipeline.settings_of(step, run.settings),
            priority: pipeline.waiting(step)
            threads: step.threads
            shell:
                "{params.python:q} -m lungadv.pipeline stage {params.stage:q} {params.given:q}"
