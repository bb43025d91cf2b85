"""Whether a command's outputs can be written, asked before its long work begins."""

import tempfile
from collections.abc import Iterable
from pathlib import Path

from lungadv.utils.errors import InputError

__all__ = ["check_folder", "check_outputs"]


def check_outputs(outputs: dict[str | tuple[str, ...], Path | None], inputs: Iterable[Path | None] = ()) -> None:
    """Raise InputError when a file of {ending or endings: path or None} cannot be written, or what it would replace is no such output.

    That is: an input, another output, a folder, or a file with another ending. A picture's name always needs the ending.
    """
    taken = dict.fromkeys([path.resolve() for path in inputs if path], "is an input")
    for ending, path in outputs.items():
        if path is None:
            continue
        if path.absolute().parent.is_file():
            raise InputError(f"'{path.parent}' is a file, not a folder: name the output elsewhere")
        if not path.absolute().parent.is_dir():
            raise InputError(f"folder '{path.parent}' does not exist: make it first")
        if path.resolve() in taken:
            raise InputError(f"'{path}' {taken[path.resolve()]}: give each output a name of its own")
        if path.is_dir():
            raise InputError(f"'{path}' is a folder: name a file in it")
        if path.exists() and not path.name.lower().endswith(ending):
            raise InputError(f"'{path}' is there and is no {ending} file: give the output a name that ends in {ending}")
        if ending == ".png" and path.suffix.lower() != ending:
            raise InputError(f"'{path}' does not end in {ending}, but a PNG is what is drawn: name it so")
        try:
            tempfile.TemporaryFile(dir=path.absolute().parent).close()
        except OSError as error:
            raise InputError(f"'{path}' cannot be written ({error.strerror}): name a file in another folder") from None
        taken[path.resolve()] = "is named twice"


def check_folder(out: Path) -> None:
    """Raise InputError when `out` is no folder and cannot become one, or nothing can be written there."""
    there = next(folder for folder in (out.absolute(), *out.absolute().parents) if folder.exists())
    if not there.is_dir():
        raise InputError(f"'{there}' is a file: name a folder for the output")
    try:
        tempfile.TemporaryFile(dir=there).close()
    except OSError as error:
        raise InputError(f"nothing can be written into '{there}' ({error.strerror}): name another folder") from None
