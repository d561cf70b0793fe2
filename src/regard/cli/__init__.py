"""The command `regard`: one file a verb. What a verb needs is imported when it runs, so that help costs nothing."""

from __future__ import annotations

import os
import sys

import typer

from regard.cli import attention, chat, data, evaluate, models, quantize, run, show, train

app = typer.Typer(
    name="regard",
    help="The Transformer, whole: load any real checkpoint, run every task, look inside.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
for verb in (run, chat, train, evaluate, data, show, models, quantize, attention):
    verb.register(app)


def _version(wanted: bool) -> None:
    if wanted:
        from regard import __version__

        typer.echo(f"regard {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: bool = typer.Option(False, "--version", callback=_version, is_eager=True, help="Print the version."),
) -> None:
    pass


def main() -> None:
    """Run the command; a user's mistake is one line on standard error and exit status 2."""
    try:
        app()
    except (ValueError, ImportError, OSError) as error:
        if isinstance(error, BrokenPipeError):  # the reader of our output went away: nothing to report
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            sys.exit(141)
        if os.environ.get("REGARD_DEBUG"):
            raise
        print(f"regard: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)
