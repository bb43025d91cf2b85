"""Shared by the tests of readers: where a manifest goes."""

import pytest


@pytest.fixture
def out(tmp_path):
    return tmp_path / "made" / "manifest.csv"
