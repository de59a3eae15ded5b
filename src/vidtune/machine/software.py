"""Versions of the software that a result can depend on."""

import platform
from functools import cache
from importlib import metadata

PACKAGES = ("torch", "transformers", "tokenizers", "av", "numpy")


def software_versions(own: str) -> dict[str, str]:
    """Returns the versions of this package, of Python, and of the packages that can change a number or a token.

    Args:
        own: version of this package.
    """
    return {"vidtune": own, "python": platform.python_version(), **_installed()}


@cache
def _installed() -> dict[str, str]:
    """Returns the versions of the packages that are installed. Each takes milliseconds to read."""
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions
