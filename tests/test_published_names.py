"""Only three places name a published system or test set: one more of either is one file and edits nothing else."""

import re
from pathlib import Path

PACKAGE = Path(__file__).parents[1] / "src" / "vidtune"
HOMES = ("systems", "recipe/shipped", "evaluation/benchmarks")
SYSTEMS = "video.?llava|video.?panda|artemis|video.?chat.?flash|longvale"
TEST_SETS = "msvd|msrvtt|tgif|activitynet|video.?chatgpt|videoref(?!ormat)|hc.?stvg"
PUBLIC_FACE = ("api", "extending.py")
EXAMPLE = re.compile(r'^ *>>> .*?(?=^ *$|^ *""")', re.MULTILINE | re.DOTALL)
NAMES = re.compile(f"{SYSTEMS}|{TEST_SETS}", re.IGNORECASE)


def text(path: Path) -> str:
    """The text of a module; examples in the docstrings of the public face may name what a user would name."""
    is_public = path.relative_to(PACKAGE).parts[0] in PUBLIC_FACE
    return EXAMPLE.sub("", path.read_text()) if is_public else path.read_text()


def test_published_names_stay_at_home():
    strangers = [
        f"{path.relative_to(PACKAGE)}: {line.strip()}"
        for path in sorted(PACKAGE.rglob("*.py"))
        if not any(path.is_relative_to(PACKAGE / home) for home in HOMES)
        for line in (path.name, *text(path).splitlines())
        if NAMES.search(line)
    ]
    assert strangers == []
