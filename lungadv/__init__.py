"""Robust lung-nodule detection in low-dose CT by training on adversarial attacks: a reproducible paper that runs

Modules:

- `lungadv.cli`: The command line: `lungadv reproduce`, `phantom`, `ingest`, `detect`, `froc`, `stress` and `claims`.
- `lungadv.pipeline`: From notebooks to results: what the Snakefile runs, and what is done with a finished run.
- `lungadv.runs`: Profiles, run folders, provenance and random streams: what every stage of the pipeline shares."""

__version__ = "0.1.0"
