"""The command line. `meterline --help` lists the commands; each `--help` has an example.

Exit codes: 0 done, 1 a failure, 2 a user error; both with one sentence on stderr. A traceback is a bug.
stdout has results alone, so that it can be piped; progress and notes go to stderr.
Commands import what they need when they run: `--help` and `check` must not wait for a stream engine.
"""

from __future__ import annotations

import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dataflows.dead_letter_commands import dead_letters_app

if TYPE_CHECKING:
    from dataflows.settings import Settings

app = typer.Typer(
    name="meterline",
    help="Usage-based billing as a stream: Kafka in, exact windows and live wallets out.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)
recovery_app = typer.Typer(help="The recovery store.", no_args_is_help=True)
app.add_typer(recovery_app, name="recovery")
app.add_typer(dead_letters_app, name="dead-letters")

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
CatalogFile = Annotated[
    Path | None, typer.Option("--catalog", help="Catalog file, instead of METERLINE_CATALOG.")
]
UP_DIRECTORY = Path(".meterline")


def main() -> None:
    """The command `meterline`."""
    try:
        app()
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:
        sys.exit(1)
    except Exception as error:
        from dataflows.exits import known_exit  # noqa: PLC0415

        known = known_exit(error)
        if known is None:
            raise
        code, sentence = known
        typer.echo(f"meterline: {sentence}", err=True)
        sys.exit(code)


@app.command()
def run(  # noqa: PLR0917 - an option a parameter
    until_end: Annotated[
        bool, typer.Option("--until-end", help="Stop at the end that each partition has at start.")
    ] = False,
    process_id: Annotated[int, typer.Option(help="Which of --addresses this process is, from 0.")] = 0,
    addresses: Annotated[
        str, typer.Option(help="host:port of all processes of one flow, by semicolons.")
    ] = "",
    catalog: CatalogFile = None,
    recovery_dir: Annotated[
        Path | None, typer.Option(help="Recovery store, instead of METERLINE_RECOVERY_DIR.")
    ] = None,
    migrate: Annotated[bool, typer.Option("--migrate", help="Apply pending migrations first.")] = False,
) -> None:
    """Run the flow. SIGTERM and Ctrl-C drain it: the last epoch commits, and the next start goes on from it.

    Example: `meterline run --catalog catalog.yaml`
    """
    from dataflows.recovery import Slot  # noqa: PLC0415
    from dataflows.run import RunOptions  # noqa: PLC0415
    from dataflows.run import run as run_flow  # noqa: PLC0415

    slot = Slot(process_id, tuple(address.strip() for address in addresses.split(";") if address.strip()))
    settings = _settings(catalog=catalog, recovery_dir=recovery_dir)
    run_flow(settings, RunOptions(until_end=until_end, migrate=migrate, slot=slot))


@app.command()
def check(file: Annotated[Path, typer.Argument(help="Catalog file.")], as_json: Json = False) -> None:
    """Check a catalog: every error in it with its line and path, exit 2 if there is one.

    Example: `meterline check catalog.yaml`
    """
    from dataflows.reports import check_catalog  # noqa: PLC0415

    if not check_catalog(file, as_json=as_json):
        raise typer.Exit(2)


@app.command()
def migrate(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Tell what would be applied.")] = False,
    as_json: Json = False,
) -> None:
    """Bring ClickHouse's tables and views to this version. Again is harmless.

    Example: `meterline migrate --dry-run`
    """
    from dataflows.reports import print_migrations  # noqa: PLC0415
    from dataflows.stores import migrate_clickhouse  # noqa: PLC0415

    applied = migrate_clickhouse(_settings().clickhouse_url, dry_run=dry_run)
    print_migrations(applied, dry_run=dry_run, as_json=as_json)


@app.command()
def topics(
    partitions: Annotated[int, typer.Option(min=1, max=1000, help="Of each topic that is created.")] = 4,
    replication_factor: Annotated[int, typer.Option(min=1, max=10, help="Copies of each record.")] = 1,
    as_json: Json = False,
) -> None:
    """Create the topics that are missing, with LogAppendTime. Again is harmless.

    Example: `meterline topics --partitions 12 --replication-factor 3`
    """
    from dataflows.reports import print_topics  # noqa: PLC0415
    from dataflows.topics import create_topics  # noqa: PLC0415

    print_topics(create_topics(_settings(), partitions, replication_factor), as_json=as_json)


@app.command()
def up(
    directory: Annotated[
        Path, typer.Option("--dir", help="Where the engines keep everything.")
    ] = UP_DIRECTORY,
    port_kafka: Annotated[int, typer.Option(min=0, max=65535, help="0: any free port.")] = 19092,
    port_clickhouse: Annotated[int, typer.Option(min=0, max=65535, help="0: any free port.")] = 18123,
    port_redis: Annotated[int, typer.Option(min=0, max=65535, help="0: any free port.")] = 16379,
) -> None:
    """Run Kafka, ClickHouse and Redis on this machine until Ctrl-C, with topics and tables made.

    stdout, and DIR/env, have the settings that reach them.

    Example: `meterline up &`, then `set -a; . .meterline/env; set +a; meterline run`
    """
    from dataflows.up import Ports  # noqa: PLC0415
    from dataflows.up import up as run_engines  # noqa: PLC0415

    run_engines(directory, Ports(port_kafka, port_clickhouse, port_redis))


@app.command()
def demo(
    seconds: Annotated[float, typer.Option(min=1, help="How long events are produced.")] = 30,
    rate: Annotated[float, typer.Option(min=1, help="Events a second.")] = 5000,
    keep: Annotated[
        Path | None, typer.Option(help="Keep everything in this directory, which must be new or empty.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Run the whole pipeline on this machine, and compare what it stored with what was produced.

    Example: `meterline demo --seconds 15`
    """
    from dataflows.demo import DemoOptions  # noqa: PLC0415
    from dataflows.demo import demo as run_demo  # noqa: PLC0415

    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # by way of everything that cleans up
    if not run_demo(DemoOptions(seconds, rate, keep), as_json=as_json):
        raise typer.Exit(1)


@app.command()
def produce(
    file: Annotated[str, typer.Argument(help="File of JSON lines; - is standard input.")],
    topic: Annotated[str | None, typer.Option(help="Instead of METERLINE_USAGE_TOPIC.")] = None,
    as_json: Json = False,
) -> None:
    """Write events to Kafka, keyed by customer. Exit 1 if the broker did not acknowledge all.

    Example: `meterline produce events.jsonl`
    """
    from dataflows.produce import produce as produce_lines  # noqa: PLC0415

    if not produce_lines(_settings(), file, topic, as_json=as_json):
        raise typer.Exit(1)


@app.command()
def quote(
    plan: Annotated[str, typer.Option(help="Plan id.")],
    usage: Annotated[
        list[str] | None,
        typer.Option(metavar="METER=QUANTITY", help="Of a meter in the period; again for each meter."),
    ] = None,
    catalog: CatalogFile = None,
    as_json: Json = False,
) -> None:
    """What a billing period would cost on a plan: each charge with its tiers, rounded, then added.

    Example: `meterline quote --catalog catalog.yaml --plan starter --usage llm-tokens=1500000`
    """
    from dataflows.quote import print_quote  # noqa: PLC0415

    print_quote(catalog or _settings().catalog, plan, usage or [], as_json=as_json)


@app.command()
def usage(  # noqa: PLR0917 - an option a parameter
    tenant: Annotated[str, typer.Option(help="Tenant id.")],
    meter: Annotated[str, typer.Option(help="Meter id.")],
    since: Annotated[str, typer.Option(help="First moment, UTC unless it has a zone.")],
    until: Annotated[str, typer.Option(help="Moment after the last one.")],
    step: Annotated[str, typer.Option(help="Length of a row: 1m, 15m, 1h, 7d.")] = "1h",
    customer: Annotated[str | None, typer.Option(help="One customer alone.")] = None,
    as_json: Json = False,
) -> None:
    """Usage of a meter, by customer and step, from ClickHouse.

    Example: `meterline usage --tenant acme --meter llm-tokens --since 2026-11-01 --until 2026-12-01`
    """
    from dataflows.usage_report import UsageQuery, print_usage  # noqa: PLC0415

    query = UsageQuery.parse(tenant, meter, since=since, until=until, step=step, customer=customer)
    print_usage(_settings(), query, as_json=as_json)


@app.command()
def wallet(
    tenant: Annotated[str, typer.Argument(help="Tenant id.")],
    customer: Annotated[str, typer.Argument(help="Customer id.")],
    watch: Annotated[bool, typer.Option("--watch", help="Go on with every change, until Ctrl-C.")] = False,
    as_json: Json = False,
) -> None:
    """What a customer has left, from Redis.

    Example: `meterline wallet acme cust_42 --watch`
    """
    from dataflows.usage_report import print_wallet, watch_wallet  # noqa: PLC0415

    settings = _settings()
    found = print_wallet(settings, tenant, customer, as_json=as_json)
    if watch:
        watch_wallet(settings, tenant, customer, as_json=as_json)
    elif not found:
        raise typer.Exit(1)


@app.command()
def settings(as_json: Json = False) -> None:
    """Every setting, its value here and what it means; secrets are masked.

    Example: `METERLINE_EPOCH_S=5 meterline settings`
    """
    from dataflows.reports import print_settings  # noqa: PLC0415

    print_settings(_settings(), as_json=as_json)


@recovery_app.command("inspect")
def recovery_inspect(
    directory: Annotated[Path, typer.Argument(help="A recovery store, in use or not.")], as_json: Json = False
) -> None:
    """Epochs, offsets and sizes of a recovery store. Reads only.

    Example: `meterline recovery inspect .meterline/recovery`
    """
    from dataflows.recovery_report import print_recovery  # noqa: PLC0415

    print_recovery(directory, as_json=as_json)


def _settings(**overrides: Any) -> Settings:
    from dataflows.settings import Settings  # noqa: PLC0415

    return Settings.load(**{name: value for name, value in overrides.items() if value is not None})


if __name__ == "__main__":
    main()
