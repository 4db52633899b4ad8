"""The documentation, the names in the code and what is emitted agree."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from kit.clients import Flavour
from kit.http2 import H2Server
from kit.otlp import opening, reusing
from kit.server import Server, free_port
from kit.telemetry import Telemetry
from stories.catalogue import SERVER_STORIES, STORIES

from otel_httptrace.core.ledger import Reason
from otel_httptrace.report import schema
from otel_httptrace.report.analysis import analyze
from otel_httptrace.server import described as server_described
from otel_httptrace.server import names as server_names
from otel_httptrace.server.ledger import Reason as ServerReason
from otel_httptrace.telemetry import described, names
from otel_httptrace.telemetry.described import Attribute

ROOT = Path(__file__).parents[2]
ATTRIBUTES = {one.name: one for one in (*described.OTHERS, *described.REQUEST)}


def make_docs() -> Any:
    """`tools/make_docs.py`, as a module."""
    spec = importlib.util.spec_from_file_location("make_docs", ROOT / "tools" / "make_docs.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", make_docs().PAGES)
def test_committed_documents_are_generated(name: str) -> None:
    """The committed documents are what `make docs` writes."""
    assert (ROOT / name).read_text() == make_docs().PAGES[name]()


def test_check_names_documents_that_are_out_of_date(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`--check` says which document is out of date, and writing them mends it."""
    docs = make_docs()
    monkeypatch.setattr(docs, "ROOT", tmp_path)
    stale = (ROOT / "docs" / "report.md").read_text().replace("| `dns` | 1.0 |", "| `dns` | 9.0 |")
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "report.md").write_text(stale)
    server = (ROOT / "docs" / "server.md").read_text()
    (tmp_path / "docs" / "server.md").write_text(server.replace("| `unknown` | not seen |", "| `unknown` | seen |"))
    measured = (ROOT / "docs" / "scale.json").read_text()
    (tmp_path / "docs" / "scale.json").write_text(measured.replace('"rounds": ', '"rounds": 9'))
    (tmp_path / "docs" / "scale.md").write_text((ROOT / "docs" / "scale.md").read_text())

    architecture = (ROOT / "ARCHITECTURE.md").read_text()
    (tmp_path / "ARCHITECTURE.md").write_text(architecture.replace("LOST --> CLOSED", "CLOSED --> LOST"))

    assert docs.main(["--check"]) == 1
    assert capsys.readouterr().err.splitlines() == [
        "docs/attributes.md is out of date: make docs",
        "docs/server.md is out of date: make docs",
        "docs/reasons.md is out of date: make docs",
        "docs/report.md is out of date: make docs",
        "docs/stories.md is out of date: make docs",
        "docs/incidents.md is out of date: make docs",
        "docs/scale.md is out of date: make docs",
        "ARCHITECTURE.md is out of date: make docs",
        "collector-config/jaeger/jaeger-ui.json is out of date: make docs",
    ]
    assert (docs.main([]), docs.main(["--check"])) == (0, 0)


def texts() -> Iterator[Path]:
    """Everything written for people or for Grafana."""
    for pattern in (
        "*.md",
        "docs/*.md",
        *(f"{folder}/**/*" for folder in ("dashboards", "collector-config", "examples")),
    ):
        yield from (path for path in ROOT.glob(pattern) if path.suffix in (".md", ".json", ".yaml", ".yml"))


def anchors(page: Path) -> set[str]:
    """What can be linked to on a page: headings, as GitHub names them, and ids."""
    text = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {
        *(re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings),
        *re.findall(r'<a id="([^"]+)"></a>', text),
    }


def broken(text: str, page: Path) -> list[str]:
    """Links of a *page* whose file or section is not there, and names of incidents that are none."""
    links = re.findall(r"\]\((?!https?:)([^)\s]+)\)", text)
    # Texts outside docs/ name sections of the guide from wherever they will be read.
    found = [link for link in links if not _there(page, link)]
    named = re.findall(r"\bincidents\.md#([\w-]+)", text)
    return found + [f"incidents.md#{name}" for name in named if not _there(ROOT / "docs/incidents.md", f"#{name}")]


def _there(page: Path, link: str) -> bool:
    name, _, anchor = link.partition("#")
    path = page.parent / name if name else page
    return path.exists() and (not anchor or anchor in anchors(path))


@pytest.mark.parametrize("path", sorted(texts()), ids=lambda path: path.relative_to(ROOT).as_posix())
def test_links_of_the_docs_lead_somewhere(path: Path) -> None:
    """Each file and section that a text points to is there; so are the incidents that dashboards and alerts name."""
    text = path.read_text()
    assert broken(text if path.suffix == ".md" else " ".join(re.findall(r"incidents\.md#[\w-]+", text)), path) == []


def test_broken_links_are_found() -> None:
    """A link to a file, a section or an incident that is not there is found; one that is there is not."""
    fine = "[a](docs/incidents.md#story-7) [b](README.md) [c](https://example.com/x.md#y) [d](#install) docs/incidents.md#story-15"
    wrong = "[a](docs/incidents.md#story-77) [b](READYOU.md) [c](#no-such-heading) `incidents.md#story-0`"

    assert broken(fine, ROOT / "README.md") == []
    assert broken(wrong, ROOT / "README.md") == [
        "docs/incidents.md#story-77",
        "READYOU.md",
        "#no-such-heading",
        "incidents.md#story-77",
        "incidents.md#story-0",
    ]


def test_incidents_are_linked() -> None:
    """The guide's table leads to each story, what is linked to is before a heading, and alerts are there."""
    text = (ROOT / "docs/incidents.md").read_text()

    sections = re.findall(r'^<a id="story-(\d+)"></a>\n\n## (\d+)\. ', text, re.MULTILINE)
    numbers = [*(story.number for story in STORIES), *(story.number for story in SERVER_STORIES)]
    assert sections == [(str(number), str(number)) for number in numbers]
    assert set(re.findall(r"\(#story-(\d+)\)", text.partition("## How to ask")[0])) == {one for one, _ in sections}
    alerts = re.findall(r"- alert: (\w+)", "".join(path.read_text() for path in make_docs().ALERTS))
    named = re.findall(r"`(\w+)`", " ".join(re.findall(r"^\*\*Alerts\.\*\* (.*)$", text, re.MULTILINE)))
    assert sorted(named) == sorted(alerts)


def test_the_report_s_fields() -> None:
    """Every field of the JSON document is in its documentation."""
    rows = [opening("body_not_read"), reusing(time__wait=9.0)]
    told = (ROOT / "docs" / "report.md").read_text()

    def fields(value: Any) -> Iterator[str]:
        if isinstance(value, dict):
            for name, inner in value.items():
                yield name
                if name not in (
                    "thresholds",
                    "numbers",
                    "attributes",
                    "open_reasons",
                    "outcomes",
                    "phases",
                    "statuses",
                ):
                    yield from fields(inner)
        elif isinstance(value, list):
            for inner in value:
                yield from fields(inner)

    document = schema.document(analyze(rows))
    phase = document["origins"][0]["phases"]["total"]
    assert [
        name for name in (*fields(document), *phase) if not re.search(rf"[`.]{name}(\[\])?[`.]|\].{name}`", told)
    ] == []


def test_every_name_is_described() -> None:
    """Each name of the one module of names is described, once, and nothing else is."""
    all_names = {
        value
        for name, value in vars(names).items()
        if name.isupper() and isinstance(value, str) and name != "UPSTREAM_SCOPE"
    }
    others = [one.name for one in (*described.LINKS, *described.EVENTS, *described.SPANS, *described.METRICS)]

    assert set(ATTRIBUTES) | set(others) == all_names
    assert len(others) == len(set(others))


def test_every_reason_is_described() -> None:
    """Both reasons have their whole vocabulary."""
    assert list(described.REASONS) == [reason.value for reason in Reason]


def test_the_server_s_half_is_described() -> None:
    """Each name and each reason of it, once, and nothing else; those that it shares are others' as well."""
    told = [one.name for one in (*server_described.REQUEST, *server_described.EVENTS, *server_described.METRICS)]
    on_metrics = {name for one in (*server_described.EVENTS, *server_described.METRICS) for name in one.attributes}
    assert len(told) == len(set(told))
    assert {*told, *on_metrics} == {value for name, value in vars(server_names).items() if name.isupper()}
    assert on_metrics - set(told) <= set(ATTRIBUTES)
    assert list(server_described.REASONS) == list(ServerReason)


def type_of(value: Any) -> str:
    """The OpenTelemetry type of an attribute's value."""
    if isinstance(value, tuple):
        return "string[]"
    return {bool: "boolean", int: "int", float: "double", str: "string"}[type(value)]


def wrong(found: Any, allowed: tuple[Attribute, ...]) -> list[str]:
    """Attributes of ours that are not documented so."""
    known = {one.name: one.type.partition(",")[0] for one in allowed}
    return [
        f"{name}={value!r}"
        for name, value in found.items()
        if known.get(name) != type_of(value) and (name in known or name.startswith(("httptrace.", "http.conn.")))
    ]


@pytest.mark.settings(spans="all")
async def test_everything_emitted_is_documented(
    flavour: Flavour, server: Server, h2_server: Callable[..., H2Server], client_tls: Any, telemetry: Telemetry
) -> None:
    """All attributes, spans, links and metrics of a lively program are documented where they are, with their type."""
    h2 = h2_server()
    async with flavour.client(limits=flavour.httpx.Limits(max_connections=1)) as client:
        for path in ("/", "/close", "/half"):
            async with client.stream("GET", server.url(path, host="localhost")):
                pass
        await client.get(server.url(host="localhost"))
        await client.get(server.url(host="localhost"))
        with pytest.raises(flavour.httpx.ConnectError):
            await client.get(f"http://127.0.0.1:{free_port()}/")
        held = await client.open("GET", server.url())
        with pytest.raises(flavour.httpx.PoolTimeout):
            await client.get(server.url(), timeout=0.05)
        await held.close()
    async with flavour.client(verify=client_tls, http2=True) as client:
        await client.get(h2.url("/"))
        await client.get(h2.url("/"))
        telemetry.metric("httptrace.requests")

    spans = {one.name: one for one in described.SPANS}
    links = {one.name: one for one in described.LINKS}
    ours = [span for span in telemetry.spans() if span.name != "GET"]
    # The last is of clients with several requests in one span: tests/adapters/urllib3.
    assert {span.name for span in ours} == set(spans) - {"http.proxy", "http.exchange"}
    for span in ours:
        assert set(span.attributes or ()) <= set(spans[span.name].attributes)
        assert wrong(span.attributes, (*described.REQUEST, *described.OTHERS)) == []
    seen = set()
    for span in telemetry.requests():
        assert wrong(span.attributes, described.REQUEST) == []
        for link in span.links:
            kind = str((link.attributes or {})["httptrace.link"])
            seen.add(kind)
            assert set(link.attributes or ()) <= {"httptrace.link", *links[kind].attributes}
    assert seen == set(links)
    for metric in described.METRICS:
        for point in telemetry.metric(metric.name):
            assert {name for name, _ in point} <= set(metric.attributes), metric.name
