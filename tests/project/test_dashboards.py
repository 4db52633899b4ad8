"""The dashboard's JSON is what its code writes, and what Grafana can load; tests/backends asks the queries."""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import pytest

if sys.version_info < (3, 11):
    pytest.skip("grafana-foundation-sdk wants Python 3.11", allow_module_level=True)

from grafana_foundation_sdk.cog import plugins
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import units
from grafana_foundation_sdk.models.dashboard import Dashboard
from kit import contract

from otel_httptrace.server import described as server_described
from otel_httptrace.server.ledger import Reason
from otel_httptrace.telemetry import described, names

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "dashboards/httptrace.json").read_text()
DASHBOARD = json.loads(TEXT)
VARIABLES = {one["name"]: one for one in DASHBOARD["templating"]["list"]}
PANELS = {panel["title"]: panel for panel in DASHBOARD["panels"] if panel["type"] != "row"}

#: What Prometheus has of each instrument, in the collector's spelling.
KINDS = {"histogram": ("_bucket", "_count", "_sum"), "counter": ("_total",)}
#: Labels that are not attributes of ours: Prometheus's, and those of the spanmetrics connector.
LABELS = {"__name__", "job", "le", "service", "span_kind", "span_name", "status_code"}
SPAN_METRICS = {"traces_span_metrics_calls_total", "traces_span_metrics_duration_seconds_bucket"}
GRAFANA = {"__all", "__rate_interval", "__range", "__from", "__to", "__url_time_range"}


def code() -> Any:
    """`dashboards/httptrace.py`, as a module."""
    spec = importlib.util.spec_from_file_location("dashboard_code", ROOT / "dashboards/httptrace.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def expressions() -> Iterator[str]:
    """All queries."""
    for panel in PANELS.values():
        yield from (target["expr"] for target in panel["targets"])
    yield from (one["query"]["query"] for one in VARIABLES.values() if one["type"] == "query")


def prometheus_names() -> set[str]:
    """The names of the contract's metrics, in Prometheus."""
    found = set(SPAN_METRICS)
    assert {one.name for one in server_described.METRICS} == contract.server_metrics()
    kinds = {one.name: one.kind.removeprefix("observable ") for one in (*described.METRICS, *server_described.METRICS)}
    for name, stated in kinds.items():
        kind, _, unit = stated.partition(", ")
        base = name.replace(".", "_") + ("_seconds" if unit == "s" else "")
        found.update(base + end for end in KINDS.get(kind, ("",)))
    return found


def test_the_committed_json_is_what_make_writes() -> None:
    """The committed JSON is what `make dashboards` writes."""
    assert code().text() == TEXT


def test_links_are_made_with_the_address_of_the_docs(tmp_path: Path) -> None:
    """Run as a program, with the address of docs/, it makes links of what the descriptions name."""
    (tmp_path / "httptrace.py").write_text((ROOT / "dashboards/httptrace.py").read_text())

    subprocess.run([sys.executable, "httptrace.py", "--docs", "https://docs.example"], cwd=tmp_path, check=True)

    written = (tmp_path / "httptrace.json").read_text()
    assert written.count("(https://docs.example/incidents.md#story-1)") > 5
    assert re.sub(r"\[(docs/[\w.#-]+)\]\(https://docs\.example/[\w.#-]+\)", r"`\1`", written) == TEXT


def test_grafanas_model_reads_and_writes_the_same_json() -> None:
    """Grafana's own model reads the JSON and writes the same: no field is misspelt or of another type."""
    plugins.register_default_plugins()

    again = json.dumps(Dashboard.from_json(json.loads(TEXT)), cls=JSONEncoder, indent=2, sort_keys=True) + "\n"

    assert again == TEXT


def test_panels_fill_the_grid_without_overlap() -> None:
    """Panels have numbers and names of their own, and fill each line of the grid without a gap or an overlap."""
    # Tests call panels by their titles: of two with one title, one would go untested.
    assert len(PANELS) == sum(panel["type"] != "row" for panel in DASHBOARD["panels"])
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert ids == list(range(1, len(ids) + 1))

    cells: dict[tuple[int, int], str] = {}
    for panel in DASHBOARD["panels"]:
        at = panel["gridPos"]
        for cell in ((x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])):
            assert cell not in cells, f"{panel['title']} is on {cells[cell]}"
            cells[cell] = panel["title"]
    height = max(y for _, y in cells) + 1
    assert set(cells) == {(x, y) for x in range(24) for y in range(height)}


def test_every_data_source_and_variable_is_known() -> None:
    """Every data source is a variable, provisioned under the name it has; no variable is unknown."""
    sources = {name: one["current"]["value"] for name, one in VARIABLES.items() if one["type"] == "datasource"}
    assert sources == {"prometheus": "prometheus", "tempo": "tempo", "jaeger": "jaeger"}
    found: list[Any] = [one["datasource"] for one in VARIABLES.values() if one["type"] == "query"]
    for panel in PANELS.values():
        found += [panel["datasource"], *(target["datasource"] for target in panel["targets"])]
    assert all(one == {"type": "prometheus", "uid": "${prometheus}"} for one in found)

    used = {a or b for a, b in re.findall(r"\$\{(\w+)[^}]*\}|\$([a-z_]\w*)", TEXT)}
    assert used == {*VARIABLES, *GRAFANA, "__field"}


@pytest.mark.parametrize("expression", list(expressions()))
def test_queries_use_names_of_the_contract(expression: str) -> None:
    """Metrics, labels and values of a query are those of the contract."""
    attributes = {name.replace(".", "_") for name in contract.attributes()}
    metrics = {
        *re.findall(r"\w+(?=\{)", expression),
        *re.findall(r"label_values\((\w+),", expression),
        # Either of several.
        *(name for several in re.findall(r'__name__=~"([^"]*)"', expression) for name in several.split("|")),
    }
    # Braces of Grafana's variables are none of PromQL's.
    inside = ", ".join(re.findall(r"(?<!\$)\{((?:\$\{\w+:\w+\}|[^}])*)\}", expression))
    labels = {
        *re.findall(r"(\w+)(?:=|!)", inside),
        *(label for found in re.findall(r"(?:by|on) \(([^)]*)\)", expression) for label in found.split(", ")),
    }

    assert metrics
    assert metrics - prometheus_names() == set()
    assert labels - attributes - LABELS == set()
    # A limit is on what is grouped by: on another label it would be on nothing.
    for on in re.findall(r" on \(([^)]*)\)", expression):
        assert f"by ({on})" in expression or f"by (le, {on})" in expression
    for chosen in re.findall(r'_reason=~"([^"]*)"', inside):
        assert set(chosen.split("|")) <= {str(reason) for reason in described.REASONS}
    for chosen in re.findall(r'span_name=~"http\.\(([^)]*)\)"', inside):
        assert {f"http.{name}" for name in chosen.split("|")} <= {one.name for one in described.SPANS}


@pytest.mark.parametrize("title", PANELS)
def test_each_panel_explains_itself(title: str) -> None:
    """Each panel says what it means and what to do, has a unit and legends, is of few series, and leads on."""
    panel = PANELS[title]
    means, normal, do, more = panel["description"].split("\n\n")
    assert means
    assert normal.startswith("**Normal:** ")
    assert do.startswith("**What to do:** ")
    stories = re.findall(r"`docs/incidents\.md#story-(\d+)`", more)
    assert stories
    assert all(1 <= int(story) <= 15 or 41 <= int(story) <= 46 for story in stories)
    # What a description leads to in this dashboard is there.
    rows = {row["title"] for row in DASHBOARD["panels"]}
    assert set(re.findall(r'"([^"]+)"', panel["description"])) - rows == set()

    defaults = panel["fieldConfig"]["defaults"]
    assert defaults["unit"] in set(map(str, vars(units).values()))
    assert defaults["links"]
    for target in panel["targets"]:
        assert target["legendFormat"]
        # The SDK exports once a minute: a rate needs several of these.
        assert target["interval"] == "1m"
        by = set(re.findall(r"by \(([^)]*)\)", target["expr"]))
        # Enums have a dozen values at most. Of servers, names and lines there may be thousands.
        if re.search(r"server_address|question_name|closed_at|job|server_port|peer_address", " ".join(by)):
            assert re.search(r"(topk|bottomk)\(1[05], ", target["expr"])
        # What is one number or a bar is not the last of a range that may have ended long before.
        of_now = panel["type"] != "timeseries"
        assert (target["instant"], target["range"]) == (of_now, not of_now)
    if panel["type"] != "timeseries":
        assert defaults["thresholds"]["steps"][0].get("value") is None


@pytest.mark.parametrize("title", PANELS)
def test_panels_lead_to_the_same_traces_in_tempo_and_jaeger(title: str) -> None:
    """A panel leads to the same traces in Tempo and in Jaeger, by attributes and labels of the contract."""
    links = PANELS[title]["fieldConfig"]["defaults"]["links"]
    if title == "Reuse by service":
        return
    tempo, *searches = (unquote(link["url"]) for link in links)

    conditions = dict(re.findall(r'span\.([\w.]+) (?:=|!=|>=) (\\"[^"]*\\"|[\w.]+)', tempo))
    assert set(conditions) <= contract.attributes() | {names.SERVER_ADDRESS}
    for jaeger in searches:
        tags = dict(re.findall(r'([\w.]+)=(\\"[^"]*\\"|\w+)', jaeger.partition('"tags":"')[2]))
        own = {name: value for name, value in tags.items() if name not in ("error", "span.kind")}
        assert set(own) <= contract.attributes() | {names.SERVER_ADDRESS}
        # What Tempo finds with one query may take several of Jaeger: tests/backends tells whether they find as much.
        if len(searches) == 1:
            assert own == conditions
            assert ("error" in tags) is ("status = error" in tempo)
            assert ("span.kind" in tags) is ("kind = " in tempo)
    # It stays in the organisation that it was clicked in.
    assert all("orgId" not in link["url"] for link in links)
    # A click has no label that the series have not.
    labels = {label for link in links for label in re.findall(r"__field\.labels\.(\w+)", link["url"])}
    for target in PANELS[title]["targets"]:
        assert labels <= set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"])), title


@pytest.mark.parametrize(
    ("title", "query"),
    [
        (
            "Failed requests",
            '(span.httptrace.failed_phase != nil || span.httptrace.body.outcome = "failed") '
            "&& status = error && kind = client",
        ),
        ("Wait for the pool, p99", "span.httptrace.time.pool >= 0.1"),
        ("Wait for the pool", "span.httptrace.time.pool >= 0.1"),
        (
            "The server's connections end, because",
            '(span.httptrace.server.conn.close_reason = "${__field.labels.httptrace_server_conn_close_reason:percentencode}" || '
            'span.httptrace.server.lost.close_reason = "${__field.labels.httptrace_server_conn_close_reason:percentencode}")',
        ),
    ],
)
def test_one_query_for_several_searches(title: str, query: str) -> None:
    """What takes several searches in Jaeger is one query in Tempo: it has "or" and "more than"."""
    tempo, *searches = (link["url"] for link in PANELS[title]["fieldConfig"]["defaults"]["links"])
    pane = json.loads(parse_qs(urlsplit(tempo).query)["panes"][0])["traces"]

    assert len(searches) > 1
    assert pane["queries"][0]["query"] == f'{{ {query} && resource.service.name = "${{service:percentencode}}" }}'


def test_a_row_for_servers_is_empty_and_says_why() -> None:
    """Where a service is no server, each panel about servers says so instead of "No data"."""
    titles = [panel["title"] for panel in DASHBOARD["panels"]]
    about = titles[titles.index("Seen from the server") + 1 :]

    assert len(about) == 4
    for title, panel in PANELS.items():
        asks = any("httptrace_server_" in target["expr"] for target in panel["targets"])
        assert asks is (title in about)
        if asks:
            assert "server" in panel["fieldConfig"]["defaults"]["noValue"]


def colours(title: str) -> dict[str, str]:
    """The colour of each series of a panel that has one, by its legend."""
    overrides = PANELS[title]["fieldConfig"]["overrides"]
    return {one["matcher"]["options"]: one["properties"][0]["value"]["fixedColor"] for one in overrides}


@pytest.mark.parametrize(
    "title", ["Opened, because", "Closed, because", "Lifetime of connections, median by why they closed"]
)
def test_reasons_have_colours(title: str) -> None:
    """Every reason has a colour of its own: warm where something is wasted or lost, grey where nothing is wrong."""
    found = colours(title)

    assert found.keys() == described.REASONS.keys()
    assert len(set(found.values())) == len(found)
    harmless = {"first_connection", "all_busy", "client_closed", "upgraded", "unknown"}
    assert {name for name, colour in found.items() if re.match("#|text", colour)} == harmless
    others = {"server_closed", "goaway", "request_cancelled"}
    assert {name for name, colour in found.items() if re.search("blue|purple", colour)} == others


def test_outcomes_have_colours() -> None:
    """Each way in which a body ends has a colour: grey only where it was read to its end."""
    found = colours("Bodies by outcome")

    assert found.keys() == {"complete", "closed_early", "never_closed", "failed", "cancelled"}
    assert [name for name, colour in found.items() if colour.startswith("#")] == ["complete"]


def test_reasons_of_servers_have_colours() -> None:
    """Every reason for which a server's connection ends has a colour: warm where somebody lost by it, else cold."""
    found = colours("The server's connections end, because")

    assert found.keys() == {str(reason.value) for reason in Reason}
    assert len(set(found.values())) == len(found)
    lost = {"error", "client_left", "worker_sync", "connection_close", "keepalive_timeout"}
    assert {name for name, colour in found.items() if re.search("red|orange|yellow", colour)} == lost
