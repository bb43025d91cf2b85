"""What is in a page of the package: its elements, read without a browser."""

import json
from html.parser import HTMLParser
from pathlib import Path

HOSTILE = """"'></title></script><script>document.title='hacked'</script><img src=x onerror="document.title='hacked'">{{7*7}}"""


class Elements(HTMLParser):
    """The elements of a page in order, as (name, attributes, text up to the next tag)."""

    def __init__(self, path):
        super().__init__()
        self.found, self.open = [], False
        self.feed(Path(path).read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attributes):
        self.found.append((tag, dict(attributes), []))
        self.open = True

    def handle_endtag(self, tag):
        self.open = False

    def handle_data(self, data):
        if self.open:
            self.found[-1][2].append(data)

    def of(self, *names):
        """Attributes and text of all elements with these names."""
        return [(attributes, "".join(text)) for name, attributes, text in self.found if name in names]


def page_data(path):
    """The JSON that a page carries for its script."""
    (content,) = [text for attributes, text in Elements(path).of("script") if attributes.get("type") == "application/json"]
    return json.loads(content)


def assert_sound(path):
    """A page stands alone and is accessible: no address elsewhere, no handler, one main heading, no level left out, words for pictures."""
    page = Elements(path)
    for name, attributes, _ in page.found:
        assert not [key for key in attributes if key.startswith("on")], (name, attributes)
        for key in ("src", "href"):
            assert attributes.get(key, "#").startswith(("#", "data:")), (name, attributes)
    levels = [int(name[1]) for name, _, _ in page.found if name in ("h1", "h2", "h3", "h4")]
    assert levels.count(1) == 1 and levels[0] == 1
    assert all(after - before <= 1 for before, after in zip(levels, levels[1:], strict=False))
    assert all(len(attributes.get("alt", "")) > 5 for attributes, _ in page.of("img"))
    assert page.of("html")[0][0]["lang"] == "en" and page.of("main")
    ids = [attributes["id"] for _, attributes, _ in page.found if "id" in attributes]
    assert len(ids) == len(set(ids))
    targets = [attributes["href"][1:] for attributes, _ in page.of("a")]
    assert set(targets) <= set(ids)
