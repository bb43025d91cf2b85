"""Errors for people: one line that names what is wrong and what to do."""


class InputError(Exception):
    """Something the user gave is wrong: one line that names it and the remedy."""


def plural(number: int, name: str) -> str:
    """A number of things in words: 1 scan, 2 scans."""
    return f"{number} {name}" if number == 1 else f"{number} {name}s"
