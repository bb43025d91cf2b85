"""Commands killed at random moments with SIGKILL: what is there afterwards is whole, and the next call gives the same tables."""

import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import chdir
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import torch
import typer
from fuzz_formats import Place, chest, run_command
from fuzz_states import clone

from lungadv.data.io.write import write_scan
from lungadv.phantom.simulate import simulate
from lungadv.pipeline.__main__ import main as pipeline
from lungadv.utils.files import repo_root

SCANS = 12  # that are ingested
COARSE = {"shape": (72, 80, 92), "spacing": (2.5, 2.5, 2.5), "nodules": ({"type": "solid"},)}  # a chest that is searched in seconds


@dataclass(frozen=True)
class Case:
    """A command: what makes its inputs in a folder, what calls it, and the folder below in which its files appear.

    tables: the pattern of the files that must be the same each time. changes: endings of files that are written twice on the way.
    in_row: kills, each of a call that goes on with what the one before left, before a last call may end.
    """

    prepare: Callable
    call: Callable
    made: str = "out"
    tables: str = "**/*"
    changes: tuple = ()
    in_row: int = 1


def luna16(folder):
    rows = ["seriesuid,coordX,coordY,coordZ,diameter_mm"]
    for k in range(SCANS):
        uid = f"1.2.{k}"
        scan = chest(uid)
        scan.hu[0, 0, : len(uid)] = list(uid.encode())  # no two scans hold the same voxels
        (folder / f"in/subset{k % 10}").mkdir(parents=True, exist_ok=True)
        write_scan(scan, folder / f"in/subset{k % 10}/{uid}.mhd")
        rows.append(f"{uid},-6,-5,-292,8")
    (folder / "in/annotations.csv").write_text("\n".join([*rows, ""]))


def ingest(folder):
    run_command(["ingest", str(folder / "in"), "--kind", "luna16", "--out", str(folder / "out/manifest.csv"), "--workers", "1"])


def coarse_chest(folder):
    (folder / "in").mkdir()
    write_scan(simulate(COARSE, 0, 0).scan, folder / "in/scan.mhd")
    (folder / "out").mkdir()


def detect(folder):
    out = folder / "out"
    others = ["--json", str(out / "findings.json"), "--markups", str(out / "findings.mrk.json"), "--sheet", str(out / "sheet.png")]
    run_command(["detect", str(folder / "in/scan.mhd"), "--out", str(out / "findings.csv"), *others])


def finished_run(folder):
    """A clone with a finished run, whose figures are large enough to take time."""
    (folder / "in").mkdir()
    for name, content in clone(Place(folder / "in", folder / "out", folder / "trap")).items():
        path = folder / "in" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content * 10**5 if path.suffix == ".png" else content)
    shutil.rmtree(folder / "in/figures")


def accept(folder):
    with chdir(folder / "in"):
        pipeline(["accept", "--profile", "tiny"])


def reproduce(folder):
    os.environ["LUNGADV_RUNS"] = str(folder / "out")
    with chdir(repo_root()):
        run_command(["reproduce", "--profile", "tiny", "--cores", "2"])


CASES = {
    "ingest": Case(luna16, ingest, changes=(".ingest.json",)),
    "detect": Case(coarse_chest, detect),
    "accept": Case(finished_run, accept, "in/figures"),
    "reproduce": Case(lambda folder: (folder / "out").mkdir(), reproduce, tables="phantom-tiny-0/figures/*.csv", in_row=5),
}


def start(case, folder):
    """Call a command in a copy of this process, which has its libraries: the id of the process, the leader of a group."""
    sys.stdout.flush()
    process = os.fork()
    if process:
        return process
    os.setsid()
    log = os.open(folder / "log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(log, 1)
    os.dup2(log, 2)
    try:
        case.call(folder)
    except SystemExit as done:
        if isinstance(done.code, str):  # as the interpreter does
            print(done.code, flush=True)
        os._exit(done.code if isinstance(done.code, int) else 1)
    except BaseException as error:
        print(repr(error), flush=True)
        os._exit(70)
    os._exit(0)


def wait(process):
    """The exit code of a process, or minus the signal that ended it."""
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def tables(case, folder):
    """The files that a reader finds, by path: their bytes. Names with a dot in front are nobody's."""
    root = folder / case.made
    found = {path.relative_to(root).as_posix(): path for path in root.glob(case.tables) if path.is_file()}
    return {name: path.read_bytes() for name, path in found.items() if "/." not in f"/{name}"}


def empty(case, folder):
    """Remove what a command made."""
    shutil.rmtree(folder / case.made, ignore_errors=True)
    if case.made == "out":
        (folder / "out").mkdir()


def kill_in_row(case, folder, reference, moments):
    """Kill a command after each of `moments` (seconds), look, and let the last call end: kills, those that left files, what was wrong."""
    empty(case, folder)
    killed, with_files, half = 0, 0, []
    for moment in moments:
        process = start(case, folder)
        time.sleep(moment)
        os.killpg(process, signal.SIGKILL)
        killed += wait(process) == -signal.SIGKILL
        left = tables(case, folder)
        with_files += bool(left)
        half += [name for name, content in left.items() if content != reference.get(name) and not name.endswith(case.changes)]
    code = wait(start(case, folder))
    again = tables(case, folder)
    differ = [name for name in {*again, *reference} if again.get(name) != reference.get(name)]
    return killed, with_files, half, code, differ


def time_whole(case, folder):
    """The seconds that a command takes undisturbed, and its tables."""
    taken = []
    for _ in range(2):  # the first one fills caches
        empty(case, folder)
        begun = time.perf_counter()
        if wait(start(case, folder)):
            raise SystemExit(f"the command fails: {(folder / 'log').read_text()[-2000:]}")
        taken.append(time.perf_counter() - begun)
    return min(taken), tables(case, folder)


def main(
    kills: Annotated[int, typer.Option(min=1, help="of each command")] = 50,
    only: Annotated[str, typer.Option(help="commands, with commas between")] = ",".join(CASES),
    seed: Annotated[int, typer.Option(help="of the moments")] = 0,
) -> None:
    """Kill commands, and print a table: how many kills, how many left files, how many left half of one, how many gave other tables."""
    torch.set_num_threads(1)  # copies of a process with more may hang
    print("| command | seconds | kills | with files left | half-written | next call failed | other tables |\n|---|---|---|---|---|---|---|")
    wrong = 0
    for name in only.split(","):
        rng = random.Random(f"{name} {seed}")
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as place:
            case, folder = CASES[name], Path(place).resolve()
            case.prepare(folder)
            seconds, reference = time_whole(case, folder)
            met = []
            for _ in range(4 * kills):  # some end before they are killed
                if sum(one[0] for one in met) < kills:
                    row = min(case.in_row, kills)
                    met.append(kill_in_row(case, folder, reference, [seconds / row * rng.random() for _ in range(row)]))
            for _, _, half, code, differ in met:
                if half or code or differ:
                    print(f"{name}: half-written {half}, exit code {code}, other {differ}", file=sys.stderr)
        counts = [*(sum(one[k] for one in met) for k in (0, 1)), *(sum(bool(one[k]) for one in met) for k in (2, 3, 4))]
        wrong += sum(counts[2:])
        print(f"| {name} | {seconds:.1f} | " + " | ".join(map(str, counts)) + " |", flush=True)
    raise SystemExit(bool(wrong))


if __name__ == "__main__":
    app = typer.Typer(pretty_exceptions_enable=False)
    app.command()(main)
    app()
