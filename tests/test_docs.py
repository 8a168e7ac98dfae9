"""What the README says is what the code does: its tables, its guarantees' tests, its commands."""

from __future__ import annotations

import ast
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer.main
from prometheus_client import REGISTRY

from dataflows import docs
from dataflows.cli import app
from dataflows.metrics_table import METRICS, metrics_markdown, metrics_table
from dataflows.settings import Settings
from dataflows.settings_table import settings_markdown
from schemas.events import REASONS, Reason

ROOT = Path(__file__).parents[1]
README = docs.README.read_text()
SHELLS = ("sh", "bash", "shell", "console")
ENDS = frozenset(";&|()<>")
PLAIN = "\n".join(f"<!-- {name} -->\nan old table\n<!-- /{name} -->" for name in docs.TABLES) + "\nend\n"


def test_the_readme_has_the_tables_of_the_code() -> None:
    assert docs.filled(README) == README, "run `python -m dataflows.docs`"


@pytest.mark.parametrize("name", docs.TABLES)
def test_a_table_is_put_between_its_markers_and_stays_there(name: str) -> None:
    once = docs.filled(PLAIN)
    assert f"<!-- {name} -->\n\n{docs.TABLES[name]()}\n<!-- /{name} -->\n" in once
    assert "an old table" not in once
    assert once.endswith("\nend\n")
    assert docs.filled(once) == once
    with pytest.raises(docs.MarkerError, match=f"<!-- {name} -->"):
        docs.filled(PLAIN.replace(f"<!-- /{name} -->\n", ""))


def test_tables_have_a_row_for_everything() -> None:
    assert rows(docs.reasons_markdown()) == [str(reason) for reason in Reason] == [str(r) for r in REASONS]
    assert rows(metrics_markdown()) == list(METRICS)
    assert rows(settings_markdown()) == [f"METERLINE_{name.upper()}" for name in Settings.model_fields]


def test_the_metrics_table_names_every_metric_of_ours_with_its_labels() -> None:
    exposed = {
        family.name + "_total" * (family.type == "counter"): family
        for family in REGISTRY.collect()
        if family.name.startswith("meterline_")
    }
    assert sorted(exposed) == sorted(METRICS)
    for row in metrics_table():
        assert (row.kind, row.meaning) == (exposed[row.name].type, METRICS[row.name])
        for sample in exposed[row.name].samples:
            assert set(sample.labels) - {"le"} == set(row.labels)


def test_every_guarantee_names_a_test_that_is_there() -> None:
    section = README.partition("\n## Guarantees\n")[2].partition("\n## ")[0]
    guarantees = [line for line in section.splitlines() if line.startswith("|")][2:]
    assert guarantees, "the README has a table of guarantees"
    assert not [line for line in guarantees if not re.search(r"`tests/[\w/]+\.py(::\w+)?` \|$", line)]


def test_every_test_that_the_readme_names_is_there() -> None:
    for file, test in re.findall(r"\b(tests/[\w/]+\.py)(?:::(\w+))?", README):
        assert (ROOT / file).is_file(), file
        assert not test or test in functions_of(ROOT / file), f"{file}::{test}"


def test_the_readme_uses_commands_and_options_that_exist() -> None:
    used = list(commands(README))
    assert any(words[0] == "meterline" for words in used)
    for words in used:
        if words[0] == "meterline":
            parse(words[1:])
        elif words[0] == "make":
            targets = [word for word in words[1:] if "=" not in word]
            assert all(re.search(rf"^{t}:", (ROOT / "Makefile").read_text(), re.MULTILINE) for t in targets)


def test_a_command_that_does_not_exist_is_found() -> None:
    text = "```sh\nA=1 .venv/bin/meterline run --catalog c &\nmeterline check x | jq .; make \\\n demo\n```\n"
    assert list(commands(text)) == [
        ["meterline", "run", "--catalog", "c"],
        ["meterline", "check", "x"],
        ["jq", "."],
        ["make", "demo"],
    ]
    assert list(commands("```sh\necho 'a\nb' | meterline produce - # c\n```\n")) == [
        ["echo", "a\nb"],
        ["meterline", "produce", "-"],
    ]
    assert list(commands("```console\n$ meterline check x\nmeterline: no\n```\n")) == [
        ["meterline", "check", "x"]
    ]
    parse(["dead-letters", "replay", "--dry-run"])
    for wrong in (["fly"], ["run", "--wings"], ["dead-letters", "fly"], ["wallet", "acme"]):
        with pytest.raises(AssertionError):
            parse(wrong)


def rows(markdown: str) -> list[str]:
    """What stands in the first column of a table, without its head."""
    return [line.split("`")[1] for line in markdown.splitlines()[2:]]


def functions_of(file: Path) -> set[str]:
    tree = ast.parse(file.read_text()) if file.exists() else ast.Module([], [])
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}


def commands(markdown: str) -> Iterator[list[str]]:
    """The simple commands of all shell blocks; of a console's block, those behind a prompt."""
    for shell, block in re.findall(r"^```(\w+)\n(.*?)^```", markdown, re.MULTILINE | re.DOTALL):
        if shell in SHELLS:
            for line in whole_lines(block):
                prompt, _, typed = line.partition("$ ")
                if not prompt and typed:
                    yield from simple_commands(typed)
                elif shell != "console":
                    yield from simple_commands(line)


def whole_lines(block: str) -> Iterator[str]:
    """Lines of a shell's input; one that ends within quotes goes on in the next."""
    begun = ""
    for line in block.replace("\\\n", " ").splitlines():
        begun += line
        try:
            shlex.split(begun, comments=True)
        except ValueError:
            begun += "\n"
        else:
            yield begun
            begun = ""
    assert not begun, f"a quote is not closed: {begun}"


def simple_commands(line: str) -> Iterator[list[str]]:
    lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    words: list[str] = []
    for word in [*lexer, ";"]:
        if set(word) <= ENDS:
            if words:
                yield [Path(words[0]).name, *words[1:]]
            words = []
        elif words or not re.match(r"\w+=", word):
            words.append(word)


def parse(arguments: list[str]) -> None:
    """Read a command line as `meterline` would, without running it."""
    command, name, rest = typer.main.get_command(app), "meterline", arguments
    while True:
        try:
            context = command.make_context(name, [word for word in rest if word != "--help"])
        except Exception as error:
            raise AssertionError(f"meterline {shlex.join(arguments)}: {error}") from error
        commands_below = getattr(command, "commands", None)
        if commands_below is None:
            return
        name, *rest = [*context._protected_args, *context.args]
        assert name in commands_below, f"meterline {shlex.join(arguments)}: there is no command {name}"
        command = commands_below[name]
