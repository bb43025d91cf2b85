"""Web pages in one file: a template filled with escaped values, pictures inside, no network, no script but its own."""

import base64
import hashlib
import io
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

from lungadv.utils.files import atomic_write

if TYPE_CHECKING:
    from jinja2 import Environment
    from PIL.Image import Image

__all__ = ["picture_file", "picture_url", "write_page"]

LARGE_PNG = 300_000  # bytes; a larger one is a photograph rather than a drawing, and WebP takes a fifth of it
WEBP_QUALITY = 88


def write_page(path: str | Path, template: str, script: str | None = None, **values: object) -> None:
    """Fill a template of `lungadv/templates` and write the page, whole or not at all.

    Values are escaped. The page's security policy forbids the network, and any script but the named one.
    """
    code = _text(script) if script else ""
    digest = base64.b64encode(hashlib.sha256(code.encode()).digest()).decode()
    page = _environment().get_template(template)
    with atomic_write(path) as temporary:
        temporary.write_text(
            page.render(style=_text("style.css"), script=code, script_hash=f"sha256-{digest}", **values), encoding="utf-8"
        )


@cache
def _environment() -> "Environment":
    from jinja2 import Environment, PackageLoader, StrictUndefined

    return Environment(
        loader=PackageLoader("lungadv", "templates"), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )


def _text(name):
    return (files("lungadv") / "templates" / name).read_text(encoding="utf-8")


def picture_url(image: "Image", kind: str, **options: object) -> str:
    """A Pillow image as a data: URL. kind: JPEG or WEBP; options: Pillow's for that kind."""
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return _data_url(buffer.getvalue(), kind.lower())


def picture_file(path: str | Path) -> tuple[str, tuple[int, int]]:
    """A PNG file as a data: URL, and its width and height in pixels; a large one becomes WebP.

    Raises UnidentifiedImageError, an OSError, for a file that is no picture.
    """
    from PIL import Image

    content = Path(path).read_bytes()
    with Image.open(io.BytesIO(content)) as image:
        image.load()  # a file that is cut short is found here
        if len(content) > LARGE_PNG:
            return picture_url(image.convert("RGB"), "WEBP", quality=WEBP_QUALITY), image.size
        return _data_url(content, "png"), image.size


def _data_url(content, kind):
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"
