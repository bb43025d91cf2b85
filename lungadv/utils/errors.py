"""Errors for people: one line that names what is wrong and what to do."""

import codecs
import re
from pathlib import Path

__all__ = ["InputError", "check_name", "has_control", "one_line", "plural", "printable"]

SHOWN = "lungadv.shown"  # what to do with letters that cannot be written, for `str.encode` and for streams


class InputError(Exception):
    """Something the user gave is wrong: one line that names it and the remedy."""

    def __init__(self, message: str):
        super().__init__(printable(message))


def plural(number: int, name: str) -> str:
    """A number of things in words: 1 scan, 2 scans."""
    return f"{number} {name}" if number == 1 else f"{number} {name}s"


def printable(text: str) -> str:
    """A text that can be written anywhere: what of a file's name is not UTF-8 becomes its bytes, such as \\xe9.

    Python keeps such bytes as half letters, which neither a table nor a terminal takes.
    """
    return str(text).encode("utf-8", SHOWN).decode("utf-8")


def one_line(error: Exception, longest: int = 1000) -> str:
    """An error's text as a line of bounded length: libraries quote whole files."""
    text = " ".join(str(error).split())
    return text if len(text) <= longest else f"{text[:longest]}..."


def has_control(name: str) -> bool:
    """Whether a name holds a line break or another control character, which would break a table's lines and fool a terminal."""
    return re.search(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]", name) is not None


def check_name(path: str | Path, what: str) -> None:
    """Raise InputError when a path has bytes that are not UTF-8: tables, and programs behind this one, could not name it."""
    if printable(path) != str(path):
        raise InputError(f"{what} '{path}': its name is not UTF-8 text: rename it, or the folder that is named so")


def _show(error):
    """The bytes in place of half letters; other letters as in Python."""
    letters = error.object[error.start : error.end]
    shown = (f"\\x{ord(letter) - 0xDC00:02x}" if 0xDC80 <= ord(letter) <= 0xDCFF else ascii(letter)[1:-1] for letter in letters)
    return "".join(shown), error.end


codecs.register_error(SHOWN, _show)
