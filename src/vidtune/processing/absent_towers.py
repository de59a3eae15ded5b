"""What to say where files are to be encoded by towers that a model comes without."""

from collections.abc import Mapping


def absent_message(published: Mapping[str, str]) -> str:
    """What is missing, and what to do.

    Args:
        published: by tower, what its weights are published as.
    """
    names = ", ".join(f"{name} (published as {place})" for name, place in published.items())
    options = " ".join(f"--tower {name}=PLACE" for name in published)
    return (
        f"the model comes without its towers: {names}; name their weights with {options} (towers: in a recipe), or "
        "give extracted features"
    )
