"""``vidtune data``: the commands about training data."""

import typer

from vidtune.cli.data.checking import check
from vidtune.cli.data.converting import convert
from vidtune.cli.data.counting import stats
from vidtune.cli.data.extracting import frames
from vidtune.cli.data.showing import show
from vidtune.cli.data.tokenizing import tokenizer

HELP = "Check and convert training data, look at a sample, count what there is; extract frames, make a tokenizer."

data = typer.Typer(help=HELP, no_args_is_help=True, rich_markup_mode=None)


@data.callback(help=HELP)
def group() -> None:
    """Keeps the commands in a group."""


for command in (check, show, stats, convert, frames, tokenizer):
    data.command()(command)
