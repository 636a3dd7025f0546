"""How every verb of the command is declared: its options, its help with examples, its function."""

import argparse
from collections.abc import Callable
from typing import NoReturn

Run = Callable[[argparse.Namespace], int | None]


class Parser(argparse.ArgumentParser):
    """An ArgumentParser whose complaints are one line, like every other failure of the command."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"huterox: InvalidInput: {message} (see `{self.prog} --help`)\n")


class Verbs:
    """Collects the verbs of the command."""

    def __init__(self, parser: argparse.ArgumentParser) -> None:
        self._subparsers = parser.add_subparsers(metavar="VERB", dest="verb", required=True, parser_class=Parser)

    def add(self, name: str, run: Run, *, help: str, examples: str = "", about: str = "") -> argparse.ArgumentParser:
        """A verb that needs no switchboard."""
        parser = self._subparsers.add_parser(
            name,
            help=help,
            description=about or help[0].upper() + help[1:] + ".",
            epilog=_examples(examples),
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        parser.set_defaults(run=run)
        return parser

    def add_client(
        self,
        name: str,
        run: Run,
        *,
        help: str,
        examples: str = "",
        about: str = "",
        tenant: bool | str = False,
        wide: bool = False,
    ) -> argparse.ArgumentParser:
        """A verb that asks the switchboard.

        Args:
            tenant: whether it has a tenant; or what that one is for, where it is not on whose behalf this is asked.
            wide: it has more columns than it shows unasked.
        """
        parser = self.add(name, run, help=help, examples=examples, about=about)
        options = parser.add_argument_group("options of every verb that asks the switchboard")
        add_endpoint(options)
        options.add_argument(
            "--timeout", type=float, default=60.0, metavar="S", help="give up after S seconds (default: 60)"
        )
        outputs = ("text", "wide", "json") if wide else ("text", "json")
        about_output = "wide: all columns; json: one JSON document" if wide else "json: one JSON document"
        options.add_argument("-o", "--output", choices=outputs, default="text", help=about_output)
        if tenant:
            about_tenant = tenant if isinstance(tenant, str) else 'on whose behalf (default: the tenant "default")'
            options.add_argument("--tenant", metavar="T", help=about_tenant)
        return parser


def add_endpoint(parser: "argparse.ArgumentParser | argparse._ArgumentGroup") -> None:
    """`--endpoint` may stand before the verb and after it."""
    parser.add_argument(
        "--endpoint",
        metavar="E",
        default=argparse.SUPPRESS,
        help="the switchboard, e.g. ipc:///DIR/switchboard.ipc (default: HUTEROX_ENDPOINT, else that of `huterox up`)",
    )


def _examples(text: str) -> str | None:
    lines = [line.strip() for line in text.strip().splitlines()]
    return "examples:\n" + "\n".join(f"  {line}" for line in lines) if lines else None
