"""One self-contained HTML page about one training sample; see `shown_sample`.

The page needs no network, loads nothing and runs no script. Every text from outside is escaped.
"""

import base64
import hashlib
import io
from importlib import resources
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from PIL import Image

from vidtune import __version__
from vidtune.machine.files import write_text_atomically
from vidtune.spelling import counted
from vidtune.training.inspection.shown_sample import ShownSample

TEMPLATE, STYLE = "sample.html", "sample.css"
ROOM = "vidtune.training.inspection"
JPEG_QUALITY = 85
LONGEST_SIDE, LEAST_SIDE = 480, 80
"""Pixels to which the long side of a larger picture is made smaller, and below which its short side then does not get:
an hour of sound is wider than any page.
"""


def write_sample_page(shown: ShownSample, out: Path) -> Path:
    """Write the page of a sample. Returns ``out``."""
    loader = PackageLoader(ROOM)
    environment = Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=StrictUndefined, loader=loader
    )
    style = resources.files(ROOM).joinpath("templates", STYLE).read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode("ascii")
    page = environment.get_template(TEMPLATE).render(
        shown=shown,
        version=__version__,
        style=Markup(style),
        style_hash=f"sha256-{digest}",
        address=picture_address,
        visible=_token_text,
        counted=counted,
    )
    # A name of a file may hold bytes that are no text.
    write_text_atomically(out, page.encode("utf-8", "replace").decode("utf-8"))
    return out


def picture_address(picture: Image.Image) -> str:
    """A picture as a data address, not larger than `LONGEST_SIDE`, in JPEG."""
    if (longest := max(picture.size)) > LONGEST_SIDE:
        width, height = (max(min(side, LEAST_SIDE), round(side * LONGEST_SIDE / longest)) for side in picture.size)
        picture = picture.resize((width, height), Image.Resampling.LANCZOS)
    content = io.BytesIO()
    picture.convert("RGB").save(content, "JPEG", quality=JPEG_QUALITY)
    return "data:image/jpeg;base64," + base64.b64encode(content.getvalue()).decode("ascii")


def _token_text(text: str) -> str:
    """Text of a token in which ends of lines and an empty text can be seen."""
    return text.replace("\n", "↵\n") or "∅"
