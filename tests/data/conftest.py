"""Shared by the tests of data: where a manifest goes."""

import pytest


@pytest.fixture
def out(tmp_path):
    return tmp_path / "made" / "manifest.csv"
