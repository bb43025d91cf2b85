"""What weights have seen: the data that they were trained on, and whether a scan is among it.

A folder of weights may hold seen.json: `sources`, sentences; `series`, of "training" and "validation" the hashes of series uids. Hashes,
because a list of a data set's series belongs to that data set.
"""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from lungadv.detection.weights import read_provenance
from lungadv.utils.errors import InputError
from lungadv.utils.files import read_json

__all__ = ["SEEN", "hash_series", "read_seen"]

SEEN = "seen.json"  # in a folder of weights
PARTS = {"training": "trained on", "validation": "chosen by"}  # and what a scan of each part was to the weights
DIGITS = 16  # of a hash, hexadecimal


@dataclass(frozen=True)
class Seen:
    """What weights have seen: sentences, and the hashes of series of each of PARTS."""

    sources: list[str]
    series: dict[str, list[str]] = field(default_factory=dict)

    def warnings(self, uid: str) -> list[str]:
        """What to tell the reader of findings in the scan of a series uid; empty when the weights have not seen it."""
        return [
            f"the weights were {PARTS[part]} this very scan (series {uid}): findings in it say nothing of how they do on others"
            for part, hashes in self.series.items()
            if _series_hash(uid) in hashes
        ]


def _series_hash(uid: str) -> str:
    """The hash of a series uid that stands for it in seen.json."""
    return hashlib.sha256(uid.encode()).hexdigest()[:DIGITS]


def hash_series(uids: Iterable[str]) -> list[str]:
    """The hashes of series uids, each once, sorted, so that nothing follows from their order."""
    return sorted({_series_hash(uid) for uid in uids})


def read_seen(folder: str | Path) -> Seen:
    """What the weights in a folder have seen; without seen.json that is the data of their provenance alone.

    Raises InputError as `read_provenance` does, and for a seen.json of another form.
    """
    path = Path(folder) / SEEN
    if not path.exists():
        made = read_provenance(folder)[1]
        data = "simulated chests" if made.get("data") == "phantom" else f"the data set {made.get('data')}"
        return Seen([f"{data} alone (profile {made['profile']}, seed {made['seed']})"])
    known = read_json(path)
    sources, series = known.get("sources"), known.get("series")
    texts = isinstance(sources, list) and isinstance(series, dict) and set(series) <= set(PARTS)
    if not texts or not all(isinstance(text, str) for text in sources) or not all(isinstance(part, list) for part in series.values()):
        raise InputError(f"'{path}' does not say what the weights have seen: bring back the file as it was shipped")
    return Seen(sources, series)
