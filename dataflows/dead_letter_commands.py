"""The commands `meterline dead-letters list | show | replay`, as dataflows/cli.py has the others."""

from __future__ import annotations

from typing import Annotated

import typer

dead_letters_app = typer.Typer(help="Records that were not metered.", no_args_is_help=True)

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Reason = Annotated[str | None, typer.Option(help="Of this reason alone, such as not_json.")]
Since = Annotated[str | None, typer.Option(help="First moment of the record's append, UTC.")]
Until = Annotated[str | None, typer.Option(help="Moment after the last one.")]


@dead_letters_app.command("list")
def dead_letters_list(
    reason: Reason = None,
    since: Since = None,
    until: Until = None,
    limit: Annotated[int, typer.Option(min=1, max=100_000, help="How many are listed.")] = 20,
    as_json: Json = False,
) -> None:
    """The newest dead letters, and how many there are by reason.

    Example: `meterline dead-letters list --reason value_missing --since 2026-11-01`
    """
    from dataflows.dead_letters import Selection, print_dead_letters  # noqa: PLC0415
    from dataflows.settings import Settings  # noqa: PLC0415

    selection = Selection.parse(reason=reason, since=since, until=until)
    print_dead_letters(Settings.load(), selection, limit, as_json=as_json)


@dead_letters_app.command("show")
def dead_letters_show(
    place: Annotated[str, typer.Argument(metavar="TOPIC/PARTITION/OFFSET")], as_json: Json = False
) -> None:
    """One dead letter: reason, headers, key and the original payload, as a hexdump if it is no text.

    Example: `meterline dead-letters show usage-events/3/41`
    """
    from dataflows.dead_letters import print_dead_letter  # noqa: PLC0415
    from dataflows.settings import Settings  # noqa: PLC0415

    print_dead_letter(Settings.load(), place, as_json=as_json)


@dead_letters_app.command("replay")
def dead_letters_replay(  # noqa: PLR0917 - an option a parameter
    reason: Reason = None,
    since: Since = None,
    until: Until = None,
    again: Annotated[bool, typer.Option("--again", help="Those that were replayed before, too.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Tell how many would be sent.")] = False,
    as_json: Json = False,
) -> None:
    """Send dead letters back to their topic, once what they were rejected for is repaired.

    An event counts once, however often it is replayed: its id is the same, and one that is counted already is
    not sent. A copy has a new append time: an event older than METERLINE_EVENT_AGE_MAX_D is rejected again,
    a late one still counts in its bill, and one without a timestamp counts at the time of its copy.

    Example: `meterline dead-letters replay --reason value_missing --dry-run`
    """
    from dataflows.dead_letter_replay import replay  # noqa: PLC0415
    from dataflows.dead_letters import Selection  # noqa: PLC0415
    from dataflows.settings import Settings  # noqa: PLC0415

    selection = Selection.parse(reason=reason, since=since, until=until)
    if not replay(Settings.load(), selection, again=again, dry_run=dry_run, as_json=as_json):
        raise typer.Exit(1)
