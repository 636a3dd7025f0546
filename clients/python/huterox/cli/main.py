"""The command `huterox`. Each verb imports what it needs when it runs; a failure is one line on stderr.

Exit status: 0 done; 1 an error, told as `huterox: CODE: message`; 2 wrong usage; 130 interrupted.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version

from huterox.cli import calls, daemons, events, models, observe, operate, services, top, up
from huterox.cli.facts import help_text
from huterox.cli.interrupted import INTERRUPTED, is_of_interrupt
from huterox.cli.parser import Parser, Verbs, add_endpoint
from huterox.cli.render import one_line
from huterox_wire.errors import HuteroxError, ModelError, ResourceInterrupt

_EPILOG = """\
examples:
  huterox up                                      a whole Huterox on this machine, in the foreground
  huterox deploy models/vad.toml                  make a model known
  huterox create who-speaks --model vad           a virtual container of it
  huterox call who-speaks -i audio=@speech.npy    call it: the model is loaded if it is not resident
  huterox ps                                      what runs, where, and why

`huterox VERB --help` tells more about each."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb and return the exit status."""
    argv = sys.argv[1:] if argv is None else list(argv)
    try:
        _tolerate_any_text()
        if argv[:1] == ["bench"]:  # all its options are its own
            return daemons.run_bench(argv[1:])
        if argv[:1] == ["simulate"]:  # likewise
            return daemons.run_simulate(argv[1:])
        arguments = make_parser().parse_args(argv)
        status: int | None = arguments.run(arguments)
        sys.stdout.flush()
        return status or 0
    except KeyboardInterrupt:
        return INTERRUPTED
    except HuteroxError as error:
        if is_of_interrupt(error):
            return INTERRUPTED
        _complain(error)
        return 1
    except BrokenPipeError:
        # Whoever read our output has gone; Python would complain once more when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except OSError as error:
        print(f"huterox: Internal: {one_line(str(error))}", file=sys.stderr)
        return 1


def make_parser() -> argparse.ArgumentParser:
    """The whole command line."""
    parser = Parser(
        prog="huterox",
        description="Many models, many tenants, little memory: serve models as an operating system serves pages.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"huterox {_version()}")
    add_endpoint(parser)
    verbs = Verbs(parser)
    for group in (up, daemons, models, services, calls, observe, events, top, operate):
        group.add(verbs)
    return parser


def _version() -> str:
    try:
        return version("huterox")
    except PackageNotFoundError:
        return "(not installed)"


def _tolerate_any_text() -> None:
    """A terminal that cannot show a character must not end the command."""
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="backslashreplace")


def _complain(error: HuteroxError) -> None:
    code = error.details.get("code", error.code) if type(error) is HuteroxError else error.code
    helps = help_text(error.details) if isinstance(error, ResourceInterrupt) else ""
    print(f"huterox: {code}: {one_line('; '.join(filter(None, (error.message, helps))))}", file=sys.stderr)
    if isinstance(error, ModelError) and (traceback := error.details.get("traceback")):
        print(str(traceback).rstrip(), file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
