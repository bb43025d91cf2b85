"""A child process of `fuzz.py`: it meets one damaged input after the other under a memory limit, and says what came of each."""

import json
import os
import random
import re
import resource
import shutil
import sys
import tempfile
import traceback
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path

from fuzz_formats import Place, run_command
from fuzz_states import FORMATS

MEMORY = 2**30  # bytes beside those that the libraries take
GOOD = 3  # samples of a kind whose good files are tried first
SAID = re.compile(r"error: [^\n]{1,3000}\n")  # the one line
BESIDE = re.compile(r"(note|warning): .*|\s*|(reading scans|searching|weighing|measuring).*")  # other lines of stderr
TAKEN = ("the input was read", "factory 'nowhere:make'", "run `make reproduce PROFILE=", "No module named 'nowhere'")


def limit_memory():
    """Let this process have MEMORY more than it has."""
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY,) * 2)


def stop_at_lungs():
    """Let `detect` end where the search would begin: what is wrong with a scan or with weights is said before."""
    from lungadv.detection import detect, weights
    from lungadv.utils.errors import InputError

    def read(volume):
        raise InputError("the input was read")

    load = weights.load_detector
    detect.find_lungs = read
    weights.load_detector = lambda folder: folder == weights.shipped_folder() or load(folder)


def call(what):
    """The exit code of a command, what it printed on stderr, and the traceback of an error that it let through or ''."""
    said = StringIO()
    with redirect_stdout(StringIO()), redirect_stderr(said):
        try:
            run_command(what) if isinstance(what, list) else what()
        except SystemExit as done:
            if isinstance(done.code, str):  # as the interpreter does
                said.write(done.code + "\n")
            return (1 if isinstance(done.code, str) else done.code or 0), said.getvalue(), ""
        except BaseException as error:
            if type(error).__name__ == "Exit":  # typer's, outside of its app
                return error.exit_code, said.getvalue(), ""
            return -1, said.getvalue(), _places(error)
    return 0, said.getvalue(), ""


def _places(error):
    """Where in the package an error came from, innermost last, and the error."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if "/lungadv/" in frame.filename]
    where = [f"{frame.filename.rpartition('/lungadv/')[2]}:{frame.lineno} {frame.line}" for frame in frames]
    return "\n".join([*where[-4:], f"{type(error).__name__}: {str(error)[:500]}"])


def judge(code, said, trace, noise):
    """What came of an input, and the words: taken or refused, else a fault."""
    lines = said.replace("\r", "\n").splitlines(keepends=True)
    strange = [line for line in lines if not SAID.fullmatch(line) and not BESIDE.fullmatch(line.rstrip("\n"))]
    errors = [line for line in lines if SAID.fullmatch(line)]
    if trace:
        return "traceback", trace
    if noise or strange:
        return "noise", noise + "".join(strange)
    if code == 1 and len(errors) == 1:
        return ("taken" if any(word in errors[0] for word in TAKEN) else "refused"), errors[0]
    return ("taken", "") if code == 0 and not errors else ("exit code", f"{code}: {said}")


class Watch:
    """The folder of one input, and what may not change around it."""

    def __init__(self, root):
        self.root = root
        self.place = Place(root / "data", root / "out", root / "executed")
        self.temporary = root / "tmp"
        tempfile.tempdir = os.environ["TMPDIR"] = str(self.temporary)
        os.chdir(root)

    def clear(self):
        for folder in (self.place.data, self.place.out, self.temporary):
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()

    def state(self, inputs):
        """What lies where nothing may be written: {path: (bytes, time)}."""
        around = [path for path in (*self.root.iterdir(), *self.root.parent.iterdir()) if path not in (self.place.data, self.place.out)]
        found = [*around, *(self.place.data.rglob("*") if inputs else ()), *self.temporary.iterdir()]
        return {str(path): (state.st_size, state.st_mtime_ns) for path in found if not path.is_dir() and (state := path.lstat())}

    def half_written(self):
        return [str(path) for path in self.place.out.rglob(".[0-9]*") if re.match(r"\.\d+\.", path.name)]


def meet(watch, kind, seed, samples, noise, good=False):
    """Lay one input, damaged unless `good`, call what meets it, and judge: (outcome, words)."""
    rng = random.Random(f"{kind} {seed}")
    watch.clear()
    sample = rng.choice(samples)
    target = sample.lay(rng, watch.root / FORMATS[kind].base, good)
    what = FORMATS[kind].call(watch.place, rng, target)
    before = watch.state(FORMATS[kind].inputs)
    noise.truncate(0)
    code, said, trace = call(what)
    outcome = judge(code, said, trace, os.pread(noise.fileno(), 5000, 0).decode(errors="replace"))
    after = watch.state(FORMATS[kind].inputs)
    if after != before:
        return "outside", str({name for name, _ in before.items() ^ after.items()})
    return ("half-written", str(half)) if (half := watch.half_written()) else outcome


def check_good(watch, kind, samples, noise):
    """What good files were not taken, and why: if they are not, all that is damaged may be refused for another reason."""
    met = [meet(watch, kind, number, [sample], noise, good=True) for number, sample in enumerate(samples)]
    return [f"{kind} {number}, undamaged: {found}" for number, found in enumerate(met) if found[0] != "taken"]


def main(folder, kinds, first, count):
    """Meet the inputs of seeds first, ..., first + count - 1, of one kind after the other; a line of JSON before and after each."""
    say = os.fdopen(os.dup(1), "w")
    noise = open(Path(folder) / "noise", "a+")  # what C libraries print
    os.dup2(noise.fileno(), 1)
    os.dup2(noise.fileno(), 2)
    root = Path(folder).resolve() / "around" / "work"
    root.mkdir(parents=True, exist_ok=True)
    watch = Watch(root)
    stop_at_lungs()
    samples, spoilt = {}, []
    for kind in kinds:
        watch.clear()
        samples[kind] = FORMATS[kind].samples(watch.place)
        spoilt += check_good(watch, kind, samples[kind][:GOOD], noise)
    assert not spoilt, "\n".join(spoilt)
    limit_memory()
    print(json.dumps("ready"), file=say, flush=True)
    for seed in range(first, first + count):
        kind = kinds[seed % len(kinds)]
        print(json.dumps([kind, seed]), file=say, flush=True)
        print(json.dumps(meet(watch, kind, seed, samples[kind], noise)), file=say, flush=True)
        sys.stdin.readline()  # the input lies there until it has been looked at


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2].split(","), int(sys.argv[3]), int(sys.argv[4]))
