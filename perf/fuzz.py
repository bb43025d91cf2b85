"""Damaged files of every format, met by the commands in child processes: none may crash, hang, show a traceback or write elsewhere."""

import json
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Annotated

import psutil
import typer

KINDS = ("mhd", "mha", "nrrd", "nifti", "dicom", "zip", "xml", "marks", "annotations", "manifest", "store", "records", "run", "settings",
         "npz", "safetensors")  # fmt: skip
GOOD = ("taken", "refused")
HANG = 20  # seconds
START = 300  # seconds that a child may take to import and to make good files
PATIENCE = 20  # times as long on the clock, where other programs have the processor
BATCH = 2000  # inputs that one child meets


class Child:
    """A process that meets inputs, and its answers."""

    def __init__(self, folder, kinds, first, count):
        command = [sys.executable, str(Path(__file__).with_name("fuzz_child.py")), folder, ",".join(kinds), str(first), str(count)]
        self.process = subprocess.Popen(command, bufsize=0, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        if self.answer(START) != "ready":
            self.process.kill()
            raise RuntimeError("the child did not start: " + (Path(folder) / "noise").read_text()[-3000:])

    def used(self):
        """Seconds of processor time so far."""
        return sum(psutil.Process(self.process.pid).cpu_times()[:2])

    def answer(self, seconds):
        """The next answer, or why there is none: "hang", "crash" or "end"."""
        used, waited = self.used(), 0
        while not select.select([self.process.stdout], [], [], seconds)[0]:
            waited += seconds
            if self.used() - used < seconds / 2 and waited < PATIENCE * seconds:  # other programs have the processor
                continue
            self.process.kill()
            self.process.wait()
            return "hang"
        line = self.process.stdout.readline()
        if line:
            return json.loads(line)
        return f"crash {-self.process.returncode}" if self.process.wait() else "end"


def meet_all(folder, kinds, first, count):
    """Yields (kind, seed, outcome, words) of each input; a child that crashed or hung is followed by another one."""
    seed, last = first, first + count
    while seed < last:
        child = Child(folder, kinds, seed, min(BATCH, last - seed))
        while isinstance(begun := child.answer(HANG), list):
            kind, seed = begun
            met = child.answer(HANG)
            outcome, words = met if isinstance(met, list) else (met.split()[0] if met != "end" else "crash", _signal(met))
            yield kind, seed, outcome, words
            seed += 1
            if not isinstance(met, list):
                break
            child.process.stdin.write(b"\n")
        child.process.kill()
        child.process.wait()


def _signal(met):
    number = met.rpartition(" ")[2]
    return signal.Signals(int(number)).name if number.isdigit() and int(number) in set(signal.Signals) else met


def keep(folder, to, kind, seed):
    """Copy an input, so that it can be looked at."""
    target = Path(to) / f"{kind}-{seed}"
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(Path(folder) / "around" / "work", target, symlinks=True)
    return target


def main(
    inputs: Annotated[int, typer.Option(min=1, help="how many")] = 20_000,
    seed: Annotated[int, typer.Option(help="of the first input; the k-th has seed + k")] = 0,
    only: Annotated[str, typer.Option(help="formats, with commas between")] = ",".join(KINDS),
    kept: Annotated[Path | None, typer.Option("--keep", help="a folder for the inputs at which something went wrong")] = None,
) -> None:
    """Meet damaged inputs, and print how many of each format were taken, refused, or went wrong. Exit code 1 when one went wrong."""
    kinds, counts, faults, started = only.split(","), {}, [], time.perf_counter()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        with suppress(KeyboardInterrupt):  # what was met so far is told
            for kind, number, outcome, words in meet_all(folder, kinds, seed, inputs):
                counts.setdefault(kind, Counter())[outcome] += 1
                if outcome not in GOOD:
                    faults.append((kind, number, outcome, words))
                    where = keep(folder, kept, kind, number) if kept else "--keep FOLDER would keep it"
                    print(f"{outcome}: --only {kind} --seed {number} --inputs 1 ({where})\n{words[:2000]}", file=sys.stderr, flush=True)
    columns = [*GOOD, *sorted({name for found in counts.values() for name in found} - {*GOOD})]
    print("| format | " + " | ".join(columns) + " |\n|" + "---|" * (len(columns) + 1))
    for kind in kinds:
        print(f"| {kind} | " + " | ".join(str(counts.get(kind, {}).get(name, 0)) for name in columns) + " |")
    met = sum(map(Counter.total, counts.values()))
    print(f"\n{met} inputs, {len(faults)} went wrong, in {time.perf_counter() - started:.0f} s")
    raise SystemExit(bool(faults))


if __name__ == "__main__":
    app = typer.Typer(pretty_exceptions_enable=False)
    app.command()(main)
    app()
