"""Commands on a disk that fills up at ten places: one clear line, nothing half-written, and once there is room the same tables."""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Annotated

import torch
import typer
from kills import CASES, start, tables, wait

SHARES = {"ingest": (0.05, 0.3, 0.6, 0.9), "detect": (0.0, 0.2, 0.8), "accept": (0.1, 0.5, 0.95)}  # of the bytes that a command writes
PAGE = 4096  # bytes; a tmpfs counts in them
INSIDE = "LUNGADV_FULL_DISK"  # set where disks may be mounted


def mount(folder, size, *options):
    """A disk in memory of that many bytes as a folder."""
    subprocess.run(["mount", "-t", "tmpfs", "-o", ",".join([f"size={size}", *options]), "tmpfs", folder], check=True)


def pages(folder):
    """The bytes that a folder's files and folders take on a tmpfs."""
    return sum(-(-path.stat().st_size // PAGE) * PAGE for path in folder.rglob("*") if path.is_file()) + PAGE


def fill(case, folder, reference, size):
    """Call a command on a disk of `size` bytes, then on one with room: what it said, and what was wrong."""
    made = folder / case.made
    shutil.rmtree(made, ignore_errors=True)
    made.mkdir(parents=True)
    mount(made, max(size, PAGE))
    try:
        code = wait(start(case, folder))
        lines = [line for line in (folder / "log").read_text().replace("\r", "\n").splitlines() if line.startswith(("error", "Trace"))]
        half = [name for name, content in tables(case, folder).items()
                if content != reference.get(name) and not name.endswith(case.changes)]  # fmt: skip
        mount(made, 2**30, "remount")
        again = wait(start(case, folder))
        differ = [name for name in {*reference, *tables(case, folder)} if tables(case, folder).get(name) != reference.get(name)]
    finally:
        subprocess.run(["umount", made], check=True)
    return code, lines, half, again, differ


def main(only: Annotated[str, typer.Option(help="commands, with commas between")] = ",".join(SHARES)) -> None:
    """Print what each command says at each place. Exit code 1 when one says it otherwise, or leaves something."""
    torch.set_num_threads(1)
    wrong = 0
    print("| command | share of its files that fits | what it says | half-written | with room again |\n|---|---|---|---|---|")
    for name in only.split(","):
        with tempfile.TemporaryDirectory() as place:
            case, folder = CASES[name], Path(place).resolve()
            case.prepare(folder)
            if wait(start(case, folder)):
                raise SystemExit(f"{name} fails: {(folder / 'log').read_text()[-2000:]}")
            reference, needed = tables(case, folder), pages(folder / case.made)
            for share in SHARES[name]:
                code, lines, half, again, differ = fill(case, folder, reference, int(share * needed) // PAGE * PAGE)
                said = " / ".join(lines).replace(f"{folder}/", "")
                print(f"| {name} | {share:.0%} | {said} | {half or 'nothing'} | {differ or 'the same tables'} |", flush=True)
                wrong += code != 1 or len(lines) != 1 or "no space" not in said or bool(half) or again != 0 or bool(differ)
    raise SystemExit(bool(wrong))


if __name__ == "__main__":
    if not os.environ.get(INSIDE):  # where disks may be mounted that nobody else sees
        inside = ["unshare", "-rm", sys.executable, __file__, *sys.argv[1:]]
        raise SystemExit(subprocess.run(inside, env=os.environ | {INSIDE: "1"}).returncode)
    app = typer.Typer(pretty_exceptions_enable=False)
    app.command()(main)
    app()
