"""Work spread over processes: ONE pool for all. A killed process becomes one line, and a script needs no main guard."""

import multiprocessing
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import spawn
from multiprocessing.context import SpawnContext, SpawnProcess
from typing import TypeVar

from tqdm import tqdm

from lungadv.utils.errors import InputError

__all__ = ["each_in_processes", "killed", "map_in_processes"]

Job, Made = TypeVar("Job"), TypeVar("Made")
SPAWNING = threading.Lock()


def map_in_processes(function: Callable[[Job], Made], jobs: Sequence[Job], workers: int, doing: str, remedy: str) -> list[Made]:
    """What a function of the package makes of each job, in their order, by `workers` processes of one thread each.

    doing: the words before the bar. remedy: what to do after a process was killed, for the message.
    Raises InputError then, and what `function` raises at once. A process that may start no others does the work itself.
    """
    if not jobs or multiprocessing.current_process().daemon:
        return [function(job) for job in jobs]
    with ProcessPoolExecutor(min(workers, len(jobs)), _Context(), _begin) as pool:
        try:
            futures = [pool.submit(function, job) for job in jobs]
            with tqdm(as_completed(futures), total=len(jobs), desc=doing) as bar:
                for future in bar:
                    future.result()
            return [future.result() for future in futures]
        except BrokenProcessPool:
            raise killed(f"a process ({doing})", remedy) from None
        finally:
            pool.shutdown(cancel_futures=True)


def each_in_processes(function: Callable[[Job], Made], jobs: Sequence[Job], workers: int) -> Iterator[tuple[int, Made | None]]:
    """The number of each job and what a function of the package makes of it, as they are done, by processes of one thread each.

    None for a job whose process was killed. Jobs that may have been at work when one died are done again, each alone: so it costs itself
    only. What `function` raises is raised at once. One worker, or a process that may start no others, works in this process.
    """
    if workers < 2 or multiprocessing.current_process().daemon:
        yield from ((number, function(job)) for number, job in enumerate(jobs))
        return
    left, suspects = dict(enumerate(jobs)), []
    while left:
        numbers = suspects[:1] or list(left)
        with ProcessPoolExecutor(min(workers, len(numbers)), _Context(), _begin) as pool:
            try:
                futures = {pool.submit(function, left[number]): number for number in numbers}
                for future in as_completed(futures):
                    made = future.result()
                    del left[futures[future]]
                    yield futures[future], made
            except BrokenProcessPool:
                if suspects:
                    del left[suspects[0]]
                    yield suspects[0], None
                else:  # the pool hands out one job more than it has processes
                    suspects = [None, *list(left)[: workers + 1]]
            finally:
                pool.shutdown(cancel_futures=True)
        suspects = suspects[1:]


def killed(what: str, remedy: str) -> InputError:
    """The error for a process that ended without a word, as the system ends one when memory runs out."""
    return InputError(f"{what} was killed, most likely because memory ran out: {remedy}")


def _begin():
    """What a process does first. Processes are the parallel ones: threads in each would fight for the cores, and change sums."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    import torch

    torch.set_num_threads(1)


def _end_with_parent():
    """End once the parent is gone: a pool whose parent was killed would wait for jobs for ever, and hold its memory."""
    multiprocessing.parent_process().join()
    signal.raise_signal(signal.SIGKILL)


class _Process(SpawnProcess):
    """A process that is spawned, not forked: a copy of a process in which torch has threads may hang. It runs no script anew."""

    @staticmethod
    def _Popen(process):
        with _without_main():
            return SpawnProcess._Popen(process)


class _Context(SpawnContext):
    """What a pool makes its processes from."""

    Process = _Process


@contextmanager
def _without_main() -> Iterator[None]:
    """Processes that this thread spawns do not run the caller's script.

    They would look there for functions; ours lie in the package. A script without a main guard would call itself without end, and one that
    came from standard input is in no file.
    """
    thread = threading.get_ident()

    def prepared(name):
        data = prepare(name)
        mine = threading.get_ident() == thread
        return {key: value for key, value in data.items() if not (mine and key.startswith("init_main_"))}

    with SPAWNING:
        prepare = spawn.get_preparation_data
        spawn.get_preparation_data = prepared
        try:
            yield
        finally:
            spawn.get_preparation_data = prepare
