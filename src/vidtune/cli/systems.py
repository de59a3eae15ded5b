"""``vidtune systems``: the published systems that can be built, trained and loaded."""

import typer


def systems() -> None:
    """List the systems with their papers, prompt formats and checkpoint formats."""
    from vidtune.registry import SYSTEMS

    for _, system in SYSTEMS.usable():
        typer.echo(f"{system.name}: {system.title}, {system.paper}, {system.repository}")
        typer.echo(
            f"  prompts      {', '.join(system.dialect.prompts)} (trained with {system.dialect.training_prompt})"
        )
        typer.echo(f"  checkpoints  {', '.join(['vidtune', *(form.name for form in system.publication.formats)])}")
