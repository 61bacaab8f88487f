"""The commands: `saga demo`, `saga copy`, `saga schedules`, `saga db`, `saga backends`.

Exit codes: 0 all is well, 1 the answer is no (a migration is pending, some sagas were not
copied, the demo did not go as it should), 2 it could not be done, with one line that says why,
130 interrupted.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Annotated, Any, TypeVar

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from saga_console.demo import run_demo
from saga_console.move import Move, run_move
from saga_console.schedules import show_schedules
from saga_core.errors import SagaError, StoreUrlError
from saga_core.hookspecs import SchemaStatus
from saga_core.plugins import available_backends, resolve_store

__all__ = ["app"]

T = TypeVar("T")

app = typer.Typer(
    name="saga",
    help="Sagas that always end.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,  # its tracebacks show locals, and so passwords
)
db = typer.Typer(help="Look after the schema of a store.", no_args_is_help=True)
app.add_typer(db, name="db")

console = Console(highlight=False)
errors = Console(stderr=True, highlight=False)

Url = Annotated[str, typer.Argument(help="Store URL, such as postgresql://user@host/database")]
Options = Annotated[
    list[str] | None,
    typer.Option("--option", "-o", help="An option of the backend, key=value; repeatable."),
]


@app.command()
def backends() -> None:
    """List the stores that can be used here."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("scheme", "from", "what it is"):
        table.add_column(column, overflow="fold")
    problems = []
    for info in available_backends().values():
        can = ", ".join(sorted(info.capabilities))
        what = escape(f"{info.summary} ({can})" if can else str(info.summary))
        if info.problem is not None:
            problems.append(info.problem)
            what = "[yellow]not usable, see below[/]"
        table.add_row(info.name, escape(f"{info.distribution} {info.version}"), what)
    console.print(table)
    for problem in problems:  # in one piece each, so that the pip line can be copied
        console.print(f"\n[yellow]![/] {escape(problem)}", soft_wrap=True)


@db.command()
def status(url: Url, option: Options = None) -> None:
    """Tell whether migrations are pending; exit 1 if so. Changes nothing."""
    if _run(_schema("status", url, option)):
        raise typer.Exit(1)


@db.command()
def upgrade(url: Url, option: Options = None) -> None:
    """Run the pending migrations, once, whoever else tries."""
    _run(_schema("upgrade", url, option))


@app.command()
def schedules(url: Url, option: Options = None) -> None:
    """List the schedules in a store, and when each is due next. Changes nothing."""
    options = _options(option, "-o")
    _run(show_schedules(console, url, options))


@app.command()
def demo(
    url: Annotated[
        str | None,
        typer.Option(help="Run it on this store instead of SQLite in a temporary file."),
    ] = None,
    keep: Annotated[bool, typer.Option("--keep", help="Leave the sagas in the store.")] = False,
) -> None:
    """Show an order saga that completes, one that is rolled back, one whose worker is killed."""
    if not _run(run_demo(console, url=url, keep=keep)):
        raise typer.Exit(1)


@app.command()
def copy(
    source: Annotated[
        str, typer.Argument(metavar="SOURCE_URL", help="Store to copy from; it is not changed.")
    ],
    target: Annotated[
        str,
        typer.Argument(metavar="TARGET_URL", help="Store to copy into; nothing is overwritten."),
    ],
    namespace: Annotated[
        str | None, typer.Option(help="Namespace in both stores.", show_default="default")
    ] = None,
    to_namespace: Annotated[
        str | None, typer.Option(help="Another namespace in the target.")
    ] = None,
    ended_only: Annotated[
        bool, typer.Option("--ended-only", help="Only ended sagas; workers may go on.")
    ] = False,
    allow_held: Annotated[
        bool,
        typer.Option("--allow-held", help="Copy also sagas under a lease, together with it."),
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Compare and count; write nothing.")
    ] = False,
    create_schema: Annotated[
        bool, typer.Option("--create-schema", help="Make or upgrade the target's schema first.")
    ] = False,
    from_option: Annotated[
        list[str] | None, typer.Option(help="An option of the source, key=value; repeatable.")
    ] = None,
    to_option: Annotated[
        list[str] | None, typer.Option(help="An option of the target, key=value; repeatable.")
    ] = None,
) -> None:
    """Copy all sagas into another store, those in flight included, and verify each.

    Stop starters and workers first: a saga must never be driven in two stores. A run that broke
    off is finished by running the same command again. Exit code 1: some sagas were not copied.
    """
    here, there = _options(from_option, "--from-option"), _options(to_option, "--to-option")
    if namespace is not None:
        here["namespace"] = there["namespace"] = namespace
    if to_namespace is not None:
        there["namespace"] = to_namespace
    move = Move(
        source=source,
        target=target,
        source_options=here,
        target_options=there,
        create_schema=create_schema,
        dry_run=dry_run,
        ended_only=ended_only,
        allow_held=allow_held,
    )
    try:
        good = _run(run_move(move, out=console, bar=errors))
    except KeyboardInterrupt:
        errors.print(
            "interrupted; what was copied is whole: run the same command again to go on",
            soft_wrap=True,
        )
        raise typer.Exit(130) from None
    if not good:
        raise typer.Exit(1)


async def _schema(verb: str, url: str, pairs: list[str] | None) -> bool:
    """Run one verb of the backend's schema manager; return whether anything is pending."""
    target = resolve_store(url, **_parse(pairs or []))
    schema = target.backend.schema
    if schema is None:
        console.print(f"{target.backend.name}: nothing to migrate, it has no schema of its own")
        return False
    act = schema.upgrade if verb == "upgrade" else schema.status
    standing: SchemaStatus = await act(target.url, target.options)
    text = f"{target.backend.name}: schema version {standing.current} of {standing.latest}"
    if standing.pending:
        console.print(f"{text}; pending: {escape(', '.join(standing.pending))}")
    else:
        console.print(f"{text}; up to date")
    return bool(standing.pending)


def _parse(pairs: list[str], flag: str = "-o") -> dict[str, str]:
    options: dict[str, str] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key.isidentifier():
            # Not with the text: it may be a password.
            raise StoreUrlError(f"{flag} takes key=value, as in {flag} namespace=orders")
        options[key] = value
    return options


def _options(pairs: list[str] | None, flag: str) -> dict[str, str]:
    async def parse() -> dict[str, str]:
        return _parse(pairs or [], flag)

    return _run(parse())


def _run(work: Coroutine[Any, Any, T]) -> T:
    """Run to the end; one clear line for an error of ours."""
    try:
        return asyncio.run(work)
    except SagaError as error:
        errors.print(f"[bold red]error:[/] {escape(str(error))}", soft_wrap=True)
        raise typer.Exit(2) from None
