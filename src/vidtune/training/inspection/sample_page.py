"""One self-contained HTML page about one training sample; see `shown_sample`.

The page needs no network, loads nothing and runs no script. Every text from outside is escaped.
"""

import base64
import hashlib
from importlib import resources
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from vidtune import __version__
from vidtune.machine.files import write_text_atomically
from vidtune.processing.shown.picture import picture_address
from vidtune.spelling import counted
from vidtune.training.inspection.shown_sample import ShownSample

TEMPLATE, STYLE = "sample.html", "sample.css"
ROOM = "vidtune.training.inspection"


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


def _token_text(text: str) -> str:
    """Text of a token in which ends of lines and an empty text can be seen."""
    return text.replace("\n", "↵\n") or "∅"
