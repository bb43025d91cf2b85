"""Counts beside those of the data-set cards, in good grammar."""

import json
import re

import pytest

from lungadv.data.ingest import report
from lungadv.utils.files import repo_root
from tests.data.ingest.folders import luna16, take


def test_the_cards_counts_are_held_against_what_was_taken(tmp_path, out, monkeypatch):
    src = luna16(tmp_path / "luna", 3)
    assert take(src, "luna16", out)["expected"][0].startswith("luna16.json: scans 3 instead of 888, nodules 3 instead of 1186")
    (tmp_path / "data_manifests").mkdir()
    card = {"expected": {"scans": 3, "nodules": 3, "scans_with_nodules": 3, "of_another_kind": 5}}
    (tmp_path / "data_manifests" / "luna16.json").write_text(json.dumps(card))
    monkeypatch.setattr(report, "repo_root", lambda: tmp_path)
    assert take(src, "luna16", out)["expected"] == ["luna16.json: all its counts are met (3 scans, 3 nodules, 3 scans with nodules)."]


def test_one_of_a_thing_is_not_many(tmp_path, out):
    said = " ".join(take(luna16(tmp_path / "luna", 1), "luna16", out)["left_out"])
    assert "No nodule of 6 mm or more is in 'validation', 'in-house', 'nlst': a run needs one in each" in said
    assert "1 of 1 nodule:" in said and "1 of 1 scan with nodules:" in said and not re.search(r"\b1 (scans|nodules)", said)


@pytest.mark.parametrize("name", ["luna16", "lidc_idri", "nlst"])
def test_data_set_cards_say_where_from_and_on_what_terms(name):
    card = json.loads((repo_root() / "data_manifests" / f"{name}.json").read_text())
    assert all(card[key] for key in ("title", "origin", "reference", "licence", "get", "expected")) and card["doi"][0].startswith("10.")
