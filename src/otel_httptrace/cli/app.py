# Commands are imported when they are asked for: `httptrace run` is on the way of
# somebody's program, and has no use for what draws pages.

"""The commands, and how all of them end."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence
from typing import Any, Final

import click

from ..report.printable import printable
from ..report.terminal import Unread, plainer
from ..version import __version__
from .errors import Problem

_COMMANDS: Final = {
    "run": "Run a program and report what its requests did.",
    "report": "Report on spans that were collected before.",
    "probe": "Send a few requests to a server: times, and what it does to connections.",
    "doctor": "Check why there are no spans: the installation and the settings.",
    "demo": "Run a small service that loses its connections, and show the line that does it.",
}


#: What a shell makes of SIGPIPE.
_BROKEN_PIPE: Final = 141


class _Lazy(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        module = importlib.import_module(f".commands.{cmd_name}", __package__)
        command: click.Command = module.command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(_COMMANDS.items()))

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[Any]:
        return [
            click.shell_completion.CompletionItem(name, help=text)
            for name, text in _COMMANDS.items()
            if name.startswith(incomplete)
        ]


@click.group(cls=_Lazy, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="httptrace", message="%(prog)s %(version)s")
@click.pass_context
def group(ctx: click.Context) -> None:
    """What the requests of a Python program did: why a connection was opened, and which line lost the one before.

    \b
      httptrace run -- python app.py       run it, read the verdict
      httptrace run --html page.html -- gunicorn shop:app
      httptrace report traces.jsonl        what a collector wrote
      httptrace probe https://example.com/ what a server does to connections
      httptrace doctor                     no spans?
    """
    if ctx.invoked_subcommand in ("run", "report"):
        from .project import settings  # noqa: PLC0415

        ctx.default_map = {ctx.invoked_subcommand: settings()}


def run(arguments: Sequence[str]) -> int:
    """Run a command; what goes wrong is one line on stderr.

    Returns:
        The exit status.
    """
    try:
        status = group.main(list(arguments), prog_name="httptrace", standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as error:
        _say(error.format_message(), prefix="")
        return 2
    except click.UsageError as error:
        path = error.ctx.command_path if error.ctx is not None else "httptrace"
        _say(f"{printable(error.format_message())} See {path} --help.", prefix=path)
        return 2
    except Unread:
        # Else Python would complain that it cannot flush.
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115
        return _BROKEN_PIPE
    except click.ClickException as error:
        _say(error.format_message())
        return error.status if isinstance(error, Problem) else 2
    except (click.Abort, KeyboardInterrupt):
        return 130
    except OSError as error:
        # Of a stream that is full or gone, for files have messages of their own.
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115
        _say(printable(str(error)))
        return 2
    except Exception as error:
        if os.environ.get("HTTPTRACE_TRACEBACK"):
            raise
        # Not its message: that may quote what must not be shown.
        _say(f"internal error: {type(error).__name__}. Set HTTPTRACE_TRACEBACK=1 to see where")
        return 2
    return status if isinstance(status, int) else 0


def _say(message: str, prefix: str = "httptrace") -> None:
    text = f"{prefix}: {message}" if prefix else message
    click.echo(text.translate(plainer(sys.stderr)), err=True)


__all__ = ["Problem", "group", "run"]
