"""`smpc-fl`: the root of the command line. Subcommands are imported when they are used, so that help is quick.

An `SmpcError` ends a command with one readable line and exit code 2; `--traceback` shows where it came from.
"""

from __future__ import annotations

import importlib
import sys
from typing import Any, NamedTuple

import click

INTRODUCTION = """Secure multi-party federated learning: data stays with its owners, and only the weighted sum over all
of them ever comes together.

\b
Just look:     smpc-fl demo
On your own:   smpc-fl keygen, roster, init        make keys, list the members, write configs
               smpc-fl datasets add                publish a dataset on an owner's node
               smpc-fl owner|aggregator|coordinator --config FILE.toml
               smpc-fl run JOB.toml                train, or take a secure mean
               smpc-fl simulate JOB.toml           the same training over thousands of owners, in one process
               smpc-fl requests approve            the owners' yes, without which nothing runs

Every command has --help; every command that takes a config has --check.
"""


class Entry(NamedTuple):
    """Where a subcommand lives, and its line in the help text."""

    section: str
    module: str
    attribute: str
    help: str


TRY, SET_UP, RUN, USE, OWN = (
    "Try it",
    "Set up a federation",
    "Run its nodes",
    "Compute with it (researchers)",
    "Decide what runs (data owners)",
)

COMMANDS = {
    "demo": Entry(TRY, "smpc_fl.nodes.cli.nodes", "demo", "Four hospitals train one model, on this machine."),
    "keygen": Entry(SET_UP, "smpc_fl.nodes.cli.members", "keygen", "Make a node's key, or the federation key."),
    "roster": Entry(SET_UP, "smpc_fl.nodes.cli.roster", "roster", "List the members, sign the list, accept it."),
    "enrol": Entry(SET_UP, "smpc_fl.nodes.cli.enrolment", "enrol", "Ask to become a member, with a token."),
    "rotate": Entry(SET_UP, "smpc_fl.nodes.cli.rotation", "rotate", "Replace a node's key by a new one."),
    "ckks-keygen": Entry(
        SET_UP, "smpc_fl.nodes.cli.encryption", "ckks_keygen", "Make the owners' common key for encrypted updates."
    ),
    "certificate": Entry(SET_UP, "smpc_fl.nodes.cli.members", "certificate", "Make a CA and certificates for wss://."),
    "init": Entry(SET_UP, "smpc_fl.nodes.cli.init", "init", "Write a commented config for a role."),
    "owner": Entry(RUN, "smpc_fl.nodes.cli.nodes", "owner", "Run a data owner's node."),
    "aggregator": Entry(RUN, "smpc_fl.nodes.cli.nodes", "aggregator", "Run an aggregator."),
    "coordinator": Entry(RUN, "smpc_fl.nodes.cli.nodes", "coordinator", "Run the coordinator."),
    "provider": Entry(RUN, "smpc_fl.nodes.cli.nodes", "provider", "Run a crypto provider, for shared tensors."),
    "backup": Entry(RUN, "smpc_fl.nodes.cli.backup", "backup", "Copy what a node must not lose."),
    "restore": Entry(RUN, "smpc_fl.nodes.cli.backup", "restore", "Put such a copy in a lost home's place."),
    "up": Entry(RUN, "smpc_fl.nodes.cli.nodes", "up", "Run all nodes on this machine, until Ctrl-C."),
    "run": Entry(USE, "smpc_fl.nodes.cli.nodes", "run", "Run the secure rounds of a job file."),
    "simulate": Entry(
        USE, "smpc_fl.nodes.cli.simulate", "simulate", "Train a job's model over thousands of simulated owners."
    ),
    "plot": Entry(USE, "smpc_fl.nodes.cli.plot", "plot", "Draw the history of a run."),
    "status": Entry(USE, "smpc_fl.nodes.cli.nodes", "status", "Show members, runs and traffic."),
    "datasets": Entry(OWN, "smpc_fl.nodes.cli.owner", "datasets", "Publish datasets, with a mock for researchers."),
    "models": Entry(OWN, "smpc_fl.nodes.cli.models", "models", "Models of your own, from runs of training."),
    "requests": Entry(OWN, "smpc_fl.nodes.cli.owner", "requests", "List, show, approve or reject requests."),
}


class Root(click.Group):
    """A group that knows its commands' names and help lines without importing them."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        entry = COMMANDS.get(cmd_name)
        if entry is None:
            return None
        command = getattr(importlib.import_module(entry.module), entry.attribute)
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        for section in dict.fromkeys(entry.section for entry in COMMANDS.values()):
            rows = [(name, entry.help) for name, entry in COMMANDS.items() if entry.section == section]
            with formatter.section(section):
                formatter.write_dl(rows)

    def invoke(self, ctx: click.Context) -> Any:
        from smpc_fl.errors import InternalError, SmpcError
        from smpc_fl.nodes.hardening import harden

        harden()  # most commands load a key, or data
        try:
            return super().invoke(ctx)
        except SmpcError as error:
            if ctx.params.get("traceback"):
                raise
            click.echo(f"smpc-fl: {error.code}: {error}", err=True)
            if isinstance(error, InternalError):
                click.echo("This is a bug in smpc-fl: please report it, with what `--traceback` shows.", err=True)
            ctx.exit(2)
        except UnicodeEncodeError:  # what Python makes of such bytes cannot be written down
            click.echo(
                "smpc-fl: BadInput: what was typed, or a file's name, holds bytes that are no text in UTF-8", err=True
            )
            ctx.exit(2)


def _version(ctx: click.Context, option: click.Parameter, wanted: bool) -> None:
    if wanted and not ctx.resilient_parsing:
        from importlib.metadata import version

        click.echo(f"smpc-fl {version('smpc-fl')}, Python {sys.version.split()[0]}")
        ctx.exit()


@click.group(
    cls=Root, help=INTRODUCTION, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100}
)
@click.option("--traceback", is_flag=True, help="Show where an error came from.")
@click.option("--version", is_flag=True, is_eager=True, expose_value=False, callback=_version, help="Show the version.")
def main(traceback: bool) -> None:
    """Replaced by INTRODUCTION in the help text."""
