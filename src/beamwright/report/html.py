"""One self-contained HTML file: style and plots inside, no script, nothing fetched."""

from __future__ import annotations

from importlib import resources
from typing import Any

from beamwright.report import sections
from beamwright.report.markup import Markup, tag

Row = dict[str, Any]


def page(document: Row) -> str:
    """Return the report of a document as HTML."""
    style = resources.files("beamwright.report").joinpath("style.css").read_text()
    production = document["production"]
    title = production["title"] or production["name"]
    parts = [part for part in sections.all_sections(document) if part.body]
    head = [
        Markup('<meta charset="utf-8">'),
        Markup('<meta name="viewport" content="width=device-width, initial-scale=1">'),
        tag("title", f"{title} · beamwright"),
        tag("style", Markup(style)),
    ]
    links = [tag("a", part.title, href=f"#{part.name}") for part in parts]
    body = [
        _header(document, title),
        tag("nav", tag("div", links)),
        tag("main", sections.tiles(document), [_section(part) for part in parts], _footer(document)),
    ]
    return "<!doctype html>\n" + tag("html", tag("head", head), tag("body", body), lang="en") + "\n"


def _header(document: Row, title: str) -> Markup:
    production = document["production"]
    outcome, kind = sections.outcome(document)
    tags = [[tag("code", t["name"]), f" ({t['state']}) "] for t in production["global_tags"]]
    identity = [
        *("production ", tag("code", production["name"])),
        *(" of experiment ", tag("code", production["experiment"])),
        *(" · release ", tag("code", sections.short(production["release"]))),
        *((" · conditions ", tags) if tags else ()),
    ]
    return tag(
        "header",
        tag("div", tag("h1", title), tag("p", identity), tag("p", outcome, class_=f"outcome is-{kind}")),
    )


def _section(part: sections.Part) -> Markup:
    about = tag("p", part.about, class_="about") if part.about else ""
    return tag("section", tag("h2", part.title), about, part.body, id=part.name)


def _footer(document: Row) -> Markup:
    spec = sections.short(document["production"]["spec_hash"])
    text = f"Written by beamwright out of the database alone. Production file {spec}. "
    return tag("footer", text, "The same as data: ", tag("code", "beamwright report --json"), ".")
