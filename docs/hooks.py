"""What `mkdocs build` adds to the pages: CHANGELOG and other files, the flags of every verb, and the docstrings.

The flags are read from the parsers and the names from `docs/reference.md`, so that neither page can be out of date.
"""

from __future__ import annotations

import html
import importlib
import json
import os
import re
from argparse import Action, ArgumentParser
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from pydantic import BaseModel

from optimum_flab.commands import FlabCommand
from optimum_flab.commands.parser import VerbParser
from optimum_flab.records.report import REPORT_NAME, Report
from optimum_flab.records.results import EVALUATION_NAME, EvaluationRecord
from optimum_flab.utils.compat import actions_of


ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
# pages that are made of files outside of docs/, and where other files that pages link to lie in the site
PAGES = {
    "CHANGELOG.md": "changes.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security.md",
    "benchmarks/README.md": "benchmarks.md",
}
FILES = "files"
SCHEMAS = DOCS / "schema"
FORMS: dict[str, type[BaseModel]] = {REPORT_NAME: Report, EVALUATION_NAME: EvaluationRecord}
FLAGS, NAMES = "<!-- flags -->", "<!-- names -->"
LINK = re.compile(r"(?<=\]\()([^)\s]+)(?=\))")
FENCE = re.compile(r"^ *(```|~~~)")


# --- the command line ----------------------------------------------------------------------------------------------


def verbs() -> dict[str, tuple[str, ArgumentParser]]:
    """What each verb of `optimum-cli flab` is for, and its parser."""
    found = {}
    for verb in FlabCommand.SUBCOMMANDS:
        parser = VerbParser(prog=f"optimum-cli flab {verb.name}")
        verb.subcommand_class.parse_args(parser)
        found[verb.name] = (verb.help, parser)
    return found


def escaped(text: str) -> str:
    """Text that Markdown shows as it is, but for what is between backticks."""
    parts = re.split(r"(`[^`]+`)", text)
    return "".join(
        part if number % 2 else re.sub(r"([\\*_\[\]{}|#])", r"\\\1", html.escape(part, quote=False))
        for number, part in enumerate(parts)
    )


def line_of(action: Action, prog: str) -> str:
    """A flag as an item of a list: its names, its value, the setting that it gives, and its help."""
    value = "" if action.nargs == 0 else f" {action.metavar or (action.dest.upper() if not action.choices else '')}"
    if action.choices and not action.metavar:
        value = f" {{{','.join(map(str, action.choices))}}}"
    names = ", ".join(action.option_strings) or str(action.metavar or action.dest)
    setting = f" (setting `{action.dest}`)" if "." in action.dest else ""
    said = (action.help or "") % {**vars(action), "prog": prog}
    return f"- `{names}{value if action.option_strings else ''}`{setting}: {escaped(said)}"


def command_line() -> str:
    """Every verb with its flags."""
    parts = []
    for name, (purpose, parser) in verbs().items():
        actions = [action for action in actions_of(parser) if action.dest != "help"]
        needed = [action for action in actions if action.required or not action.option_strings]
        others = [action for action in actions if action not in needed]
        parts += [f"## flab {name}", purpose]
        for title, group in (("Required:", needed), ("Optional:", others)):
            if group:
                parts += [title, "\n".join(line_of(action, parser.prog) for action in group)]
        if parser.epilog:
            parts += [f"```text\n{parser.epilog.strip()}\n```"]
    return "\n\n".join(parts)


# --- the API -------------------------------------------------------------------------------------------------------


def public_names() -> Iterator[tuple[str, str]]:
    """Each room of `docs/reference.md`, and the dotted names of its functions and classes where they are defined."""
    seen = set()
    for room in re.findall(r"^## `([\w.]+)`$", (DOCS / "reference.md").read_text(encoding="utf-8"), re.M):
        module = importlib.import_module(room)
        for name in module.__all__:
            value = getattr(module, name)
            if callable(value) and value not in seen:
                seen.add(value)
                yield room, f"{value.__module__}.{value.__qualname__}"


def api() -> str:
    """The docstrings of all public functions and classes, by room."""
    parts = ["## Docstrings"]
    for room, name in public_names():
        heading = f"### {room}"
        parts += [f"::: {name}"] if heading in parts else [heading, f"::: {name}"]
    return "\n\n".join(parts)


def plain_type(text: str) -> str:
    """A type of a docstring, which is shown as code, without the marks that Markdown would have read."""
    return re.sub(r"\[`~?([^`]+)`\]|`", r"\1", text).replace("*optional*", "optional")


# --- the files beside the weights ----------------------------------------------------------------------------------


def schemas() -> dict[str, str]:
    """JSON Schema of the files that other programs may read, by their names in `docs/schema/`."""
    return {name.replace(".json", ".schema.json"): schema_of(form) for name, form in FORMS.items()}


def schema_of(form: type[BaseModel]) -> str:
    """What a docstring says of fields stands beside them; titles that only repeat a name are left out."""
    schema = form.model_json_schema()
    for part in (schema, *schema["$defs"].values()):
        text, _, fields = part.get("description", "").partition("\n\nArgs:\n")
        part["description"] = " ".join(text.split())
        for names, said in re.findall(r"^ {4}(\w[^:]*): (.*(?:\n {8}.*)*)", fields, re.M):
            for name in re.sub(r"\([^)]*\)", "", names).replace(" ", "").split(","):
                part["properties"][name]["description"] = plain_type(" ".join(said.split()))
        for value in part.get("properties", {}).values():
            value.pop("title", None)
            if value.get("additionalProperties") is True:  # which older versions of pydantic leave out
                del value["additionalProperties"]
    schema = {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}
    return json.dumps(schema, indent=2, ensure_ascii=False) + "\n"


# --- links ---------------------------------------------------------------------------------------------------------


def outside(target: str, source: Path) -> Path | None:
    """The file that a link of a page leads to, where it is not in docs/.

    Args:
        source (`Path`): the file that holds the link.
    """
    path = target.partition("#")[0]
    if not path or re.match(r"[a-z]+:", path):
        return None
    found = Path(os.path.normpath(source.parent / path))
    return None if found.is_relative_to(DOCS) and source.is_relative_to(DOCS) else found


def in_site(target: str, source: Path, page: str) -> str:
    """A link as it is in the site: to a page, or to a copy of a file; one to a folder leads to this file's own top.

    Args:
        source (`Path`): the file that holds the link.
        page (`str`): the page that is made of it.
    """
    found = outside(target, source)
    if found is None:
        return target
    anchor = "".join(target.partition("#")[1:])
    name = found.relative_to(ROOT).as_posix()
    if found.is_relative_to(DOCS):
        there = found.relative_to(DOCS).as_posix()
    elif name in PAGES:
        there = PAGES[name]
    else:
        there, anchor = f"{FILES}/{name}", ""
    return os.path.relpath(there, PurePosixPath(page).parent) + anchor


def source_of(page: str) -> Path:
    made = {page: name for name, page in PAGES.items()}
    return ROOT / made[page] if page in made else DOCS / page


def linked_files() -> set[Path]:
    """Files outside of docs/ that pages link to, and that are no pages themselves."""
    sources = [*DOCS.glob("*.md"), *(ROOT / name for name in PAGES)]
    found = {
        outside(target, source) for source in sources for target in LINK.findall(source.read_text(encoding="utf-8"))
    }
    return {
        path
        for path in found
        if path is not None
        and path.is_file()
        and not path.is_relative_to(DOCS)
        and path.relative_to(ROOT).as_posix() not in PAGES
    }


def outside_of_fences(markdown: str, change: Callable[[str], str]) -> str:
    """Changes the lines of a page that are not in a block of code."""
    lines, fenced = [], False
    for line in markdown.split("\n"):
        fence = bool(FENCE.match(line))
        fenced ^= fence
        lines.append(line if fenced or fence else change(line))
    return "\n".join(lines)


def lines_of_page(markdown: str, page: str) -> str:
    source = source_of(page)

    def change(line: str) -> str:
        # a folder is no page
        line = re.sub(
            r"\[([^\]]*)\]\(([^)\s]+)\)",
            lambda match: match[1] if (path := outside(match[2], source)) and path.is_dir() else match[0],
            line,
        )
        return LINK.sub(lambda match: in_site(match[1], source, page), line)

    return outside_of_fences(markdown, change)


# --- what mkdocs calls ---------------------------------------------------------------------------------------------


def on_files(files: Any, config: Any) -> Any:
    from mkdocs.structure.files import File

    for name, page in PAGES.items():
        files.append(File.generated(config, page, content=(ROOT / name).read_text(encoding="utf-8")))
    for path in sorted(linked_files()):
        target = f"{FILES}/{path.relative_to(ROOT).as_posix()}"
        files.append(File.generated(config, target, content=path.read_bytes()))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    markdown = lines_of_page(markdown, page.file.src_uri)
    for mark, made in ((FLAGS, command_line), (NAMES, api)):
        if mark in markdown:
            markdown = markdown.replace(mark, made())
    return markdown


def on_page_content(content: str, page: Any, config: Any, files: Any) -> str:
    # docstrings name what they mean as [`Name`] or [`~module.Name`], and mark up their types
    content = re.sub(r"\[<code>~?([\w.]+)</code>\]", r"<code>\1</code>", content)
    return re.sub(r"<code>[^<]*(?:`|\*optional\*)[^<]*</code>", lambda match: plain_type(match[0]), content)


if __name__ == "__main__":  # `make schemas`
    SCHEMAS.mkdir(exist_ok=True)
    for name, text in schemas().items():
        (SCHEMAS / name).write_text(text, encoding="utf-8")
