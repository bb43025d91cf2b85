"""Pages: their security policy, their pictures, whole or not at all."""

import base64
import hashlib
import io
import re

import numpy as np
import pytest
from PIL import Image

from lungadv.utils.html import LARGE_PNG, picture_file, write_page
from tests.web_pages import Elements

CONTENT = {"uid": "a", "notes": [], "findings": [], "numbers": [], "size": (1, 1, 1), "spacing": (1.0, 1.0, 1.0), "resampled": False}
CONTENT |= {"made": dict.fromkeys(("profile", "seed", "data", "commit"))}
CONTENT |= {"data": {"slices": [], "rows": 1, "columns": 1, "size_mm": [1, 1], "windows": {}}}


def test_the_policy_allows_the_pages_own_script_alone_and_no_network(tmp_path):
    write_page(tmp_path / "page.html", "findings.html", "findings.js", **CONTENT)
    page = Elements(tmp_path / "page.html")
    (policy,) = [attributes["content"] for attributes, _ in page.of("meta") if "http-equiv" in attributes]
    (code,) = [text for attributes, text in page.of("script") if "type" not in attributes]
    digest = base64.b64encode(hashlib.sha256(code.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in policy and "default-src 'none'" in policy
    assert re.search(r"img-src data:;", policy) and "connect-src" not in policy


def test_a_page_that_cannot_be_filled_leaves_the_old_one(tmp_path):
    path = tmp_path / "page.html"
    path.write_text("old")
    with pytest.raises(Exception, match="uid"):
        write_page(path, "findings.html", "findings.js", **{key: value for key, value in CONTENT.items() if key != "uid"})
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(("side", "kind"), [(40, "png"), (400, "webp")])
def test_large_pictures_are_made_smaller_and_stay_alike(tmp_path, side, kind):
    pixels = np.random.default_rng(0).integers(0, 255, (side // 4, side, 3), dtype=np.uint8).repeat(4, axis=0)
    if kind == "webp":
        pixels = np.random.default_rng(0).integers(100, 140, (side, side, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    url, size = picture_file(tmp_path / "a.png")
    content = base64.b64decode(url.removeprefix(f"data:image/{kind};base64,"))
    again = np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))
    assert size == (side, side) and np.abs(again.astype(int) - pixels).mean() < (1 if kind == "png" else 15)
    assert len(content) <= LARGE_PNG
