"""``vidtune systems``: the published systems that can be built, trained and loaded."""

import typer


def systems() -> None:
    """List the systems with their papers, prompt formats and checkpoint formats."""
    from vidtune.systems import get_system, list_systems

    for name in list_systems():
        system = get_system(name)
        typer.echo(f"{system.name}: {system.title}, {system.paper}, {system.repository}")
        typer.echo(f"  prompts      {', '.join(system.prompts)} (trained with {system.training_prompt})")
        typer.echo(f"  checkpoints  vidtune, {', '.join(form.name for form in system.formats)}")
