"""Only three places name a published system or test set: one more of either is one file and edits nothing else."""

import re
from pathlib import Path

PACKAGE = Path(__file__).parents[1] / "src" / "vidtune"
HOMES = ("systems", "recipe/shipped", "evaluation/benchmarks")
SYSTEMS = "video.?llava|video.?panda|artemis|video.?chat.?flash|longvale"
TEST_SETS = "msvd|msrvtt|tgif|activitynet"
NAMES = re.compile(f"{SYSTEMS}|{TEST_SETS}", re.IGNORECASE)


def test_published_names_stay_at_home():
    strangers = [
        f"{path.relative_to(PACKAGE)}:{number}: {line.strip()}"
        for path in sorted(PACKAGE.rglob("*.py"))
        if not any(path.is_relative_to(PACKAGE / home) for home in HOMES)
        for number, line in enumerate([path.name, *path.read_text().splitlines()])
        if NAMES.search(line)
    ]
    assert strangers == []
