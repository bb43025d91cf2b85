"""Where the real nodules are looked for, and what is said when there are none."""

import pytest

from lungadv.evaluation.fusion_real import FOLDER
from lungadv.pipeline.stages import fusion


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The folder of real CT, with the list of nodules."""
    monkeypatch.setenv("LUNGADV_REAL_CT", str(tmp_path))
    (tmp_path / FOLDER).mkdir()
    (tmp_path / FOLDER / "nodules.csv").touch()
    return tmp_path


def test_real_nodules_are_missed_by_name(folder, monkeypatch):
    assert fusion.missing_real_nodules() == ""
    monkeypatch.setattr(fusion, "shipped_folder", lambda: folder)
    assert fusion.missing_real_nodules() == "the package has no shipped weights"
    (folder / FOLDER / "nodules.csv").unlink()
    assert fusion.missing_real_nodules() == "no folder luna16_nodules in LUNGADV_REAL_CT"
