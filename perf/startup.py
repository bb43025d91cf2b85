"""How long the command line and the package take to start, beside Python itself."""

import resource
import statistics
import subprocess
import sys
import time

import typer

COMMANDS = {  # what is started, and the limit in seconds
    "python": ([sys.executable, "-c", "pass"], None),
    "import lungadv": ([sys.executable, "-c", "import lungadv"], 0.3),
    "lungadv --help": ([sys.executable, "-m", "lungadv.cli", "--help"], 0.5),
}


def started(command):
    """Seconds on the clock and of the processor that a command takes from start to end."""
    before, clock = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    clock, after = time.perf_counter() - clock, resource.getrusage(resource.RUSAGE_CHILDREN)
    return clock, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main(rounds: int = 7):
    """Print medians over `rounds`, files in the system's memory after a first start that does not count."""
    print("| start | seconds | processor seconds | limit |\n| --- | --- | --- | --- |")
    for name, (command, limit) in COMMANDS.items():
        started(command)
        clock, processor = (statistics.median(values) for values in zip(*(started(command) for _ in range(rounds)), strict=True))
        print(f"| `{name}` | {clock:.2f} | {processor:.2f} | {limit or ''} |")


if __name__ == "__main__":
    typer.run(main)
