"""Shared by the tests of ingest: a folder of phantoms."""

import pytest

from lungadv.phantom import dataset as phantom_dataset
from lungadv.phantom.dataset import write_phantom


@pytest.fixture(scope="module")
def phantoms(tmp_path_factory):
    """A folder of coarse phantom scans with 4 or more nodules, in LUNA16's layout."""
    folder = tmp_path_factory.mktemp("phantoms") / "luna"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(phantom_dataset, "GRID", {"shape": (64, 80, 96), "spacing": (2.5, 2.5, 2.5)})
        write_phantom(folder, 4, 5)
    return folder
