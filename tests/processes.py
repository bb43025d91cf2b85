"""Handing things from one process to another, as a pool of processes does. Nothing that comes from elsewhere goes this way."""

from multiprocessing import Pipe


def hand_over(thing: object) -> tuple[object, int]:
    """What arrives at the other end of a pipe, and how many bytes went through it; they must fit into the pipe."""
    here, there = Pipe()
    with here, there:
        here.send(thing)
        size = len(there.recv_bytes())
        here.send(thing)
        return there.recv(), size
