"""`smpc-fl plot`: a run's history as a picture."""

from __future__ import annotations

from pathlib import Path

import click


@click.command()
@click.argument("history", type=click.Path(path_type=Path))
@click.option("--output", "-o", type=click.Path(path_type=Path), help="Picture to write, .svg or .png (HISTORY.svg).")
def plot(history: Path, output: Path | None) -> None:
    """Draw the metrics of every round of HISTORY (.jsonl or .parquet, as `smpc-fl run` and Run.save_history write it)."""
    from smpc_fl.nodes.plots import draw_curves
    from smpc_fl.nodes.training_files import read_metrics

    output = output or history.with_suffix(".svg")
    draw_curves(read_metrics(history), output)
    click.echo(f"written: {output}")
