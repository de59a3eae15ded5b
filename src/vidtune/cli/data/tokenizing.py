"""``vidtune data tokenizer``: a small tokenizer of one's own annotations, to train a model from scratch."""

from pathlib import Path
from typing import Annotated

import typer

SUFFIXES = (".yaml", ".yml")


def tokenizer(
    source: Annotated[str, typer.Argument(help="Recipe (its name, or a YAML file), or an annotation file.")],
    out: Annotated[Path, typer.Option(help="New folder of the tokenizer; `tokenizer:` of a recipe names it.")],
    size: Annotated[int, typer.Option(min=300, max=10**6, help="Number of tokens, at most.")] = 4000,
    system: Annotated[
        str | None, typer.Option(help="System whose prompts it has to know; a recipe names it itself.")
    ] = None,
) -> None:
    """Train a tokenizer on annotations and on the prompts of a system, for a model that starts from noise.

    With an annotation file, --system says whose prompts. Media are not needed. A pretrained language model has a
    tokenizer of its own, which goes with it.
    """
    from vidtune.data.sources import DataSource
    from vidtune.data.writing.tokenizer import make_tokenizer
    from vidtune.errors import UserError
    from vidtune.processing.prompts.known import written_texts
    from vidtune.recipe.files import load_recipe
    from vidtune.recipe.shipped import list_recipes
    from vidtune.recipe.types import DataSource as Annotations
    from vidtune.registry import SYSTEMS

    sources: list[DataSource]
    if source in list_recipes() or source.endswith(SUFFIXES):
        recipe = load_recipe(source)
        if system is not None:
            raise UserError(f"--system: {source} says it already ({recipe.system}); leave it out")
        system = recipe.system
        sources = list({one.model_dump_json(): one for stage in recipe.stages for one in stage.data}.values())
    elif system is None:
        raise UserError(f"{source}: name the system whose prompts the tokenizer has to know: --system NAME")
    else:
        sources = [Annotations(annotations=source)]
    texts, special = written_texts(SYSTEMS[system].dialect.prompts.values())
    tokens, conversations = make_tokenizer(sources, out, size, texts=texts, special=special)
    typer.echo(f"{out}: {tokens} tokens, from {conversations} conversations; in a recipe: tokenizer: {out}")
