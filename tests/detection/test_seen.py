"""What weights have seen is said, and a scan among it is warned of."""

import json

import pytest

from lungadv.detection.report import scan_warnings
from lungadv.detection.seen import SEEN, hash_series, read_seen
from lungadv.utils.errors import InputError


def test_weights_without_a_list_have_seen_the_data_of_their_provenance(weights):
    seen = read_seen(weights)
    assert len(seen.sources) == 1 and "seed" in seen.sources[0] and seen.warnings("1.2.3") == []


def test_a_scan_that_the_weights_have_seen_is_warned_of(weights, scan_of):
    content = {"sources": ["cubes"], "series": {"training": hash_series(["1.2.3", "7"]), "validation": hash_series(["1.2.4"])}}
    (weights / SEEN).write_text(json.dumps(content))
    seen = read_seen(weights)
    assert "trained on this very scan" in seen.warnings("1.2.3")[0] and "chosen by" in seen.warnings("1.2.4")[0]
    assert seen.warnings("1.2.5") == [] and seen.sources == ["cubes"]
    assert any("1.2.3" in line for line in scan_warnings(scan_of(60), weights))
    assert "1.2.3" not in (weights / SEEN).read_text()  # hashes alone


@pytest.mark.parametrize("content", ['{"sources": 1, "series": {}}', '{"series": {}}', '{"sources": [], "series": {"other": []}}', "[]"])
def test_a_list_of_another_form_is_refused(weights, content):
    (weights / SEEN).write_text(content)
    with pytest.raises(InputError, match="seen.json"):
        read_seen(weights)
