"""The commands behind the Snakefile and the Makefile: `python -m lungadv.pipeline ...`."""

import argparse
import sys
import time
from contextlib import redirect_stderr
from pathlib import Path

from lungadv.data.kinds import CUBES, kind_of
from lungadv.pipeline.accept import accept
from lungadv.pipeline.artefacts import build_stage
from lungadv.pipeline.notebooks import ProgressLines, run_notebook
from lungadv.pipeline.outputs import SHOWN_PROFILE, keep_outputs
from lungadv.pipeline.readme import render
from lungadv.pipeline.runs import open_run
from lungadv.utils.errors import InputError, one_line, plural


def main(arguments: list[str] | None = None) -> None:
    """The commands behind the Snakefile and the Makefile."""
    parser = argparse.ArgumentParser(prog="python -m lungadv.pipeline", description=main.__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    notebook = commands.add_parser("notebook", help="run one notebook with papermill")
    notebook.add_argument("notebook", type=Path)
    notebook.add_argument("out", type=Path)
    notebook.add_argument("-p", dest="parameters", nargs=2, action="append", default=[], metavar=("NAME", "VALUE"))
    notebook.add_argument("--threads", type=int, default=1)
    texts = {"stage": "build one stage", "accept": "make a run the committed results", "weights": "ship a run's networks with the package"}
    for name, text in texts.items():
        command = commands.add_parser(name, help=text)
        if name == "stage":
            command.add_argument("stage")
        command.add_argument("--profile", default="quick")
        command.add_argument("--seed", type=int, default=0)
        command.add_argument("--data", default="phantom")
        if name == "weights":
            command.add_argument("--real", metavar="CUBES", help="a manifest of nodule cubes: train on with them first")
    commands.add_parser("readme", help="write README.md from nbs/index.ipynb, and the tables of docs/")
    options = parser.parse_args(arguments)
    try:
        _run_command(options)
    except (InputError, ValueError, OSError) as error:
        sys.exit(f"error: {one_line(error)}")


def _run_command(options):
    if options.command == "readme":
        render()
    elif options.command == "accept":
        run = open_run(options.profile, options.seed, options.data)
        if kind_of(run.data) != CUBES:  # what is measured on cubes is shown in their notebook alone
            print(f"the results of {run.folder.name} are now those of {accept(run)}")
        if run.profile == SHOWN_PROFILE:
            print(f"its outputs are now those of {plural(len(keep_outputs(run)), 'notebook')} in nbs/")
    elif options.command == "weights":
        from lungadv.detection.weights import shipped_folder
        from lungadv.pipeline.export import export_weights

        run = open_run(options.profile, options.seed, options.data)
        if options.real:
            from lungadv.pipeline.real_weights import train_on_cubes

            train_on_cubes(run, options.real)
        target = export_weights(run, shipped_folder(), real=bool(options.real))
        print(f"the networks of {run.folder.name} and their model card are now in {target}")
    else:
        name = options.stage if options.command == "stage" else options.out.stem
        started = time.perf_counter()
        print(f"[{name}] starts", file=sys.stderr, flush=True)
        if options.command == "stage":
            with redirect_stderr(ProgressLines(name, sys.stderr)):
                build_stage(open_run(options.profile, options.seed, options.data), options.stage)
        else:
            run_notebook(options.notebook, options.out, dict(options.parameters), options.threads)
        print(f"[{name}] done in {time.perf_counter() - started:.0f} s", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
