"""The command line: `lungadv reproduce`, `phantom`, `ingest`, `detect`, `export`, `froc`, `stress`, `claims` and `report`.

Exit codes: 0, 1 for bad input (one line on stderr), 2 for wrong usage. Heavy imports wait inside the commands,
so that `lungadv --help` answers at once.
"""

import functools
import json
import sys
import time
from collections import Counter
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(
    help="Lung-nodule detection hardened by adversarial attacks: a paper that runs. Not for clinical use.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

Profile = Annotated[str, typer.Option(help="a section of settings.ini: tiny, quick, standard or full")]
Seed = Annotated[int, typer.Option(help="a whole number from 0 up")]
Data = Annotated[str, typer.Option(help="'phantom', or the path of a manifest")]


class FileFormat(StrEnum):
    """File formats of simulated scans."""

    mhd = "mhd"
    dicom = "dicom"


class NetworkFormat(StrEnum):
    """Formats that the detector is exported in."""

    onnx = "onnx"
    torchscript = "torchscript"
    monai = "monai"


class Output(StrEnum):
    """What a model returns."""

    evidence = "evidence"
    logit = "logit"
    logits = "logits"


class Kind(StrEnum):
    """Kinds of data sets: the keys of `lungadv.data.ingest.sources.SOURCES`, which takes torch to import."""

    luna16 = "luna16"
    lidc = "lidc"
    dicom = "dicom"
    nodule_cubes = "nodule-cubes"


def one_line_errors(command: Callable) -> Callable:
    """Bad input, or a file that cannot be read or written, ends a command with one line on stderr and exit code 1."""

    @functools.wraps(command)
    def wrapped(*arguments, **options):
        from lungadv.utils.errors import InputError, one_line

        try:
            return command(*arguments, **options)
        except BrokenPipeError:  # who reads has seen enough: typer ends without a word
            raise
        except MemoryError as error:
            said = f"memory ran out ({one_line(error)}): close other programs, or take a larger machine"
        except (InputError, ValueError, OSError) as error:
            said = one_line(error)
        typer.echo(f"error: {said}", err=True)  # not before the error is forgotten: a progress bar ends its line with it
        raise typer.Exit(1)

    return wrapped


def one_line_warnings(command: Callable) -> Callable:
    """Warnings of a command come as one line each on stderr."""

    @functools.wraps(command)
    def wrapped(*arguments, **options):
        import warnings

        with warnings.catch_warnings():
            warnings.simplefilter("always", UserWarning)
            warnings.showwarning = lambda message, *place, **more: typer.echo("warning: " + " ".join(str(message).split()), err=True)
            return command(*arguments, **options)

    return wrapped


@app.command()
@one_line_errors
@one_line_warnings
def reproduce(
    profile: Profile = "quick",
    seed: Seed = 0,
    data: Data = "phantom",
    cores: Annotated[int, typer.Option(min=1, help="processor cores to use; results do not depend on it")] = 2,
    allow_unconverged: Annotated[bool, typer.Option(help="go on with networks that have not converged, and say so")] = False,
    engine: Annotated[Path | None, typer.Option(help="a Snakemake profile that runs the steps, such as profiles/slurm")] = None,
) -> None:
    """Make every figure and table of the paper; needs a clone of the repository."""
    from lungadv.pipeline.execute import reproduce as bring_up_to_date
    from lungadv.pipeline.report import write_report
    from lungadv.pipeline.runs import open_run
    from lungadv.pipeline.summary import summary_lines

    run = open_run(profile, seed, data)
    made = bring_up_to_date(run, cores, allow_unconverged, engine)
    write_report(run.folder)
    for line in summary_lines(run, made):
        typer.echo(line)


@app.command()
@one_line_errors
def phantom(
    out: Annotated[Path, typer.Argument(help="a new folder; LUNA16 layout")],
    scans: Annotated[int, typer.Option(min=1, help="how many")] = 1,
    seed: Seed = 0,
    file_format: Annotated[FileFormat, typer.Option("--format", help="of the scans")] = FileFormat.mhd,
    dose: Annotated[str, typer.Option(help="standard, low, ultralow or a number of photons")] = "standard",
) -> None:
    """Write simulated chest CT scans with their annotated nodules."""
    from lungadv.phantom.dataset import write_phantom
    from lungadv.utils.errors import plural

    write_phantom(out, scans, seed, dose, file_format.value)
    typer.echo(f"{plural(scans, 'scan')} and annotations.csv are in {out}")


@app.command()
@one_line_errors
@one_line_warnings
def ingest(
    src: Annotated[Path, typer.Argument(help="the folder of the data set; it is only read")],
    kind: Annotated[
        Kind,
        typer.Option(
            help="luna16: .mhd scans, annotations.csv; lidc: DICOM and XML; dicom: DICOM alone; nodule-cubes: LUNA16's, with masks"
        ),
    ],
    out: Annotated[Path, typer.Option(help="the manifest, a CSV in a folder of its own")],
    nodules: Annotated[Path | None, typer.Option(help="CSV of nodules: LUNA16's columns, type where known; of cubes also by file")] = None,
    workers: Annotated[int, typer.Option(min=1, help="processes that read; fewer need less memory")] = 2,
) -> None:
    """Read a data set once, check it, and write a manifest for `reproduce --data`; called again, go on, or name a changed scan."""
    from lungadv.data.ingest import ingest as ingest_folder
    from lungadv.utils.errors import plural

    report = ingest_folder(src, kind.value, out, nodules, workers)
    counts = f"{plural(report['taken'], report['unit'])} taken, {report['refused']} refused"
    left = f"{plural(report['left_out_rows'], 'row')} of tables and {plural(report['left_out_files'], 'file')} left out"
    others = sum(report["other_modalities"].values())
    left += f"; {others} series of other modalities left out" if others else ""
    typer.echo(f"{counts}; {left}; each with its reason: {report['lines']}")
    types = ", ".join(f"{count} {name}" for name, count in report["by_type"].items())
    typer.echo(plural(report["nodules"], "nodule") + (f": {types}" if types else ""))
    for sentence in [*report["expected"], *report["left_out"]]:
        typer.echo(sentence)
    if report["unchanged"]:
        typer.echo(f"nothing changed: {plural(report['taken'] + report['refused'], report['unit'])} compared with the manifest")


@app.command()
@one_line_errors
def detect(
    scan: Annotated[Path, typer.Argument(help="a scan file (.mhd, .nii.gz, ...), a .zip of one, a DICOM folder, a folder of scans")],
    out: Annotated[Path, typer.Option(help="the findings, a .csv; or a folder, and every scan in the folder SCAN is searched")],
    series: Annotated[str | None, typer.Option(help="the SeriesInstanceUID, where a folder holds several and one is meant")] = None,
    weights: Annotated[Path | None, typer.Option(help="a folder of weights or of a run [default: shipped, else latest quick]")] = None,
    sheet: Annotated[Path | None, typer.Option(help="a contact sheet of the most probable findings, a PNG")] = None,
    markups: Annotated[Path | None, typer.Option(help="the findings as points for 3D Slicer, a .mrk.json")] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="the findings and what they were made from")] = None,
    page: Annotated[Path | None, typer.Option("--report", help="a page to look through slices and findings in, an .html")] = None,
    sr: Annotated[Path | None, typer.Option(help="the findings as a DICOM SR, a .dcm; of a DICOM folder alone")] = None,
    workers: Annotated[int, typer.Option(min=1, help="of a folder of scans: processes, each of about 3 GiB")] = 2,
) -> None:
    """Find nodules in one scan, or in every scan of a folder; called again, it goes on. Not for clinical use."""
    from lungadv.data.io.read import read_scan
    from lungadv.detection import report, structured_report
    from lungadv.detection.detect import detect as find_nodules
    from lungadv.detection.detect import find_lungs
    from lungadv.detection.outputs import ENDINGS, Findings, write_outputs
    from lungadv.detection.weights import default_weights, load_detector
    from lungadv.utils.outputs import check_outputs

    paths = {"sheet": sheet, "markups": markups, "json": json_file, "page": page, "sr": sr}
    if scan.is_dir() and series is None and not out.name.lower().endswith(ENDINGS["out"]):
        return _detect_in_folder(scan, out, paths, weights or default_weights(), workers)
    paths = {"out": out} | paths
    check_outputs({ENDINGS[name]: path for name, path in paths.items()}, [scan])
    weights = weights or default_weights()
    images = structured_report.read_images(scan, series) if sr else []
    volume = read_scan(scan, series)
    started = time.perf_counter()
    load_detector(weights)  # what is wrong with them is said before the long search
    mask = find_lungs(volume)
    findings = find_nodules(volume, weights, mask)
    notes = report.scan_warnings(volume, weights, mask)
    for note in (f"the weights have seen {'; '.join(report.read_seen(weights).sources)}", *notes):
        typer.echo(f"note: {note}", err=True)
    write_outputs(Findings(volume, findings, weights, notes, images), paths)
    likely, seconds = int((findings.probability > 0.5).sum()), time.perf_counter() - started
    typer.echo(f"{len(findings)} findings, {likely} of them with probability over 0.5, in {seconds:.0f} s: {out}")


def _detect_in_folder(scans, out, options, weights, workers):
    """`lungadv detect` of a folder of scans: a line a scan, and what became of all; exit code 1 when one could not be searched."""
    from lungadv.detection.batch import check_names, search_folder

    answers, others = search_folder(scans, out, check_names(out, options), weights, workers, typer.echo)
    counts = Counter(answer.status for answer in answers)
    left = f"; {others} series that are no CT left out" if others else ""
    typer.echo(f"{counts['searched']} searched, {counts['unchanged']} unchanged, {counts['failed']} failed{left}: {out}")
    if counts["failed"]:
        typer.echo(f"error: {counts['failed']} of {len(answers)} scans could not be searched; reasons: {out / 'scans.csv'}", err=True)
        raise typer.Exit(1)


@app.command()
@one_line_errors
def export(
    out: Annotated[Path, typer.Argument(help="a new folder")],
    file_format: Annotated[NetworkFormat, typer.Option("--format", help="onnx, torchscript: the networks; monai: a whole bundle")],
    weights: Annotated[Path | None, typer.Option(help="a folder of weights or of a run [default: shipped, else latest quick]")] = None,
) -> None:
    """Write the detector for other programs. Not for clinical use."""
    from lungadv.detection.monai_bundle import write_bundle
    from lungadv.detection.network_export import export_networks
    from lungadv.detection.weights import default_weights
    from lungadv.utils.outputs import check_folder

    check_folder(out)
    weights = weights or default_weights()
    if file_format == NetworkFormat.monai:
        write_bundle(weights, out)
    else:
        export_networks(weights, out, file_format.value)
    typer.echo(f"the networks of {weights} are in {out}")


@app.command()
@one_line_errors
@one_line_warnings
def froc(
    marks: Annotated[Path, typer.Argument(help="CSV: seriesuid, coordX, coordY, coordZ, probability")],
    annotations: Annotated[Path, typer.Option(help="CSV: seriesuid, coordX, coordY, coordZ, diameter_mm; type where known")],
    seriesuids: Annotated[Path, typer.Option(help="the ids of all scans searched, one a line")],
    excluded: Annotated[Path | None, typer.Option(help="CSV of findings that are neither true nor false")] = None,
    out: Annotated[Path | None, typer.Option("--json", help="write the result there")] = None,
    figure: Annotated[Path | None, typer.Option(help="draw the curve there, a PNG or PDF")] = None,
) -> None:
    """Score a detector's marks as the LUNA16 challenge does: FROC and CPM with 95 % intervals, by diameter and type."""
    from lungadv.data.tables import read_uids
    from lungadv.evaluation import froc as scoring
    from lungadv.evaluation import marks as tables
    from lungadv.utils.outputs import check_outputs

    if figure:
        from lungadv.evaluation.froc_figure import check_figure_path, write_froc_figure

        check_figure_path(figure)
    check_outputs({".json": out, (".png", ".pdf"): figure}, [marks, annotations, seriesuids, excluded])
    nodules = tables.read_findings(annotations)
    beside = tables.read_findings(excluded, repeats=True) if excluded else None
    inputs = tables.read_marks(marks), nodules, read_uids(seriesuids)
    for path, table in {marks: inputs[0], annotations: nodules, excluded: beside}.items():
        if table is not None:
            tables.check_padding(table, inputs[2], f"{path.name}, line")
    result = scoring.froc(*inputs, beside)
    groups = {"diameter": tables.size_masks(nodules)} | ({"type": tables.type_masks(nodules)} if "type" in nodules else {})
    parts = {name: scoring.froc_by_group(*inputs, masks, beside) for name, masks in groups.items()}
    if out:
        _write_froc(result, parts, out)
    if figure and result.counts["nodules"]:
        write_froc_figure(result, figure)
    elif figure:
        typer.echo(f"warning: '{figure}' is not drawn: without a nodule there is no curve", err=True)
    _print_froc(result, parts)
    typer.echo("\n" + "\n".join(tables.describe_counts(result.counts)))
    if beside is None:
        typer.echo("no excluded findings were given: marks on them count as false")


def _write_froc(result, parts, out):
    """The JSON of `lungadv froc`: the score of all nodules, and of each group by name."""
    from lungadv.utils.files import atomic_write

    by_name = {f"by_{name}": {group: part.to_dict() for group, part in by_group.items()} for name, by_group in parts.items()}
    with atomic_write(out) as path:
        path.write_text(json.dumps(result.to_dict() | by_name, indent=1) + "\n", encoding="utf-8")


def _print_froc(result, parts):
    """Sensitivity at each operating point with its interval, the CPM, and a table a group."""
    typer.echo("false positives a scan   sensitivity   95 % interval")
    for point, value in result.sensitivity.items():
        low, high = result.sensitivity_interval[point]
        typer.echo(f"{point:>22g} {value:>13.3f}   {low:.3f} to {high:.3f}")
    typer.echo(f"{'CPM':>22} {result.cpm:>13.3f}   {result.cpm_interval[0]:.3f} to {result.cpm_interval[1]:.3f}")
    for name, by_group in parts.items():
        header = "".join(f"{point:>7g}" for point in result.sensitivity)
        typer.echo(f"\n{name + (', mm' if name == 'diameter' else ''):<16} nodules     CPM   95 % interval {header}")
        for group, part in by_group.items():
            (low, high), values = part.cpm_interval, "".join(f"{value:>7.3f}" for value in part.sensitivity.values())
            typer.echo(f"{group:<16} {part.counts['nodules']:>7} {part.cpm:>7.3f}  {low:.3f} to {high:.3f} {values}")


@app.command()
@one_line_errors
@one_line_warnings
def stress(
    factory: Annotated[str, typer.Argument(help="package.module:function, a function that returns the model")],
    patches: Annotated[Path, typer.Option(help=".npz: float32 positives and negatives, (N, 1, D, H, W) in [0, 1]")],
    output: Annotated[Output, typer.Option(help="what the model returns: evidence (positive first), a logit, or two (class 1 positive)")],
    out: Annotated[Path, typer.Option(help="a folder for the tables, report.json, report.png and examples")],
    surrogate: Annotated[str | None, typer.Option(help="a second model of the same output, for transfer [default: trained here]")] = None,
    eps: Annotated[float, typer.Option(help="linf radius of the attack that is audited; 0.02 is 28 HU")] = 0.02,
    steps: Annotated[int, typer.Option(min=1, help="gradient steps of PGD")] = 20,
    queries: Annotated[int, typer.Option(min=1, help="looks at the model that Square takes")] = 200,
    seed: Seed = 0,
) -> None:
    """Stress a model of your own with noise and attacks, and audit whether the attacks can be believed."""
    from lungadv.evaluation import audit
    from lungadv.evaluation.stress_io import load_patches, make_model, write_report
    from lungadv.utils.errors import InputError
    from lungadv.utils.outputs import check_folder

    check_folder(out)
    positives, negatives = load_patches(patches)
    models = [make_model(name) for name in (factory, surrogate) if name]
    terms = {"output": output.value, "eps": eps, "steps": steps, "queries": queries, "seed": seed}
    terms["surrogate"] = models[1] if surrogate else None
    try:
        result = audit.report(models[0], positives, negatives, progress=True, **terms)
    except RuntimeError as error:  # torch's, of a backward pass: a forward that fails is a ValueError already
        raise InputError(f"the model fails under attack: {type(error).__name__}: {error}") from error
    write_report(result, out)
    for note in result.notes:
        typer.echo(f"note: {note}", err=True)
    for row in result.audit.itertuples():
        typer.echo(f"{row.verdict:<12} {row.check}: {row.value:.4g} against {row.reference:.4g}")
    counts = ", ".join(f"{count} {verdict}" for verdict, count in result.audit["verdict"].value_counts().items())
    typer.echo(f"audit: {counts}; tables, figure and JSON: {out}")


@app.command()
@one_line_errors
def claims(profile: Profile = "quick", seed: Seed = 0, data: Data = "phantom") -> None:
    """Print a run's ledger: each claim of the paper, what was measured, the verdict."""
    import pandas as pd

    from lungadv.pipeline.runs import open_run
    from lungadv.utils.errors import InputError

    run = open_run(profile, seed, data)
    path = run.path("claims", "claims.csv")
    if not path.exists():
        raise InputError(f"{path} does not exist: run `make reproduce PROFILE={profile} SEED={seed}` first")
    ledger = pd.read_csv(path, dtype=str, keep_default_na=False)
    if missing := {"id", "claim", "measured", "interval", "verdict"} - set(ledger.columns):
        raise InputError(f"'{path}' has no column {', '.join(sorted(missing))}: delete its folder and `make reproduce` again")
    for row in ledger.itertuples():
        typer.echo(f"{row.id:<4} {row.verdict:<15} {row.measured}  [{row.interval}]\n     {row.claim}")
    typer.echo(", ".join(f"{count} {verdict}" for verdict, count in ledger.verdict.value_counts().items()))


@app.command()
@one_line_errors
def report(run: Annotated[Path, typer.Argument(help="the folder of a run, such as runs/phantom-quick-0")]) -> None:
    """Write report.html of a run: ledger, tables, figures, differences, cost, provenance; one file, no network."""
    from lungadv.pipeline.report import missing_stages, write_report
    from lungadv.utils.errors import InputError

    path = write_report(run)
    if missing := missing_stages(run):
        raise InputError(f"the run is not finished: {', '.join(missing)} missing; what there is so far: {path}")
    typer.echo(f"report: {path}")


def main() -> None:
    """The entry point of the `lungadv` command."""
    from lungadv.utils.errors import SHOWN

    for stream in filter(None, (sys.stdout, sys.stderr)):  # either may be closed
        stream.reconfigure(errors=SHOWN)  # a file whose name is not UTF-8 can be told of, too
    app(prog_name="lungadv")


if __name__ == "__main__":
    main()
