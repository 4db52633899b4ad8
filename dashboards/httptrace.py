# A dashboard is read at three in the morning, from the top. So: first six numbers
# that say whether anything is wrong and what, then what failed, then a row for
# each cause. Each panel says what is normal and what to do, and leads to the traces
# behind it: a click on a series searches for them in Tempo or in Jaeger.
#
# Rule 1: at most some twenty series in a panel, chosen once for all that is shown.
# Rule 2: one service at a time. Series stay few, and Jaeger searches by service only;
#         "Reuse by service" is for finding the service.
# Rule 3: nothing is filled in that was not measured: 0 where there were requests and
#         none of the kind, no data where there were no requests.
# Rule 4: the numbers at the top are of now, and asked for now only. Of a range, Grafana's
#         last value that is a number is of any time in it: a trouble long over.

"""The Grafana dashboard, as code: `python dashboards/httptrace.py` writes httptrace.json beside this file.

`--docs URL` makes links of what the descriptions say of docs/, for dashboards that are served where docs/ is.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

from grafana_foundation_sdk.builders import bargauge, common, dashboard, prometheus, stat, timeseries
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import common as options
from grafana_foundation_sdk.models import dashboard as models
from grafana_foundation_sdk.models import prometheus as promqls

JSON: Final = Path(__file__).with_suffix(".json")

#: The last of those dashboards that are one JSON object with panels, and are what provisioning reads.
SCHEMA: Final = 42

#: What stands in queries for the service chosen; its namespace, if it has one, is part of `job` only.
#: Grafana escapes it for a regular expression if told to; in quotes its backslashes would have to be doubled.
SERVICE: Final = "job=~`(.+/)?${service:regex}`"
#: And for the servers chosen.
SELECTED: Final = f'{SERVICE}, server_address=~"$server_address"'
#: Spans of requests that got a connection. Other libraries have CLIENT spans too, but without this label.
CONNECTED: Final = 'span_kind="SPAN_KIND_CLIENT", http_conn_reused!=""'
#: And of those that failed, or were cancelled, before there was a response.
UNANSWERED: Final = 'span_kind="SPAN_KIND_CLIENT", httptrace_failed_phase!=""'

#: How often applications export metrics: the SDK's default. A rate over less than some of these has gaps
#: in it, however often Prometheus scrapes: Grafana takes four for $__rate_interval.
EXPORTED: Final = "1m"

PROMETHEUS: Final = models.DataSourceRef(type_val="prometheus", uid="${prometheus}")
FAST, SLOW, WRONG = "green", "orange", "red"

#: Why a client's connections open and close. Warm where something is lost or wasted, cold where it is the other
#: end's or a caller's doing, grey where nothing is wrong.
REASONS: Final = {
    "body_not_read": "red",
    "response_leaked": "dark-red",
    "request_failed": "semi-dark-red",
    "new_client": "dark-orange",
    "keepalive_limit": "orange",
    "pool_full": "light-orange",
    "connection_close": "dark-yellow",
    "keepalive_expired": "yellow",
    "request_cancelled": "purple",
    "server_closed": "blue",
    "goaway": "light-blue",
    "client_closed": "#8e8e8e",
    "upgraded": "#7a7a7a",
    "first_connection": "#b4b4b4",
    "all_busy": "#a0a0a0",
    "unknown": "text",
}
#: How response bodies end: as above.
OUTCOMES: Final = {
    "never_closed": "dark-red",
    "failed": "red",
    "closed_early": "orange",
    "cancelled": "purple",
    "complete": "#a0a0a0",
}
#: Why a server's connections end. Warm where that costs somebody a connection, or a request; cold where it must be.
ENDS: Final = {
    "error": "dark-red",
    "client_left": "red",
    "worker_sync": "dark-orange",
    "connection_close": "orange",
    "keepalive_timeout": "yellow",
    "client_closed": "blue",
    "goaway": "light-blue",
    "max_requests": "dark-blue",
    "shutdown": "purple",
    "upgraded": "green",
    "unknown": "text",
}

Query = tuple[str, str]
Link = models.DashboardLink


def promql(text: str) -> str:
    """A query in one line, with the words in capitals replaced."""
    text = " ".join(text.split()).replace("( ", "(").replace(" )", ")")
    for word, meant in (
        ("SELECTED", SELECTED),
        ("SERVICE", SERVICE),
        ("UNANSWERED", UNANSWERED),
        ("CONNECTED", CONNECTED),
    ):
        text = text.replace(word, meant)
    return text


def few(query: str, by: str, keep: str = "topk(10, {})") -> str:
    """*query*, of whose series only those are kept that come first over all the time shown.

    `topk` alone chooses again at each point: a panel over a day could have hundreds.
    """
    ranked = query.replace("[$__rate_interval]", "[$__range] @ end()")
    return f"{query} and on ({by}) {keep.format(ranked)}"


def share(part: str, whole: str) -> str:
    """*part* of *whole*, of which there may be none."""
    return f"(sum({part}) or 0 * sum({whole})) / sum({whole})"


# From a panel to its traces.


def label(name: str) -> str:
    """The value of the clicked series' label, in a URL."""
    return f"${{__field.labels.{name}:percentencode}}"


def _explore(source: str, kind: str, query: Mapping[str, Any]) -> str:
    pane = {
        "datasource": source,
        "queries": [{"refId": "A", "datasource": {"type": kind, "uid": source}, **query}],
        "range": {"from": "${__from}", "to": "${__to}"},
    }
    text = json.dumps({"traces": pane}, separators=(",", ":"))
    # Grafana's variables stay as they are, for Grafana to fill in.
    parts = re.split(r"(\$\{[^}]+\})", text)
    encoded = "".join(part if part.startswith("${") else quote(part, safe="") for part in parts)
    # Without an orgId: Grafana stays in the organisation of who clicks. With one it would change to that.
    return f"/explore?schemaVersion=1&panes={encoded}"


def _written(value: str | bool) -> str:
    return str(value).lower() if isinstance(value, bool) else f'"{value}"'


def in_tempo(what: str, *conditions: str) -> dashboard.DashboardLink:
    """A link to the traces of *what*, of which one span has all that these conditions say, in TraceQL."""
    query = " && ".join([*conditions, 'resource.service.name = "${service:percentencode}"'])
    tempo = {"queryType": "traceql", "query": f"{{ {query} }}", "limit": 50, "tableType": "spans"}
    return _link(what, "Tempo", _explore("${tempo}", "tempo", tempo))


def in_jaeger(
    what: str, tags: Mapping[str, str | bool], *, name: str | None = None, at_least: str | None = None
) -> dashboard.DashboardLink:
    """A link to the traces of *what*, of which one span has these tags, and lasted *at_least*.

    Jaeger's search has exact matches only, in logfmt: neither "or" nor "more than".
    """
    jaeger = {
        "queryType": "search",
        "service": "${service:percentencode}",
        **({"operation": name} if name else {}),
        **({"tags": " ".join(f"{key}={_written(value)}" for key, value in tags.items())} if tags else {}),
        **({"minDuration": at_least} if at_least else {}),
        "limit": 50,
    }
    return _link(what, "Jaeger", _explore("${jaeger}", "jaeger", jaeger))


def _link(what: str, where: str, url: str) -> dashboard.DashboardLink:
    return dashboard.DashboardLink(f"Traces {what} ({where})").url(url).target_blank(True)


def traces(
    what: str, *, name: str | None = None, failed: bool = False, served: bool = False, **attributes: str | bool
) -> Iterator[dashboard.DashboardLink]:
    """Links to the traces of *what*, in Tempo and in Jaeger.

    Args:
        what: the rest of a sentence that begins with "Traces".
        name: of the span.
        failed: only spans with the status ERROR.
        served: only spans of requests that the service has answered, and not sent.
        attributes: of the span; a dot is written as two underscores.
    """
    wanted = {key.replace("__", "."): value for key, value in attributes.items()}
    yield in_tempo(
        what,
        *([f'name = "{name}"'] if name else []),
        *(f"span.{key} = {_written(value)}" for key, value in wanted.items()),
        *(["status = error"] if failed else []),
        *(["kind = server"] if served else []),
    )
    tags = {**wanted, **({"error": True} if failed else {}), **({"span.kind": "server"} if served else {})}
    yield in_jaeger(what, tags, name=name)


def failed_requests() -> Iterator[dashboard.DashboardLink]:
    """Links to the requests that "Failed requests" counts: a response with an error's status code is none of them."""
    yield in_tempo(
        "of failed requests",
        '(span.httptrace.failed_phase != nil || span.httptrace.body.outcome = "failed")',
        "status = error",
        "kind = client",
    )
    yield in_jaeger("of requests without a connection", {"error": True}, name="http.getconn")
    for phase in ("send", "wait"):
        yield in_jaeger(
            f"of requests that failed in the phase {phase}",
            {"httptrace.failed_phase": phase, "error": True, "span.kind": "client"},
        )
    yield in_jaeger("of responses that broke off", {"httptrace.body.outcome": "failed"})


def waits() -> Iterator[dashboard.DashboardLink]:
    """Links to the requests that waited for the pool for 100 ms and more, however the wait ended."""
    yield in_tempo("of waits of 100 ms and more", "span.httptrace.time.pool >= 0.1")
    for what, reused in (
        ("of waits of 100 ms and more that ended with a reused connection", True),
        # Then the span is of the lookup, the connect and the handshake too.
        ("of such waits that ended with a new connection, and of slow connects: see httptrace.time.pool", False),
    ):
        yield in_jaeger(what, {"http.conn.reused": reused}, name="http.getconn", at_least="100ms")
    yield in_jaeger("of waits, of any length, that ended without a connection", {"httptrace.failed_phase": "pool"})


def opened(what: str, **attributes: Any) -> Iterator[dashboard.DashboardLink]:
    """Links to the traces of *what*, by the span of a connection that was opened: it has the server's address."""
    return traces(what, name="http.getconn", http__conn__reused=False, **attributes)


def ended() -> Iterator[dashboard.DashboardLink]:
    """Links to the requests that tell of a server's connections which ended so.

    A connection that ends between two requests has none that could tell. So the first on the peer's next one does.
    """
    here, before = "httptrace.server.conn.close_reason", "httptrace.server.lost.close_reason"
    reason = label("httptrace_server_conn_close_reason")
    told = " || ".join(f"span.{name} = {_written(reason)}" for name in (here, before))
    yield in_tempo("of connections that ended so", f"({told})")
    yield in_jaeger("whose connection ended so", {here: reason})
    yield in_jaeger("on the next connection of a peer after one that ended so between requests", {before: reason})


# The panels.


class Page:
    """Builds the dashboard from top to bottom.

    Args:
        docs: the URL of docs/; without one, its files are named and not linked.
    """

    def __init__(self, docs: str | None = None) -> None:
        self._docs = docs
        self._number = 0
        self.built = (
            dashboard.Dashboard("HTTP client connections (otel-httptrace)")
            .uid("httptrace")
            .description(
                "Connections, lookups and response bodies of httpx and httpx2 requests, as otel-httptrace sees them; "
                "and the connections of servers, as those see them."
            )
            .tags(["otel-httptrace", "httpx", "http"])
            .time("now-1h", "now")
            .timepicker(dashboard.TimePicker().refresh_intervals(["10s", "30s", "1m", "5m", "15m", "1h"]))
            .refresh("1m")
            .timezone("browser")
            .tooltip(models.DashboardCursorSync.CROSSHAIR)
            .editable()
        )

    def about(self, means: str, normal: str, do: str, *stories: int) -> str:
        """A description: what it means, what is normal, what to do, and where to read on."""
        found = []
        for number in stories:
            where = f"docs/incidents.md#story-{number}"
            found.append(f"[{where}]({self._docs}/{where.removeprefix('docs/')})" if self._docs else f"`{where}`")
        return f"{means}\n\n**Normal:** {normal}\n\n**What to do:** {do}\n\n**More:** {', '.join(found)}"

    def row(self, title: str) -> None:
        """What follows is of this row."""
        self._number += 1
        self.built.with_row(dashboard.Row(title).id(self._number))

    def add(
        self,
        panel: Any,
        title: str,
        description: str,
        queries: Sequence[Query],
        size: tuple[int, int],
        *,
        now: bool = False,
    ) -> None:
        """A panel with *queries*, each a query and a legend, of *size*, width (of 24) and height.

        With *now* they are asked for the end of the time shown only.
        """
        self._number += 1
        panel.id(self._number).title(title).description(description).datasource(PROMETHEUS).span(size[0]).height(
            size[1]
        )
        for letter, (query, legend) in zip("ABCDE", queries, strict=False):
            target = prometheus.Dataquery().expr(promql(query)).legend_format(legend).ref_id(letter)
            target = target.instant() if now else target.range()
            target.datasource(PROMETHEUS).editor_mode(promqls.QueryEditorMode.CODE).interval(EXPORTED)
            panel.with_target(target)
        self.built.with_panel(panel)

    def number(
        self,
        title: str,
        description: str,
        query: str,
        unit: str,
        steps: Sequence[tuple[float | None, str]],
        links: Iterator[dashboard.DashboardLink],
        *,
        none: str = "no requests",
    ) -> None:
        """One of the numbers at the top."""
        panel = (
            stat.Panel()
            .unit(unit)
            .decimals(2 if unit == "short" else 1)
            .no_value(none)
            .thresholds(_thresholds(steps))
            .color_scheme(dashboard.FieldColor().mode(models.FieldColorModeId.THRESHOLDS))
            .color_mode(options.BigValueColorMode.BACKGROUND)
            .graph_mode(options.BigValueGraphMode.NONE)
            .reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]).fields("").values(False))
            .data_links(list(links))
        )
        # Without requests a share is 0 / 0, and a quantile is of nothing: NaN, which no comparison lets pass.
        self.add(panel, title, description, [(f"{query} >= 0", title)], (4, 5), now=True)

    def lines(
        self,
        title: str,
        description: str,
        queries: Sequence[Query],
        unit: str,
        links: Iterator[dashboard.DashboardLink],
        *,
        width: int = 12,
        stacked: bool = False,
        exemplars: bool = False,
        most: float | None = None,
        steps: Sequence[tuple[float | None, str]] = (),
        colors: Mapping[str, str] | None = None,
        none: str | None = None,
    ) -> None:
        """What went on over time.

        *colors* are those of series, by their legend. *none* is shown where there is no series.
        """
        panel = (
            timeseries.Panel()
            .unit(unit)
            .min(0)
            .line_width(1)
            .fill_opacity(60 if stacked else 10)
            .show_points(options.VisibilityMode.NEVER)
            # Several scrapes may be missing before there is a gap.
            .span_nulls(False)
            .legend(
                common.VizLegendOptions()
                .display_mode(options.LegendDisplayMode.TABLE)
                .placement(options.LegendPlacement.BOTTOM)
                .show_legend(True)
                .calcs(["lastNotNull", "max"])
            )
            .tooltip(
                common.VizTooltipOptions().mode(options.TooltipDisplayMode.MULTI).sort(options.SortOrder.DESCENDING)
            )
            .color_scheme(dashboard.FieldColor().mode(models.FieldColorModeId.PALETTE_CLASSIC_BY_NAME))
            .data_links(list(links))
        )
        if stacked:
            panel.draw_style(options.GraphDrawStyle.BARS)
            panel.stacking(common.StackingConfig().mode(options.StackingMode.NORMAL).group("A"))
        if most is not None:
            panel.max(most)
        if steps:
            panel.thresholds(_thresholds(steps))
            panel.thresholds_style(common.GraphThresholdsStyleConfig().mode(options.GraphTresholdsStyleMode.DASHED))
        for name, color in (colors or {}).items():
            fixed = models.DynamicConfigValue(id_val="color", value={"mode": "fixed", "fixedColor": color})
            panel.override_by_name(name, [fixed])
        if none is not None:
            panel.no_value(none)
        self.add(panel, title, description, queries, (width, 9))
        if exemplars:
            for target in panel.build().targets or []:
                target.exemplar = True  # type: ignore[attr-defined]

    def bars(
        self,
        title: str,
        description: str,
        query: Query,
        unit: str,
        links: Iterator[dashboard.DashboardLink],
        *,
        width: int,
        steps: Sequence[tuple[float | None, str]],
        most: float | None = None,
    ) -> None:
        """A bar for each, over all the time shown."""
        panel = (
            bargauge.Panel()
            .unit(unit)
            .min(0)
            .no_value("none")
            .thresholds(_thresholds(steps))
            .color_scheme(dashboard.FieldColor().mode(models.FieldColorModeId.THRESHOLDS))
            .display_mode(options.BarGaugeDisplayMode.BASIC)
            .orientation(options.VizOrientation.HORIZONTAL)
            .show_unfilled(True)
            .value_mode(options.BarGaugeValueMode.TEXT)
            .reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]).fields("").values(False))
            .data_links(list(links))
        )
        panel.decimals(0)
        if most is not None:
            panel.max(most)
        self.add(panel, title, description, [query], (width, 9), now=True)


def _thresholds(steps: Sequence[tuple[float | None, str]]) -> dashboard.ThresholdsConfig:
    return (
        dashboard.ThresholdsConfig()
        .mode(models.ThresholdsMode.ABSOLUTE)
        .steps([models.Threshold(value=value, color=color) for value, color in steps])
    )


def variables(page: Page) -> None:
    """What is chosen at the top of the page."""
    for name, title in (("prometheus", "Prometheus"), ("tempo", "Tempo"), ("jaeger", "Jaeger")):
        page.built.with_variable(
            dashboard.DatasourceVariable(name)
            .label(title)
            .type(name)
            .current(models.VariableOption(text=title, value=name))
        )
    for name, title, query, regex in (
        # Also those that only answer requests.
        (
            "service",
            "Service",
            'label_values({__name__=~"httptrace_requests_total|httptrace_server_requests_total"}, job)',
            "/(?:.*\\/)?(.+)/",
        ),
        ("server_address", "Server", f"label_values(httptrace_requests_total{{{SERVICE}}}, server_address)", ""),
    ):
        variable = (
            dashboard.QueryVariable(name)
            .label(title)
            .datasource(PROMETHEUS)
            .query({"qryType": 1, "query": query, "refId": "PrometheusVariableQueryEditor-VariableQuery"})
            .regex(regex)
            .refresh(models.VariableRefresh.ON_TIME_RANGE_CHANGED)
            .sort(models.VariableSort.ALPHABETICAL_ASC)
        )
        if name == "server_address":
            variable.multi(True).include_all(True).all_value(".*")
            variable.current(models.VariableOption(text="All", value="$__all"))
        page.built.with_variable(variable)


def glance(page: Page) -> None:
    """Whether anything is wrong, and what."""
    page.row("At a glance")
    calls = "rate(traces_span_metrics_calls_total{{SERVICE, {}}}[$__rate_interval])"
    failed, unanswered, connected = (
        calls.format(kind)
        for kind in (
            'CONNECTED, httptrace_body_outcome="failed"',
            "UNANSWERED",
            "CONNECTED",
        )
    )
    errors = calls.format('UNANSWERED, status_code="STATUS_CODE_ERROR"')
    page.number(
        "Failed requests",
        page.about(
            "Share of requests that got no response, or a response that broke off. Status codes are responses. "
            "All servers of the service.",
            "0, or as low as the network allows.",
            'see "Failures" below for the phase and the error.',
            4,
            8,
            14,
        ),
        share(f"{errors} or {failed}", f"{connected} or {unanswered}"),
        "percentunit",
        [(None, FAST), (0.001, SLOW), (0.01, WRONG)],
        failed_requests(),
    )
    page.number(
        "Wait for the pool, p99",
        page.about(
            "How long requests waited for a connection of the pool, of those that had to wait.",
            "none, or milliseconds.",
            "raise `max_connections`, or cut the concurrency; first see whether leaked responses hold the pool.",
            3,
            4,
        ),
        "histogram_quantile(0.99, sum by (le) (rate("
        "http_client_request_time_in_queue_seconds_bucket{SELECTED}[$__rate_interval])))",
        "s",
        [(None, FAST), (0.1, SLOW), (1, WRONG)],
        waits(),
        none="no waits",
    )
    requests = "rate(httptrace_requests_total{{SELECTED, http_conn_reused{}}}[$__rate_interval])"
    page.number(
        "Reuse",
        page.about(
            "Share of requests that were sent on a connection which had carried a request before.",
            "above 90 % where a service talks to few servers all the time.",
            'see "Why connections open and close" for the reason.',
            1,
            9,
        ),
        share(requests.format('="true"'), requests.format('!=""')),
        "percentunit",
        [(None, WRONG), (0.5, SLOW), (0.9, FAST)],
        opened("of requests that opened a connection"),
    )
    page.number(
        "Lookups per request",
        page.about(
            "DNS lookups for each request. All servers of the service: what is looked up may be a proxy.",
            "close to 0: a lookup belongs to a new connection.",
            "find out why connections are opened; then each saves its lookup too.",
            1,
            9,
        ),
        PER_REQUEST,
        "short",
        [(None, FAST), (0.1, SLOW), (0.5, WRONG)],
        traces("with a lookup", name="http.dns"),
        none="no lookups",
    )
    bodies = "rate(httptrace_bodies_total{{SELECTED{}}}[$__rate_interval])"
    page.number(
        "Bodies closed early",
        page.about(
            "Share of responses that were closed before their body had been read to its end. Over HTTP/1.1 each costs "
            "its connection.",
            "0, but for streams that users leave.",
            'see "Closed early, by line": read the body to its end, or ask for less.',
            1,
            2,
        ),
        share(bodies.format(', httptrace_body_outcome="closed_early"'), bodies.format("")),
        "percentunit",
        [(None, FAST), (0.01, SLOW), (0.1, WRONG)],
        traces("with a body closed early", httptrace__body__outcome="closed_early"),
    )
    page.number(
        "Oldest open response",
        page.about(
            "Age of the oldest response that is neither read to its end nor closed. It holds its connection.",
            "as long as the longest download or stream.",
            'see "Leaks": an age that grows with the clock is a response that nobody will close.',
            4,
        ),
        "max(httptrace_responses_open_max_age_seconds{SELECTED})",
        "s",
        [(None, FAST), (60, SLOW), (600, WRONG)],
        traces("with a response never closed", httptrace__body__outcome="never_closed"),
        none="none open",
    )


PER_REQUEST = (
    "sum(rate(dns_lookup_duration_seconds_count{SERVICE}[$__rate_interval])) / "
    "sum(rate(httptrace_requests_total{SERVICE}[$__rate_interval]))"
)


def failures(page: Page) -> None:
    """What failed, and where."""
    page.row("Failures")
    page.lines(
        "Failed requests by phase and error",
        page.about(
            "In which phase requests failed, and with which exception. `pool`: no connection became free. "
            "`dns`, `connect`, `tls`: no connection was made. `wait`: no response came. All servers of the service.",
            "nothing.",
            "`pool`: look at leaks and waits. `dns`: look at lookups. `wait` on a reused connection: the server closes "
            "idle connections sooner than the pool does; lower `keepalive_expiry`.",
            4,
            6,
            8,
        ),
        [
            (
                few(
                    "sum by (httptrace_failed_phase, error_type) (rate(traces_span_metrics_calls_total{"
                    'SERVICE, UNANSWERED, error_type!=""}[$__rate_interval]))',
                    "httptrace_failed_phase, error_type",
                ),
                "{{httptrace_failed_phase}}: {{error_type}}",
            )
        ],
        "reqps",
        traces(
            "that failed so",
            httptrace__failed_phase=label("httptrace_failed_phase"),
            error__type=label("error_type"),
        ),
        stacked=True,
    )
    page.lines(
        "Requests without a connection, by server",
        page.about(
            "Requests that got no connection, failed or cancelled, by server and phase. Counted, not sampled.",
            "nothing.",
            "one server: it is that server, its name or certificate. All of them: it is us, our resolver or our pool.",
            4,
            8,
        ),
        [
            (
                few(
                    "sum by (server_address, httptrace_failed_phase) (rate(httptrace_requests_total{"
                    'SELECTED, httptrace_failed_phase!=""}[$__rate_interval]))',
                    "server_address, httptrace_failed_phase",
                ),
                "{{server_address}} {{httptrace_failed_phase}}",
            )
        ],
        "reqps",
        traces(
            "that got no connection to it", name="http.getconn", failed=True, server__address=label("server_address")
        ),
        stacked=True,
    )


def reuse(page: Page) -> None:
    """How well connections are reused."""
    page.row("Reuse")
    # Not the share of "true": a server of which no connection was ever reused has no such series.
    ratio = (
        '1 - sum by ({0}) (rate(httptrace_requests_total{{{1}http_conn_reused="false"}}[{2}])) / '
        'sum by ({0}) (rate(httptrace_requests_total{{{1}http_conn_reused!=""}}[{2}]))'
    )
    by_server = ratio.format("server_address", "SELECTED, ", "$__rate_interval")
    page.lines(
        "Reuse by server",
        page.about(
            "Share of requests on a reused connection, by server: the ten with the least.",
            "above 90 %; less for servers that are called rarely.",
            "click on the line of a server for the requests that opened connections to it, and read their "
            "`httptrace.conn.open_reason`.",
            1,
            9,
            15,
        ),
        [(few(by_server, "server_address", "bottomk(10, {})"), "{{server_address}}")],
        "percentunit",
        opened("that opened a connection to it", server__address=label("server_address")),
        most=1,
        steps=[(None, WRONG), (0.5, SLOW), (0.9, FAST)],
    )
    by_service = ratio.format("job", "", "$__range")
    page.bars(
        "Reuse by service",
        page.about(
            "Share of requests on a reused connection, of all services: the fifteen with the least. "
            "A click on a service shows this page for it.",
            "above 90 %.",
            "begin with the first.",
            1,
            9,
        ),
        (
            f'label_replace(bottomk(15, {by_service}), "service", "$1", "job", "(?:.*/)?(.*)")',
            "{{service}}",
        ),
        "percentunit",
        iter(
            [
                dashboard.DashboardLink("This page for it").url(
                    f"/d/httptrace?var-service={label('service')}&${{__url_time_range}}"
                    "&${prometheus:queryparam}&${tempo:queryparam}&${jaeger:queryparam}"
                )
            ]
        ),
        width=12,
        most=1,
        steps=[(None, WRONG), (0.5, SLOW), (0.9, FAST)],
    )
    page.lines(
        "Requests on new and on reused connections",
        page.about(
            "Requests that got a connection, by whether it had carried a request before.",
            "`true` for nearly all.",
            "where `false` follows the load, each request opens a connection.",
            1,
            9,
        ),
        [
            (
                'sum by (http_conn_reused) (rate(httptrace_requests_total{SELECTED, http_conn_reused!=""}'
                "[$__rate_interval]))",
                "reused: {{http_conn_reused}}",
            )
        ],
        "reqps",
        opened("of requests that opened a connection"),
        stacked=True,
    )
    page.lines(
        "Open connections",
        page.about(
            "Connections that are open now, carrying a request or idle.",
            "as many active ones as requests under way, and a few idle.",
            "many more than requests under way: look for leaks, or for a client per request.",
            5,
            9,
        ),
        [
            (
                "sum by (http_connection_state) (http_client_open_connections{SELECTED})",
                "{{http_connection_state}}",
            )
        ],
        "short",
        opened("of requests that opened a connection"),
        stacked=True,
    )


def reasons(page: Page) -> None:
    """Why connections open and close."""
    page.row("Why connections open and close")
    page.lines(
        "Opened, because",
        page.about(
            "Connections opened, by why none could be reused. docs/attributes.md explains each reason. Warm colours "
            "are waste or loss, grey is harmless.",
            "`first_connection` after a start, `all_busy` when load rises, `keepalive_expired` after quiet times.",
            "`body_not_read`: read bodies to their end. `new_client`: share one client. `response_leaked`: close "
            "responses. `keepalive_limit`: raise `max_keepalive_connections`. `server_closed`: lower "
            "`keepalive_expiry`.",
            1,
            5,
            9,
            15,
        ),
        [
            (
                "sum by (httptrace_conn_open_reason) (rate(httptrace_connections_opened_total{SELECTED}"
                "[$__rate_interval]))",
                "{{httptrace_conn_open_reason}}",
            )
        ],
        "ops",
        traces(
            "that opened a connection for this reason",
            httptrace__conn__open_reason=label("httptrace_conn_open_reason"),
        ),
        stacked=True,
        colors=REASONS,
    )
    page.lines(
        "Closed, because",
        page.about(
            "Connections closed, by why. docs/attributes.md explains each reason.",
            "as many as were opened; `keepalive_expired`, `client_closed`, `connection_close`.",
            '`body_not_read`: see "Closed early, by line". `request_failed`: see "Failures". '
            "Those closed while idle are on no request's span.",
            1,
            6,
            13,
        ),
        [
            (
                "sum by (httptrace_conn_close_reason) (rate(httptrace_connections_closed_total{SELECTED}"
                "[$__rate_interval]))",
                "{{httptrace_conn_close_reason}}",
            )
        ],
        "ops",
        traces(
            "that closed their connection for this reason",
            httptrace__conn__close_reason=label("httptrace_conn_close_reason"),
        ),
        stacked=True,
        colors=REASONS,
    )
    page.lines(
        "Connections that could be saved, by server",
        page.about(
            "Connections that were opened for what the application does: bodies left unread, responses never closed, "
            "a client per request, a keep-alive limit below the concurrency.",
            "nothing.",
            "begin with the server on top: each of these costs a connect, and mostly a lookup and a TLS handshake.",
            1,
            4,
            5,
            9,
        ),
        [
            (
                few(
                    "sum by (server_address, httptrace_conn_open_reason) (rate(httptrace_connections_opened_total{"
                    'SELECTED, httptrace_conn_open_reason=~"body_not_read|response_leaked|new_client|keepalive_limit"'
                    "}[$__rate_interval]))",
                    "server_address, httptrace_conn_open_reason",
                ),
                "{{server_address}}: {{httptrace_conn_open_reason}}",
            )
        ],
        "ops",
        traces(
            "that opened a connection for this reason",
            httptrace__conn__open_reason=label("httptrace_conn_open_reason"),
        ),
        stacked=True,
    )
    page.lines(
        "Lifetime of connections, median by why they closed",
        page.about(
            "How long connections were open, by why they were closed.",
            "minutes and more under steady load.",
            "`server_closed` at a constant age or idle time is the server's keep-alive timeout: stay below it. "
            "Less than a second means a connection per request.",
            6,
            9,
            15,
        ),
        [
            (
                "histogram_quantile(0.5, sum by (le, httptrace_conn_close_reason) (rate("
                "http_client_connection_duration_seconds_bucket{SELECTED}[$__rate_interval])))",
                "{{httptrace_conn_close_reason}}",
            )
        ],
        "s",
        traces(
            "that closed their connection for this reason",
            httptrace__conn__close_reason=label("httptrace_conn_close_reason"),
        ),
        colors=REASONS,
    )


def _lines_of_code(outcome: str) -> Query:
    return (
        f"topk(15, sum by (httptrace_body_closed_at) (increase(traces_span_metrics_calls_total{{SERVICE, "
        f'httptrace_body_outcome="{outcome}", httptrace_body_closed_at!=""}}[$__range])))',
        "{{httptrace_body_closed_at}}",
    )


def bodies(page: Page) -> None:
    """How response bodies end."""
    page.row("Response bodies")
    page.lines(
        "Bodies by outcome",
        page.about(
            "How response bodies ended: read to the end, closed early, never closed, failed, cancelled.",
            "`complete`.",
            "`closed_early`: see the lines of code beside. `failed`: the server or a proxy broke off. "
            "`cancelled`: callers give up; look at what takes long.",
            1,
            13,
            14,
        ),
        [
            (
                "sum by (httptrace_body_outcome) (rate(httptrace_bodies_total{SELECTED}[$__rate_interval]))",
                "{{httptrace_body_outcome}}",
            )
        ],
        "reqps",
        traces("with a body that ended so", httptrace__body__outcome=label("httptrace_body_outcome")),
        width=10,
        stacked=True,
        colors=OUTCOMES,
    )
    page.bars(
        "Closed early, by line",
        page.about(
            "Lines of the application that closed a response before its body was over, in the time shown. Each time "
            "cost a connection over HTTP/1.1. All servers of the service.",
            "none, but for streams that users leave.",
            "open that line: read the rest before closing, or ask for less (HEAD, Range). "
            "For event streams, read on after the last event.",
            1,
            2,
        ),
        _lines_of_code("closed_early"),
        "short",
        traces(
            "closed early there",
            httptrace__body__outcome="closed_early",
            httptrace__body__closed_at=label("httptrace_body_closed_at"),
        ),
        width=14,
        steps=[(None, SLOW)],
    )


def leaks(page: Page) -> None:
    """Responses that nobody closes."""
    page.row("Leaks")
    page.lines(
        "Open responses by server",
        page.about(
            "Responses neither read to their end nor closed: the ten servers with the most.",
            "as many as are being read.",
            "a number that only grows is a leak. Once it reaches `max_connections`, every request ends in PoolTimeout.",
            4,
        ),
        [
            (
                "sum by (server_address) (httptrace_responses_open{SELECTED}) and on (server_address) topk(10, "
                "sum by (server_address) (max_over_time(httptrace_responses_open{SELECTED}[$__range] @ end())))",
                "{{server_address}}",
            )
        ],
        "short",
        traces("with a response never closed", httptrace__body__outcome="never_closed"),
        width=7,
    )
    page.lines(
        "Age of the oldest open response",
        page.about(
            "Age of the oldest response that is still open, by server: the ten oldest.",
            "below the longest download or stream.",
            "a straight line upwards is a response that nobody will close: restart to get its connection back, then "
            "fix the line that is named beside.",
            4,
        ),
        [
            (
                "max by (server_address) (httptrace_responses_open_max_age_seconds{SELECTED}) and on (server_address) "
                "topk(10, max by (server_address) (max_over_time("
                "httptrace_responses_open_max_age_seconds{SELECTED}[$__range] @ end())))",
                "{{server_address}}",
            )
        ],
        "s",
        traces("with a response never closed", httptrace__body__outcome="never_closed"),
        width=7,
        steps=[(None, FAST), (60, SLOW), (600, WRONG)],
    )
    page.bars(
        "Never closed, by line",
        page.about(
            "Lines that made a request whose response was never closed: found when it was garbage-collected or the "
            "process ended, in the time shown. All servers of the service.",
            "none.",
            "use `with client.stream(...)`, or close the response in `finally`.",
            4,
        ),
        _lines_of_code("never_closed"),
        "short",
        traces(
            "never closed, requested there",
            httptrace__body__outcome="never_closed",
            httptrace__body__closed_at=label("httptrace_body_closed_at"),
        ),
        width=10,
        steps=[(None, WRONG)],
    )


def lookups(page: Page) -> None:
    """What is asked of the DNS."""
    page.row("DNS lookups")
    page.lines(
        "Lookups by name",
        page.about(
            "Lookups each second, by name: the ten most frequent.",
            "about as many as connections are opened.",
            "see why connections are opened to the name on top: without a new connection there is no lookup.",
            1,
            7,
        ),
        [
            (
                few(
                    "sum by (dns_question_name) (rate(dns_lookup_duration_seconds_count{SERVICE}[$__rate_interval]))",
                    "dns_question_name",
                ),
                "{{dns_question_name}}",
            )
        ],
        "ops",
        traces("that looked it up", name="http.dns", dns__question__name=label("dns_question_name")),
        stacked=True,
    )
    page.lines(
        "Lookups per request over time",
        page.about(
            "DNS lookups for each request.",
            "close to 0.",
            "1 means a new connection for each request.",
            1,
            9,
        ),
        [(PER_REQUEST, "lookups per request")],
        "short",
        traces("with a lookup", name="http.dns"),
        steps=[(None, FAST), (0.1, SLOW), (0.5, WRONG)],
    )
    page.lines(
        "Duration of lookups, p99 by name",
        page.about(
            "How long lookups took, by name: the ten slowest. The dots are exemplars, each a lookup with its trace.",
            "milliseconds.",
            "5 s is a resolver that did not answer and was asked again: look at its load, at `ndots`, at packet loss. "
            "Fewer lookups help too.",
            1,
            7,
        ),
        [
            (
                few(
                    "histogram_quantile(0.99, sum by (le, dns_question_name) (rate("
                    "dns_lookup_duration_seconds_bucket{SERVICE}[$__rate_interval])))",
                    "dns_question_name",
                ),
                "{{dns_question_name}}",
            )
        ],
        "s",
        traces("that looked it up", name="http.dns", dns__question__name=label("dns_question_name")),
        exemplars=True,
        steps=[(None, FAST), (0.1, SLOW), (1, WRONG)],
    )
    page.lines(
        "Failed lookups by name and error",
        page.about(
            "Lookups without an answer: the ten most frequent.",
            "nothing.",
            "`host_not_found`: the name is wrong. `try_again`, `timed_out`: the resolver is overloaded or away.",
            7,
            8,
        ),
        [
            (
                few(
                    "sum by (dns_question_name, error_type) (rate(dns_lookup_duration_seconds_count{"
                    'SERVICE, error_type!=""}[$__rate_interval]))',
                    "dns_question_name, error_type",
                ),
                "{{dns_question_name}}: {{error_type}}",
            )
        ],
        "ops",
        traces(
            "with this error",
            name="http.dns",
            dns__question__name=label("dns_question_name"),
            error__type=label("error_type"),
        ),
        stacked=True,
    )


def phases(page: Page) -> None:
    """Where the time goes."""
    page.row("Where the time goes")
    page.lines(
        "Wait for the pool",
        page.about(
            "How long requests waited for a connection of the pool, of those that had to. The dots are exemplars.",
            "no waits, or milliseconds.",
            "raise `max_connections`, or cut the concurrency; leaked responses hold connections too.",
            3,
            4,
        ),
        [
            (
                f"histogram_quantile({share_of}, sum by (le) (rate("
                "http_client_request_time_in_queue_seconds_bucket{SELECTED}[$__rate_interval])))",
                name,
            )
            for share_of, name in ((0.5, "p50"), (0.95, "p95"), (0.99, "p99"))
        ],
        "s",
        waits(),
        width=8,
        exemplars=True,
    )
    page.lines(
        "Getting a connection, p95 by step",
        page.about(
            "What it takes to get a connection: `http.getconn` as a whole, and in it the lookup, the connect, the "
            "proxy and the TLS handshake. From spans; the dots are exemplars.",
            "a round trip for `http.connect`, one or two for `http.tls`, less for `http.dns`.",
            "the step that grew is where to look. `http.connect` of 250 ms: the first address did not answer.",
            7,
            10,
            11,
        ),
        [
            (
                "histogram_quantile(0.95, sum by (le, span_name) (rate(traces_span_metrics_duration_seconds_bucket{"
                'SERVICE, span_kind="SPAN_KIND_INTERNAL", span_name=~"http.(getconn|dns|connect|proxy|tls)"}'
                "[$__rate_interval])))",
                "{{span_name}}",
            )
        ],
        "s",
        traces("with this step", name=label("span_name")),
        width=8,
        exemplars=True,
    )
    page.lines(
        "Requests, p95 on new and on reused connections",
        page.about(
            "How long requests took, to the end of the body, by whether they had to open a connection. "
            "From spans; the dots are exemplars.",
            "new connections cost some round trips more.",
            "a large gap: more reuse is what makes it faster. None: the time goes by while waiting for the server or "
            "reading the body; see `httptrace.time.wait` and `httptrace.time.receive` in the traces.",
            9,
            12,
        ),
        [
            (
                "histogram_quantile(0.95, sum by (le, http_conn_reused) (rate("
                "traces_span_metrics_duration_seconds_bucket{SERVICE, CONNECTED}[$__rate_interval])))",
                "reused: {{http_conn_reused}}",
            )
        ],
        "s",
        opened("of requests that opened a connection"),
        width=8,
        exemplars=True,
    )


def served(page: Page) -> None:
    """What the service sees as a server."""
    page.row("Seen from the server")
    none = "not a server that says so: docs/server.md"
    requests = "sum by ({0}) (rate(httptrace_server_requests_total{{SERVICE{1}}}[$__rate_interval]))"
    by_port = f"""1 - {requests.format("server_port", ', http_conn_reused="false"')}
        / {requests.format("server_port", "")}"""
    by_peer = f"""{requests.format("server_port, network_peer_address", "")} / sum by (server_port,
        network_peer_address) (rate(httptrace_server_connections_opened_total{{SERVICE}}[$__rate_interval]))"""
    page.lines(
        "Served on reused connections, by port",
        page.about(
            "Share of the requests that this service answered which came on a connection that had carried one before, "
            "whoever the client is.",
            "above 90 % where few clients call all the time; less where many call seldom.",
            'near 0 while many are sent: see "Requests per connection, by peer" for whose they are, and "The server\'s '
            'connections end, because" for who closes. No data: the service answers no requests, or not with '
            "HTTPTraceServerInstrumentor.",
            41,
            43,
        ),
        [(few(by_port, "server_port", "bottomk(10, {})"), "{{server_port}}")],
        "percentunit",
        traces("of requests that came on a new connection", http__conn__reused=False, served=True),
        most=1,
        steps=[(None, WRONG), (0.5, SLOW), (0.9, FAST)],
        none=none,
    )
    page.lines(
        "Requests per connection, by peer",
        page.about(
            "How many requests came for each connection that was opened, by who connects: the ten peers with the "
            "fewest. A peer is an address: behind a proxy, the proxy; `_other` is all beyond the 200 that are told "
            "apart.",
            "ten and more. A gap: nobody opened a connection meanwhile, which is best. Below 1: connections that "
            "carried none, such as a load balancer's checks.",
            "1 while many are sent: that client does not read its responses to their end, or makes a client object for "
            "each request; or it is many clients behind one address.",
            41,
            42,
        ),
        [
            (
                few(by_peer, "server_port, network_peer_address", "bottomk(10, {})"),
                "{{server_port}} {{network_peer_address}}",
            )
        ],
        "short",
        traces(
            "of requests that opened a connection from there",
            http__conn__reused=False,
            network__peer__address=label("network_peer_address"),
            served=True,
        ),
        none=none,
    )
    page.lines(
        "The server's connections end, because",
        page.about(
            "Connections of this service's clients that ended, by why. docs/server.md explains each reason. Warm "
            "colours are those that cost somebody a connection, or a request.",
            "`client_closed`, and some `keepalive_timeout` after quiet times.",
            "`client_left`: the client gave up, or does not read. `keepalive_timeout` with the load: raise the "
            "server's keep-alive above that of its clients. `worker_sync`, `connection_close`: the server keeps none. "
            "`error`: the application failed. Of those that end between requests only the next request of that client "
            "tells.",
            42,
            43,
            44,
            45,
        ),
        [
            (
                "sum by (httptrace_server_conn_close_reason) (rate(httptrace_server_connections_closed_total{SERVICE}"
                "[$__rate_interval]))",
                "{{httptrace_server_conn_close_reason}}",
            )
        ],
        "ops",
        ended(),
        stacked=True,
        colors=ENDS,
        none=none,
    )
    page.lines(
        "The server's open connections",
        page.about(
            "Connections of this service's clients that are open now, carrying a request or idle.",
            "as many active ones as requests under way, and the idle ones of clients that keep them.",
            "active ones that only grow: requests come faster than they are answered, and wait before their span "
            "begins. Many idle ones: many clients, or some that open more than they use.",
            41,
            46,
        ),
        [("sum by (http_connection_state) (httptrace_server_connections_open{SERVICE})", "{{http_connection_state}}")],
        "short",
        traces("of requests that came on a new connection", http__conn__reused=False, served=True),
        stacked=True,
        none=none,
    )


def build(docs: str | None = None) -> models.Dashboard:
    """The dashboard."""
    page = Page(docs)
    variables(page)
    for rows in (glance, failures, reuse, reasons, bodies, leaks, lookups, phases, served):
        rows(page)
    built = page.built.build()
    built.schema_version = SCHEMA
    return built


def text(docs: str | None = None) -> str:
    """The dashboard as Grafana reads it."""
    return json.dumps(build(docs), cls=JSONEncoder, indent=2, sort_keys=True) + "\n"


def main(arguments: Sequence[str]) -> None:
    """Write it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--docs", metavar="URL", help="where docs/ is served")
    JSON.write_text(text(parser.parse_args(arguments).docs))


if __name__ == "__main__":
    main(sys.argv[1:])
