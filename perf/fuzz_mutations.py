"""Damage to files, drawn from a seeded generator: bytes, words and lines; JSON; DICOM attributes; members of zips; npz; safetensors."""

import io
import json
import pickle
import re
import struct
import zipfile
from pathlib import Path

import numpy as np

WORDS = [
    b"0", b"-1", b"1", b"3", b"1e999", b"-1e300", b"1e-320", b"nan", b"inf", b"", b"9" * 400, b"2147483648", b"18446744073709551616",
    b"4096", b"..", b"../x", b"/etc/passwd", b"=cmd|' /C calc'!A0", b"\0", b"\n", b"\r\n", b"\xff\xfe", "\u0663".encode(), b"%s%n",
    b"LIST", b"LOCAL", b"(", b"=", b":", b",", b"\t", b";", b'"', b"<", b"<a>" * 9, b"&x;", b'<!DOCTYPE l [<!ENTITY x "y">]>',
    b"{", b"[" * 3000, b"null", b"true", b"1.3E+55", b"a" * 200_000,
]  # fmt: skip
VALUES = [
    None, True, -1, 0, 1, 10**400, 1e308, -0.0, float("nan"), float("inf"), "", "x", "../x", "/etc/passwd", "=1+1", "\n", "\0", "\ud800",
    "1.2.3", [], {}, [[]], [None], {"a": None}, ["a"] * 3, [1, 2, 3], "9" * 5000,
]  # fmt: skip


class Touch:
    """A pickle that makes a file when it is loaded: it must never be."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return open, (self.path, "w")


def damage(rng, content, head=None):
    """The bytes with one to four edits; half of the time only within the first `head` of them."""
    end = head if head and rng.random() < 0.7 else len(content)
    start, rest = content[:end], content[end:]
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        start = rng.choice(EDITS)(rng, start)
    return start + rest


def _flip(rng, content):
    at = rng.randrange(len(content) + 1)
    return content[:at] + rng.randbytes(rng.choice((1, 1, 2, 4, 8))) + content[at + 1 :]


def _cut(rng, content):
    at = rng.randrange(len(content) + 1)
    return content[:at] + content[at + rng.choice((1, 2, 8, 100, 10**9)) :]


def _repeat(rng, content):
    at = rng.randrange(len(content) + 1)
    piece = content[at : at + rng.choice((1, 8, 100))]
    return content[:at] + piece * rng.choice((2, 3, 500)) + content[at + len(piece) :]


def _word(rng, content):
    found = list(re.finditer(rb"[^\s,:=<>()\"]+", content[:100_000])) or [re.match(b"", content)]
    start, end = rng.choice(found).span()
    return content[:start] + rng.choice(WORDS) + content[end:]


def _number(rng, content):
    found = list(re.finditer(rb"-?\d+\.?\d*", content[:100_000]))
    if not found:
        return _flip(rng, content)
    match = rng.choice(found)
    value = float(match[0]) if len(match[0]) < 300 else 0
    changed = rng.choice((-value, value + 1, value - 1, value * 10, value / 3, value * 1e6))
    return content[: match.start()] + f"{changed:.10g}".encode() + content[match.end() :]


def _line(rng, content):
    lines = content.split(b"\n")
    at, other = rng.randrange(len(lines)), rng.randrange(len(lines))
    lines[at : at + 1] = rng.choice(([], [lines[other]], [lines[at], lines[at]], [rng.choice(WORDS)], [lines[at], rng.choice(WORDS)]))
    return b"\n".join(lines)


EDITS = (_flip, _flip, _cut, _repeat, _word, _word, _number, _number, _line)


def damage_json(rng, content):
    """A JSON file with another value or key somewhere, or damaged as bytes."""
    if rng.random() < 0.3:
        return damage(rng, content)
    root = {"": json.loads(content)}
    places = list(_places(root))
    holder, key = rng.choice(places)
    if isinstance(holder, dict) and rng.random() < 0.25:
        del holder[key]
    elif rng.random() < 0.05:
        return content.replace(b"{", b'{"a":' * 5000 + b"{", 1)
    else:
        holder[key] = rng.choice(VALUES)
    return json.dumps(root.get("", None)).encode()


def _places(value):
    """Every (holder, key) below a value of JSON."""
    for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
        yield value, key
        if isinstance(inner, dict | list):
            yield from _places(inner)


def damage_dicom(rng, content):
    """A DICOM file with another value of one attribute, or damaged as bytes."""
    import pydicom

    if rng.random() < 0.6:
        return damage(rng, content, 2000)
    dataset = pydicom.dcmread(io.BytesIO(content))
    element = dataset[rng.choice([tag for tag in dataset.keys() if tag != 0x7FE00010])]
    buffer = io.BytesIO()
    try:
        element.value = rng.choice((*VALUES, "1\\2", "1\\2\\3", "CT", 7, 512, 65535, b"\xff\xff"))
        dataset.save_as(buffer)
    except Exception:  # pydicom does not write every value
        return damage(rng, content, 2000)
    return buffer.getvalue()


def damage_zip(rng, content):
    """A zip with another name, kind or content of a member, or damaged as bytes."""
    if rng.random() < 0.4:
        return damage(rng, content)
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(buffer, "w") as new:
        members = old.infolist()
        chosen = rng.choice(members)
        for member in members:
            data = old.read(member)
            info = zipfile.ZipInfo(member.filename)
            info.compress_type = member.compress_type
            if member is chosen:
                name = f"a/{member.filename}"
                names = (name, f"../{name}", f"/{name}", f"..\\{name}", f"a\\{name}", "x" * 300, "\0", "\xe9" + name, "")
                info.filename = rng.choice(names)
                info.external_attr = rng.choice((0, 0, 0o120777 << 16, 0o10644 << 16))
                info.compress_type = rng.choice((0, 8, 12, 14))
                data = rng.choice((data, damage(rng, data), b"../../outside"))
            new.writestr(info, data)
    return buffer.getvalue()


def damage_npz(rng, content, trap):
    """An npz with another header, type, shape or value of an array; pickles in it would make the file `trap`."""
    if rng.random() < 0.3:
        return damage(rng, content)
    with zipfile.ZipFile(io.BytesIO(content)) as old:
        members = {name: old.read(name) for name in old.namelist()}
    name = rng.choice(list(members))
    members[name] = rng.choice((_other_header, _other_array, lambda *_: pickle.dumps(Touch(trap)), _pickled))(rng, members[name], trap)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", rng.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))) as new:
        for name, data in members.items():
            new.writestr(name, data)
    return buffer.getvalue()


def _other_header(rng, content, trap):
    """An .npy whose header is damaged: of equal length, so that it is still found."""
    length = struct.unpack_from("<H", content, 8)[0]
    header = damage(rng, content[10 : 10 + length])
    return content[:8] + struct.pack("<H", min(len(header), 65535)) + header + content[10 + length :]


def _other_array(rng, content, trap):
    """An .npy of another type or shape, or with values that are not finite."""
    array = np.load(io.BytesIO(content))
    shapes = [(), (0,), (1, 1), (0, 1, 8, 8, 8), (1, 2, 8, 8, 8), (1, 1, 0, 8, 8), (1, 1, 1, 1, 1), (2, 1, 7, 5, 3)]
    kinds = ["f8", "f2", "i2", "u1", "?", "c8", "U3", "S2", "M8[s]", ">f4"]
    made = rng.choice((
        lambda: np.zeros(rng.choice(shapes), np.float32),
        lambda: array.astype(rng.choice(kinds)),
        lambda: np.where(np.arange(array.size).reshape(array.shape) == 5, rng.choice((np.nan, np.inf, -1, 1e30)), array),
    ))()  # fmt: skip
    buffer = io.BytesIO()
    np.save(buffer, made)
    return buffer.getvalue()


def _pickled(rng, content, trap):
    """An .npy of Python objects."""
    buffer = io.BytesIO()
    np.save(buffer, np.array([Touch(Path(trap))], dtype=object), allow_pickle=True)
    return buffer.getvalue()


def damage_safetensors(rng, content):
    """A safetensors file with another header or length of it, or damaged as bytes."""
    length = struct.unpack_from("<Q", content)[0]
    kind = rng.random()
    if kind < 0.3:
        return damage(rng, content, length + 8)
    if kind < 0.5:
        return struct.pack("<Q", rng.choice((0, 1, length - 1, length + 1, 2**31, 2**63, 2**64 - 1))) + content[8:]
    if kind < 0.7:  # values that are no weights
        at = 8 + length + 4 * rng.randrange((len(content) - 8 - length) // 4)
        return content[:at] + struct.pack("<f", rng.choice((np.nan, np.inf, -1e38, 1e30))) + content[at + 4 :]
    header = damage_json(rng, content[8 : 8 + length])
    return struct.pack("<Q", len(header)) + header + content[8 + length :]
