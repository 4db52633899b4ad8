"""The page of a report: what it shows, that nothing gets out of it or into it, in a real Chromium."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import html
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from kit import reports
from kit.otlp import opening, reusing, served

from otel_httptrace.report.analysis import analyze
from otel_httptrace.report.findings import Evidence, Finding, Severity, Sure
from otel_httptrace.report.page import render
from otel_httptrace.report.page.data import CLOSED, OPENED, OUTCOMES, SHOWN, SHOWN_ON_STEPS, clean
from otel_httptrace.report.paths import path
from otel_httptrace.report.rows import PHASES, Step
from otel_httptrace.report.spans import Link, Source
from otel_httptrace.report.summary import Report
from otel_httptrace.telemetry import names

CHROMIUM = shutil.which("chromium")
ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


def story() -> Report:
    """The founding story, with its finding."""
    rows = reports.early_close()
    return reports.report(rows, reports.body_not_read(rows))


def everything() -> Report:
    """Two findings, several origins and processes, problems, requests left out."""
    rows = reports.mixed()
    return reports.report(
        rows,
        reports.pool_saturated(rows),
        reports.body_not_read(rows),
        left_out=43_000,
        problems=("spans.jsonl, line 17: cut off after 812 bytes",),
    )


def ends() -> Report:
    """A client and its server: three requests on two connections, of which the server closed the first; and one of a proxy's."""
    first = opening("first_connection", conn__id=1, network__local__port=40001, time__wait=0.2, start=1.0)
    second = reusing(conn__id=1, conn__requests=1, conn__idle=0.1, time__wait=0.2, start=2.0)
    third = opening("server_closed", conn__id=2, network__local__port=40002, time__wait=0.2, start=3.0)
    return analyze(
        [
            first,
            served(first, conn=7, port=40001, duration=0.05),
            second,
            served(second, conn=7, before=1, duration=0.06, closed="error"),
            third,
            served(third, conn=8, port=50000, duration=0.9),
        ]
    )


def data(page: str) -> dict[str, Any]:
    """What the page's script is given."""
    (found,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    parsed: dict[str, Any] = json.loads(found)
    return parsed


class Parsed(HTMLParser):
    """The elements and the text of a page, as a parser of HTML sees them."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.ids: list[str] = []
        self._inside: list[str] = []
        self.text = ""
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        self.ids += [value or "" for name, value in attrs if name == "id"]
        self._inside.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag in self._inside:
            while self._inside.pop() != tag:
                pass

    def handle_data(self, data: str) -> None:
        if not self._inside or self._inside[-1] not in ("script", "style"):
            self.text += data


def words(page: str) -> str:
    """The text of a page, its spaces and lines run together."""
    return re.sub(r"[ \n]+", " ", Parsed(page).text)


# ---- Without a browser ----------------------------------------------------------------------------------------------


def test_failed_and_cancelled_are_counted_apart() -> None:
    """What failed and what was cancelled are counted apart, for all and for each origin."""
    text = words(render(reports.report(reports.mixed())))

    assert "Requests484 failed, 1 cancelled" in text
    assert "http://search.internal:9200 10 requests 4 failed 1 cancelled 3 connections opened" in text


def test_findings_come_first_and_whole() -> None:
    """A finding is shown with its sentence, line, evidence, advice, how sure it is and its criterion, before all else."""
    report = story()
    (finding,) = report.findings
    text = words(render(report))

    wanted = [
        "1 finding in 40 requests",
        "Waste",
        "body_not_read",
        "https://api.example.com",
        finding.sentence,
        "billing/client.py:42 in charge",
        "through stripe/_http_client.py:310 in close",
        finding.advice,
        "certain",
        finding.because,
        finding.evidence[0].what,
        finding.evidence[0].span_id,
        finding.evidence[0].trace_id,
        "A finding because: " + finding.criterion,
        "Connections opened",
        "Connections over time",
        "By origin",
        "Thresholds in force",
    ]
    found = [text.find(part) for part in wanted]
    assert -1 not in found, wanted[found.index(-1)]
    assert found == sorted(found)


def test_what_is_missing_is_said() -> None:
    """Requests left out, sources that could not be read and requests that were not observed are all said plainly."""
    text = words(render(everything()))

    assert "spans.jsonl, line 17: cut off after 812 bytes" in text
    assert "1 of 48 requests says nothing about its connection" in text
    assert "43,000 more are counted in all numbers, but not drawn" in text


def test_without_us_the_page_does_not_say_that_all_is_well() -> None:
    """Where otel-httptrace was not active, the page does not say that all is well."""
    text = words(render(reports.report([reports.row(1, 0.0, {}, rest=0.1)])))

    assert "1 request, none of them observed" in text
    assert "No finding can be made" in text
    assert "1 of 1 request says nothing about its connection" in text


def test_the_busiest_origins_have_tables() -> None:
    """The busiest origins have tables, the others a line each; none is left out."""
    rows = [
        reports.row(k, 0.1 * k, {"wait": 0.1}, origin=f"https://h{k:02}.example.com", connection=k + 1)
        for k in range(30)
    ]
    parsed = Parsed(render(reports.report(rows)))

    assert parsed.tags.count("table") == 12 + 1
    assert "18 more origins" in parsed.text
    assert [k for k in range(30) if f"https://h{k:02}.example.com" not in parsed.text] == []


def test_an_empty_report_says_what_to_do() -> None:
    """A report of nothing says that there was nothing, and what to do; it has no empty tables."""
    parsed = Parsed(render(analyze([])))

    assert "No request to report on" in parsed.text
    assert "httptrace doctor" in parsed.text
    assert "table" not in parsed.tags
    assert "connections" not in parsed.ids


def test_both_ends_and_a_server_alone() -> None:
    """Servers have a section of their own, also where no client told of anything; without servers there is no word of them."""
    parsed = Parsed(render(ends()))
    assert "servers" in parsed.ids
    text = words(render(ends()))
    assert "Seen by servers orders:8000 3 requests 0 failed 2 connections opened 33 % reuse" in text
    assert "error1 100 % the application failed, or what came was no HTTP" in text
    assert "the server\u2019s span: its length, for the clocks differ" in text

    alone = words(render(analyze([served(start=at, conn=at) for at in range(30)])))
    assert "1 finding in 30 requests seen by servers" in alone
    assert "clients_do_not_reuse" in alone
    assert "By origin" not in alone
    few = words(render(analyze([served()])))
    assert "1 request seen by servers, no problems found" in few

    page = render(analyze([opening("first_connection")]))
    assert "servers" not in Parsed(page).ids
    assert "server\u2019s span" not in page
    assert "halves" not in data(page)


def test_only_what_may_be_shown_is_in_the_page() -> None:
    """No query, id of a path, userinfo, header or attribute of others gets into the page; a span's name neither."""
    row = reports.row(1, 0.0, {"wait": 0.1}, connection=1, CONN_REUSED=False)
    row.name = "GET /in/the/name?key=1n-th3-name"
    row.attributes |= {
        "url.full": "https://user:passw0rd@api.example.com/in/the/pa7h?token=s3cr3t#fragm3nt",
        "url.query": "token=s3cr3t",
        "http.request.header.authorization": ["Bearer s3cr3t"],
        "enduser.id": "al1ce",
    }
    row.path = path(row.attributes)
    row.steps = [
        Step(names.SPAN_DNS, 0.0, 0.01, {names.DNS_QUESTION_NAME: "api.example.com", "app.note": "pr1vate"}, 1),
        Step("GET /a/users/own?span=us3rs", 0.0, 0.01, {}, 1),
    ]
    page = render(reports.report([row]))

    for secret in (
        "passw0rd",
        "s3cr3t",
        "fragm3nt",
        "pa7h",
        "1n-th3-name",
        "in/the/name",
        "al1ce",
        "pr1vate",
        "us3rs",
        "Bearer",
    ):
        assert secret not in page, secret
    assert "https://api.example.com/in/the/{id}" in page


def test_shown_attributes_are_our_names() -> None:
    """Every attribute that a page shows is one of `telemetry.names`."""
    known = {value for name, value in vars(names).items() if name.isupper()}

    assert {*SHOWN, *SHOWN_ON_STEPS} <= known


def test_reasons_are_all_explained() -> None:
    """Each reason and outcome of the telemetry has its explanation, and no other has."""
    from otel_httptrace.core.ledger import Reason

    never_close = {Reason.FIRST_CONNECTION, Reason.NEW_CLIENT, Reason.ALL_BUSY}
    assert set(OPENED) == {reason.value for reason in Reason}
    assert set(CLOSED) == {reason.value for reason in set(Reason) - never_close}
    assert set(OUTCOMES) == {"complete", "closed_early", "never_closed", "failed", "cancelled"}


def test_no_reference_leaves_the_page() -> None:
    """Nothing in the page has an address that is not in the page; its icon is in its address."""
    parsed = Parsed(render(everything()))
    addresses = [value for _, name, value in parsed.attributes if name in ("href", "src", "action", "srcset", "data")]

    assert addresses
    assert [value for value in addresses if not value.startswith(("#", "data:image/svg+xml,"))] == []
    assert not {"iframe", "img", "object", "embed", "form", "base"} & set(parsed.tags)
    targets = {value[1:] for value in addresses if value.startswith("#") and not value.startswith("#request-")}
    assert targets <= set(parsed.ids)
    assert len(parsed.ids) == len(set(parsed.ids))


def test_the_policy_allows_only_the_pages_own_scripts() -> None:
    """The policy allows nothing but the two scripts and the style that are in the page, by their hashes."""
    page = render(story())
    (policy,) = re.findall(r'http-equiv="Content-Security-Policy" content="(.*?)"', page)
    rules = dict(rule.split(" ", 1) for rule in html.unescape(policy).split("; "))

    def digests(tag: str) -> str:
        texts = re.findall(rf"<{tag}>(.*?)</{tag}>", page, re.DOTALL)
        return " ".join(
            f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'" for text in texts
        )

    assert rules == {
        "default-src": "'none'",
        "script-src": digests("script"),
        "style-src": digests("style"),
        "img-src": "data:",
        "base-uri": "'none'",
        "form-action": "'none'",
        "require-trusted-types-for": "'script'",
        "trusted-types": "'none'",
    }


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("a\u202eb", "a\\u202eb"),
        ("a\x00\x1b[31mb", "a\\x00\\x1b[31mb"),
        ("a\ud800b", "a\\ud800b"),
        ("a\u2028b", "a b"),
        ("ünï ✓", "ünï ✓"),
        (b"bytes", "b'bytes'"),
        ("x" * 600, "x" * 499 + "…"),
    ],
    ids=["turned", "control", "half", "line", "plain", "bytes", "long"],
)
def test_text_is_cleaned(value: object, shown: str) -> None:
    """What would turn text around, hide in it or break its encoding is spelled out."""
    assert clean(value) == shown


def test_ten_thousand_requests_are_a_small_page() -> None:
    """10,000 requests on kept connections are under 1 MB of data; all on lost ones, with child spans, under 2.5 MB."""
    kept = render(reports.report(reports.many(10_000, 12)))
    lost = render(reports.report(reports.many()))

    assert len(json.dumps(data(kept), separators=(",", ":"))) < 1_000_000
    assert len(json.dumps(data(lost), separators=(",", ":"))) < 2_500_000


HOSTILE = (
    '</script><script>alert(1)</script><img src=x onerror="alert(1)"><!--<script>{{ 7*7 }}'
    "\u2028\u2029\u202e\x00'\"&amp;&lt;`${alert(1)}"
)


def hostile() -> Report:
    """A report in which all that comes from spans is an attack, and nothing has the type that it should have."""
    wrong: list[Any] = [
        HOSTILE,
        [HOSTILE],
        {HOSTILE: HOSTILE},
        float("nan"),
        float("inf"),
        -1,
        10**40,
        None,
        True,
        b"\xff",
    ]
    values = [*wrong, HOSTILE, HOSTILE]
    phases = {"dns": 0.01, "wait": 0.1, "receive": 0.01}
    rows = [reports.row(number, 0.01 * number, phases, connection=7) for number in range(len(values))]
    report = reports.report(rows)
    # What counted them has its own tests: from here on it is what the page makes of them.
    for number, (row, value) in enumerate(zip(rows, values, strict=True)):
        row.attributes |= dict.fromkeys(
            (*SHOWN, names.CONN_REUSED, names.BODY_CLOSED_AT, names.BODY_CLOSED_VIA, "http.request.method"), value
        )
        row.attributes["url.full"] = f"https://{HOSTILE}/"
        if number >= len(wrong):
            row.attributes |= {names.CONN_ID: 7 + number, names.CONN_REUSED: False}
            for name in (names.CONN_OPEN_REASON, names.CONN_CLOSE_REASON, names.BODY_OUTCOME, names.FAILED_PHASE):
                row.attributes[name] = HOSTILE
        row.origin = f"https://{HOSTILE}"
        row.status = value
        row.source = Source(HOSTILE, HOSTILE)
        row.steps = [Step(names.SPAN_DNS, 0.0, 0.01, dict.fromkeys(SHOWN_ON_STEPS, value), 1)]
        row.steps.append(Step(HOSTILE, 0.0, 0.01, {HOSTILE: HOSTILE}, 1))
        row.links = (
            Link(HOSTILE, HOSTILE, {names.LINK: names.LINK_CONNECTION_LOST_BY}),
            Link("a", "b", {names.LINK: [1]}),
        )
    rows[-1].trace_id = rows[-1].span_id = HOSTILE
    (origin,) = report.origins
    origin.name = HOSTILE
    for counter in (origin.open_reasons, origin.close_reasons, origin.outcomes, origin.failed_phases):
        counter[HOSTILE] = 1
    hostile: Any = dict.fromkeys(phases, HOSTILE)
    broken = replace(rows[0], span_id="0" * 16, phases=hostile, duration=float("nan"), start=float("nan"))
    finding = Finding(
        verdict=HOSTILE,
        severity=Severity.FAILED,
        origin=HOSTILE,
        sentence=HOSTILE,
        advice=HOSTILE,
        sure=Sure.POSSIBLE,
        because=HOSTILE,
        criterion=HOSTILE,
        requests=1,
        seconds=1.0,
        line=HOSTILE,
        via=HOSTILE,
        evidence=(Evidence(HOSTILE, HOSTILE, HOSTILE), Evidence("f" * 32, HOSTILE, HOSTILE)),
    )
    return replace(
        report,
        findings=(finding,),
        problems=(HOSTILE,),
        services=(HOSTILE,),
        timeline=(*report.timeline, broken),
        slowest=(*report.slowest, broken),
    )


def test_markup_from_spans_is_text() -> None:
    """Whatever spans say, the page has the same elements as with harmless words, and is valid UTF-8."""
    page = render(hostile())
    page.encode("utf-8")
    parsed = Parsed(page)

    assert parsed.tags.count("script") == 3
    assert parsed.tags.count("style") == 1
    assert "img" not in parsed.tags
    assert not [name for _, name, _ in parsed.attributes if name.startswith("on")]
    assert "</" not in page.split('id="data">')[1].split("</script>")[0]
    assert "<!--" not in page
    assert "{{ 7*7 }}" in parsed.text
    assert data(page)["strings"]


# ---- In Chromium ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    """A headless Chromium: Debian's package of that name."""
    missing = [] if CHROMIUM else ["chromium (apt-get install chromium)"]
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        missing.append("playwright (the dependency group `browser`)")
    if missing:
        reason = f"no browser to look at the page with, install {' and '.join(missing)}"
        if os.environ.get("HTTPTRACE_REQUIRE_CHROMIUM") == "1":
            pytest.fail(reason)
        pytest.skip(reason)
    with sync_playwright() as playwright:
        # With an empty profile of its own each time.
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield browser
        browser.close()


class Opened:
    """A page that is open in the browser, and what it did that it must not."""

    def __init__(self, page: Any, path: Path) -> None:
        self.page = page
        self.path = path
        self.complaints: list[str] = []
        self.requests: list[str] = []
        page.on("console", lambda message: self.complaints.append(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: self.complaints.append(f"error: {error}"))
        page.on("dialog", self._dialog)
        page.on("request", lambda request: self.requests.append(request.url))
        page.add_init_script(
            "window.violations = [];"
            "addEventListener('securitypolicyviolation', (event) => violations.push(event.violatedDirective), true);"
        )
        page.goto(path.as_uri())

    def _dialog(self, dialog: Any) -> None:
        self.complaints.append(f"dialog: {dialog.message}")
        dialog.dismiss()

    def done(self) -> None:
        """Nothing was complained of, and nothing was asked for but the page."""
        assert self.complaints == []
        assert self.page.evaluate("violations") == []
        assert {url.partition("#")[0] for url in self.requests} == {self.path.as_uri()}

    def chosen(self) -> str:
        """What a screen reader is told of the chosen request."""
        text: str = self.page.evaluate(
            "document.getElementById(document.getElementById('lanes').getAttribute('aria-activedescendant'))"
            "?.textContent ?? ''"
        )
        return text

    def view(self) -> tuple[float, float]:
        """Where the brush of the overview begins, and how wide it is."""
        box = self.page.locator(".brush").bounding_box()
        return box["x"], box["width"]

    def drawn(self, act: Callable[[], object]) -> None:
        """Do something, and wait until the timeline has been drawn again."""
        before = self.page.evaluate("Number(document.querySelector('#lanes canvas').dataset.frame)")
        act()
        self.until(f"document.querySelector('#lanes canvas').dataset.frame > {before}")

    def until(self, condition: str) -> None:
        """Wait for it, frame by frame: playwright's own way to wait evaluates text, which the page's policy forbids."""
        self.page.evaluate(
            f"() => new Promise((done) => {{ const look = () => ({condition}) ? done() : requestAnimationFrame(look); look(); }})"
        )

    def closed(self) -> None:
        """Wait until no request is open, and the address says so."""
        self.until("!document.getElementById('request').open && !location.hash")

    def press(self, *keys: str) -> None:
        """Press keys, one after the other."""
        for key in keys:
            self.page.keyboard.press(key)

    def colour(self, what: str = "document.body", property_: str = "backgroundColor") -> tuple[int, ...]:
        """A computed colour."""
        return tuple(map(int, re.findall(r"\d+", self.page.evaluate(f"getComputedStyle({what}).{property_}"))[:3]))


@pytest.fixture
def open_page(chromium: Any, tmp_path: Path) -> Iterator[Callable[..., Opened]]:
    """Opens the page of a report, without motion; when the test is over, asks whether it behaved."""
    with contextlib.ExitStack() as stack:
        opened: list[Opened] = []

        def open_(report: Report, scheme: str = "light", width: int = 1280, jaeger: str = "", **options: Any) -> Opened:
            path = tmp_path / f"report-{len(opened)}.html"
            path.write_text(render(report, jaeger), encoding="utf-8")
            context = chromium.new_context(
                viewport={"width": width, "height": 900}, color_scheme=scheme, reduced_motion="reduce", **options
            )
            stack.callback(context.close)
            opened.append(Opened(context.new_page(), path))
            return opened[-1]

        yield open_
        for one in opened:
            one.done()


def test_links_open_waterfalls(open_page: Callable[..., Opened]) -> None:
    """Evidence and the slowest requests link to their waterfalls; a link can be opened again, and going back closes it."""
    opened = open_page(story())
    page = opened.page
    page.get_by_role("link", name="span 0000000000000001").click()
    dialog = page.get_by_role("dialog")

    assert dialog.get_by_role("heading", level=2).inner_text() == "GET 200 in 103 ms"
    assert dialog.locator("tbody th").all_inner_texts() == [
        "GET",
        "http.getconn",
        "http.dns\napi.example.com, 2001:db8::7, 192.0.2.7",
        "http.connect\n192.0.2.7, 443",
        "http.tls\n1.3, http/1.1",
        "wait",
        "receive",
    ]
    assert "billing/client.py:42 in charge" in dialog.inner_text()
    address = page.url
    page.go_back()
    opened.closed()
    page.goto("about:blank")
    page.goto(address)
    assert dialog.get_by_role("heading", level=2).inner_text() == "GET 200 in 103 ms"
    page.keyboard.press("Escape")
    opened.closed()
    opened.requests = [url for url in opened.requests if url != "about:blank"]

    for link in page.locator("a[href^='#']").all():
        target = link.get_attribute("href")[1:]
        assert target.startswith("request-") or page.locator(f"[id='{target}']").count() == 1, target
    page.locator(".examples a").last.click()
    dialog.wait_for()


def test_a_lost_connection_leads_to_who_lost_it(open_page: Callable[..., Opened]) -> None:
    """The waterfall of a request that had to dial links to the request that lost the connection before."""
    report = story()
    blamed, lost_by = next((row, row.lost_by) for row in report.timeline if row.lost_by is not None)
    number = report.timeline.index(blamed)
    culprit = next(k for k, row in enumerate(report.timeline) if row.span_id == lost_by.span_id)
    opened = open_page(report)
    opened.page.goto(f"{opened.path.as_uri()}#request-{number}")
    dialog = opened.page.get_by_role("dialog")

    assert "was lost by this request at billing/client.py:42 in charge" in dialog.inner_text()
    dialog.get_by_role("link", name="this request").click()
    opened.page.wait_for_url(f"**#request-{culprit}")
    assert dialog.get_by_text(f"span {report.timeline[culprit].span_id}").is_visible()


def test_the_other_half_of_a_lane(open_page: Callable[..., Opened]) -> None:
    """Under a lane is what its server says; the keys pass over that, and a request's words tell of both ends."""
    opened = open_page(ends())
    page = opened.page
    told = []
    for number in range(3):
        page.goto(f"{opened.path.as_uri()}#request-{number}")
        story = page.get_by_role("dialog").locator(".story").inner_text()
        told.append([line for line in story.splitlines() if "erver" in line and "server_closed" not in line])
    assert told == [
        [
            "The server, orders, took 50.0 ms for it on its connection 7, which was new.",
            "Client and server see the same TCP connection: nothing stands between.",
        ],
        [
            "The server, orders, took 60.0 ms for it on its connection 7, which had carried 1 request and had been idle for "
            "10.0 ms.",
            "The server's connection ended with it: error.",
            "Client and server see the same TCP connection: nothing stands between.",
        ],
        [
            "The server, orders, took 900 ms for it on its connection 8, which was new.",
            "Client and server do not see the same TCP connection: something stands between.",
        ],
    ]
    page.keyboard.press("Escape")
    opened.closed()
    page.locator("#lanes").focus()
    opened.press("Home", "ArrowDown")
    assert opened.chosen().endswith("the server's span 900 ms")
    opened.press("ArrowUp", "End")
    assert opened.chosen().endswith("the server's span 60.0 ms")


def test_a_body_after_the_span(open_page: Callable[..., Opened]) -> None:
    """A span that ended with the headers (`span_end`) is drawn as short as it was, its body beyond it."""
    row = reports.row(0, 0.0, {"wait": 0.1, "receive": 0.3}, connection=1, CONN_REUSED=True)
    row.duration = 0.1
    opened = open_page(reports.report([row]))
    opened.page.goto(f"{opened.path.as_uri()}#request-0")
    edges = opened.page.locator(".fall .bar").evaluate_all(
        """bars => bars.map((bar) => {
          const [own, lane] = [bar, bar.parentElement].map((element) => element.getBoundingClientRect());
          return [(own.left - lane.left) / lane.width, (own.right - lane.left) / lane.width];
        })"""
    )

    assert [pytest.approx(edge, abs=0.01) for edge in edges] == [[0, 0.25], [0, 0.25], [0.25, 1]]


def test_the_timeline_works_by_keyboard(open_page: Callable[..., Opened]) -> None:
    """Arrows move among requests and lanes, Enter opens the waterfall, Escape closes it and gives the focus back."""
    opened = open_page(story())
    page = opened.page
    for _ in range(60):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.id") == "lanes":
            break
    assert page.evaluate("document.activeElement.id") == "lanes"
    header = (
        "document.querySelector('[aria-selected=true]').parentElement.querySelector('[role=rowheader]').textContent"
    )
    assert page.evaluate(header) == "Connection 1, 1 request, closed: body_not_read at billing/client.py:42 in charge"
    assert opened.chosen().startswith("GET 200, 103 ms, dns ")

    opened.press("ArrowDown", "ArrowDown", "ArrowDown")
    assert page.evaluate(header).startswith("Connection 4, 3 requests, closed: body_not_read")
    opened.press("Home")
    first = opened.chosen()
    opened.press("ArrowRight", "ArrowRight", "ArrowRight", "ArrowRight")
    last = opened.chosen()
    assert "dns" in first and "dns" not in last
    opened.press("ArrowLeft", "ArrowLeft")
    assert opened.chosen() == first
    opened.press("End")
    assert opened.chosen() == last
    opened.press("Enter")
    dialog = page.get_by_role("dialog")
    assert dialog.get_by_role("heading", level=2).inner_text() == "GET 200 in " + last.split(", ")[1]
    assert "Reused connection 4" in dialog.inner_text()
    opened.press("Escape")
    opened.closed()
    assert page.evaluate("document.activeElement.id") == "lanes"
    assert opened.chosen() == last


def test_the_timeline_zooms_and_pans(open_page: Callable[..., Opened]) -> None:
    """Keys, buttons, the wheel and dragging zoom and pan; 0 and the button show all again."""
    opened = open_page(story())
    page = opened.page
    whole = opened.view()
    lanes = page.locator("#lanes")
    lanes.focus()

    opened.drawn(lambda: opened.press("+"))
    assert opened.view()[1] == pytest.approx(whole[1] / 2, rel=0.02)
    zoomed = opened.view()
    opened.drawn(lambda: opened.press("Shift+ArrowRight"))
    assert opened.view()[0] > zoomed[0]
    opened.drawn(lambda: opened.press("0"))
    assert opened.view() == pytest.approx(whole)

    opened.drawn(page.get_by_role("button", name="Zoom in").click)
    assert opened.view()[1] == pytest.approx(whole[1] / 2, rel=0.02)
    opened.drawn(page.get_by_role("button", name="All").click)

    lanes.scroll_into_view_if_needed()
    box = lanes.bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + 60)
    page.keyboard.down("Control")
    opened.drawn(lambda: page.mouse.wheel(0, -300))
    page.keyboard.up("Control")
    wheeled = opened.view()
    assert wheeled[1] < whole[1] * 0.8
    page.mouse.down()
    opened.drawn(lambda: page.mouse.move(box["x"] + box["width"] / 2 + 150, box["y"] + 60, steps=4))
    page.mouse.up()
    assert opened.view()[0] < wheeled[0]
    # A plain wheel scrolls the lanes, as it does anywhere else.
    before = opened.view()
    opened.drawn(lambda: page.mouse.wheel(0, 100))
    assert lanes.evaluate("element => element.scrollTop") > 0
    assert opened.view()[1] == before[1]


def test_pointing_shows_and_a_click_chooses_a_request(open_page: Callable[..., Opened]) -> None:
    """Pointing at a request tells its times, a click chooses it, a second one opens it."""
    opened = open_page(story())
    page = opened.page
    lanes = page.locator("#lanes")
    lanes.scroll_into_view_if_needed()
    box = lanes.bounding_box()
    page.mouse.move(box["x"] + 110, box["y"] + 37)
    tip = page.locator("#tip")
    assert tip.is_visible()
    assert "GET 200 · 103 ms" in tip.inner_text()
    assert "billing/client.py:42 in charge" in tip.inner_text()
    page.mouse.click(box["x"] + 110, box["y"] + 37)
    assert page.locator("#chosen").inner_text().startswith("GET 200 · 103 ms · connection 1, request 1 of 1")
    page.mouse.click(box["x"] + 110, box["y"] + 37)
    page.get_by_role("dialog").wait_for()


def test_the_timeline_works_by_touch(open_page: Callable[..., Opened]) -> None:
    """On a phone a tap chooses a request and leads to its waterfall, two fingers zoom."""
    opened = open_page(story(), width=390, has_touch=True, is_mobile=True)
    page = opened.page
    lanes = page.locator("#lanes")
    lanes.scroll_into_view_if_needed()
    box = lanes.bounding_box()
    page.touchscreen.tap(box["x"] + 60, box["y"] + 40)
    page.get_by_role("link", name="Waterfall").tap()
    assert page.get_by_role("dialog").get_by_role("heading", level=2).inner_text() == "GET 200 in 103 ms"
    page.get_by_role("button", name="Close").tap()
    opened.closed()

    whole = opened.view()
    fingers = page.context.new_cdp_session(page)
    box = lanes.bounding_box()

    def touch(kind: str, *apart: int) -> None:
        points = [{"x": 180 + side * way, "y": box["y"] + 60, "id": side} for way in apart for side in (-1, 1)]
        fingers.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})

    touch("touchStart", 20)
    touch("touchMove", 40)
    opened.drawn(lambda: touch("touchMove", 80))
    touch("touchEnd")
    assert opened.view()[1] < whole[1] / 2


def test_n_goes_to_the_next_problem(open_page: Callable[..., Opened]) -> None:
    """N goes from one failed request or lost connection to the next, over all lanes; with none it says so."""
    opened = open_page(everything())
    opened.page.locator("#lanes").focus()
    seen = set()
    for _ in range(30):
        opened.press("n")
        seen.add(opened.chosen())
    assert any("GET failed, 250 ms, pool 250 ms" in one for one in seen)
    assert any("cancelled" in one for one in seen)

    quiet = open_page(reports.report(reports.many(50, 4)))
    quiet.page.locator("#lanes").focus()
    quiet.press("n")
    assert quiet.page.locator("#said").inner_text() == "There is no failed request and no lost connection."


def test_a_request_leads_to_jaeger(open_page: Callable[..., Opened]) -> None:
    """Where a Jaeger has the traces, a request links to its span there; nothing is asked of it until then."""
    opened = open_page(story(), jaeger="http://jaeger.test/ui")
    opened.page.get_by_role("link", name="span 0000000000000001").click()
    link = opened.page.get_by_role("dialog").get_by_role("link", name="in Jaeger")

    assert link.get_attribute("href") == f"http://jaeger.test/ui/trace/{1:032x}?uiFind={1:016x}"
    assert (link.get_attribute("target"), link.get_attribute("rel")) == ("_blank", "noopener noreferrer")


def test_a_trace_id_can_be_copied(open_page: Callable[..., Opened]) -> None:
    """A trace id can be copied."""
    opened = open_page(story(), permissions=["clipboard-read", "clipboard-write"])
    opened.page.get_by_role("button", name="Copy trace id").first.click()
    opened.until("document.getElementById('said').textContent === 'Copied'")

    assert opened.page.evaluate("navigator.clipboard.readText()") == f"{1:032x}"


def luminance(colour: tuple[int, ...]) -> float:
    """Relative luminance, as WCAG defines it."""
    linear = [value / 255 / 12.92 if value <= 10 else ((value / 255 + 0.055) / 1.055) ** 2.4 for value in colour]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: tuple[int, ...], other: tuple[int, ...]) -> float:
    """Contrast of two colours, as WCAG defines it."""
    lighter, darker = sorted((luminance(one), luminance(other)), reverse=True)
    return (lighter + 0.05) / (darker + 0.05)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_and_bars_have_enough_contrast(open_page: Callable[..., Opened], scheme: str) -> None:
    """In both themes text has a contrast of 4.5 to what it stands on, on bars too, and what is drawn has 3."""
    opened = open_page(everything(), scheme)
    colours: dict[str, tuple[int, ...]] = {}
    for name in re.findall(r"--([\w-]+): light-dark", render(analyze([]))):
        opened.page.evaluate(f"document.querySelector('h1').style.color = 'var(--{name})'")
        colours[name] = opened.colour("document.querySelector('h1')", "color")
    opened.page.evaluate("document.querySelector('h1').style.color = ''")

    texts = [(text, on) for text in ("ink", "quiet", "accent") for on in ("page", "surface", "sunk")]
    texts += [(tone, f"{tone}-soft") for tone in ("failed", "slow", "waste")]
    texts += [
        ("ink", "failed-soft"),
        ("ink", "slow-soft"),
        ("on-accent", "accent"),
        ("page", "ink"),
        ("failed", "surface"),
    ]
    assert [
        (pair, contrast(*(colours[name] for name in pair)))
        for pair in texts
        if contrast(*(colours[name] for name in pair)) < 4.5
    ] == []
    texts += [("ink" if phase == "receive" else "surface", phase) for phase in PHASES]
    drawn = ["pool", "dns", "connect", "proxy", "tls", "send", "wait", "receive", "strong-rule", "focus"]
    assert [
        (name, contrast(colours[name], colours["surface"]))
        for name in drawn
        if contrast(colours[name], colours["surface"]) < 3
    ] == []


def test_a_chosen_theme_is_remembered(open_page: Callable[..., Opened]) -> None:
    """The page follows the system, can be told otherwise, draws its canvas again, and remembers."""
    dark = open_page(story(), "dark")
    assert luminance(dark.colour()) < 0.05
    opened = open_page(story(), "light")
    assert luminance(opened.colour()) > 0.8
    pixel = """(() => {
      const paper = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
      paper.drawImage(document.querySelector("#lanes canvas"), 0, 0);
      return [...paper.getImageData(4, 80, 1, 1).data].slice(0, 3);
    })()"""
    assert luminance(tuple(opened.page.evaluate(pixel))) > 0.8
    button = opened.page.get_by_role("button", name="Theme")
    button.click()
    button.click()
    assert button.get_attribute("aria-label") == "Theme: dark"
    assert luminance(opened.colour()) < 0.05
    assert luminance(tuple(opened.page.evaluate(pixel))) < 0.05
    opened.page.reload()
    while luminance(opened.colour()) > 0.8:
        # Chromium writes it down in a moment; the test's timeout is the limit.
        opened.page.reload()
    opened.page.emulate_media(media="print")
    assert luminance(opened.colour("document.querySelector('.card')")) > 0.8


@pytest.mark.parametrize("report", [story, everything, hostile], ids=lambda make: make.__name__)
def test_nothing_is_wider_than_a_narrow_page(open_page: Callable[..., Opened], report: Callable[[], Report]) -> None:
    """At 390 pixels nothing is wider than the page, the dialog included."""
    opened = open_page(report(), width=390)
    width = "Math.max(document.documentElement.scrollWidth, document.getElementById('request').scrollWidth)"
    assert opened.page.evaluate(width) <= 390
    opened.page.locator("a[href^='#request-']").first.click()
    opened.page.get_by_role("dialog").wait_for()
    assert opened.page.evaluate(width) <= 390


def test_nothing_from_spans_runs(open_page: Callable[..., Opened]) -> None:
    """A hostile report is shown whole as text: nothing runs, no element appears, and its waterfalls open."""
    report = hostile()
    opened = open_page(report)
    page = opened.page
    elements = "document.querySelectorAll('img, iframe, script:not([id=data]):not(:is(head, body) > script)').length"
    assert page.evaluate(elements) == 0
    assert "alert(1)" in page.locator(".finding h3").inner_text()
    page.locator("#lanes").focus()
    opened.press("n", "ArrowRight", "+", "+")
    for number in range(len(report.timeline)):
        page.goto(f"{opened.path.as_uri()}#request-{number}")
        page.wait_for_selector(f"#request[data-request='{number}']")
        dialog = page.get_by_role("dialog")
        for summary in dialog.locator("summary").all():
            summary.click()
        assert dialog.get_by_role("heading", level=2).is_visible()
        assert page.evaluate(elements) == 0


def test_an_empty_page_opens_without_complaint(open_page: Callable[..., Opened]) -> None:
    """A page of nothing opens without complaint."""
    opened = open_page(analyze([]))

    assert opened.page.get_by_role("heading", level=1).inner_text() == "No request to report on"
    assert opened.page.locator("#lanes").count() == 0


def test_the_page_is_complete_without_a_script(open_page: Callable[..., Opened]) -> None:
    """Where scripts are switched off, the findings and the tables are all there, and the page says what is missing."""
    with_script = open_page(story())
    page = with_script.page.context.browser.new_context(java_script_enabled=False).new_page()
    page.goto(with_script.path.as_uri())

    assert page.locator(".finding h3").is_visible()
    assert page.locator("table.phases").is_visible()
    assert not page.locator(".timeline").is_visible()
    assert page.get_by_text("drawn by a script in this page").is_visible()
    page.context.close()


def test_http2_and_no_connection(open_page: Callable[..., Opened]) -> None:
    """Requests that overlap on one connection are below each other; those without a connection have a lane of their own."""
    opened = open_page(everything())
    page = opened.page
    rows = int(page.locator("#lanes").get_attribute("aria-rowcount"))
    headers = set()
    page.locator("#lanes").focus()
    for _ in range(rows):
        headers.add(
            page.evaluate("document.querySelector('[aria-selected=true]').parentElement.firstChild.textContent")
            if opened.chosen()
            else ""
        )
        opened.press("ArrowDown")

    assert "Connection 9, 12 requests" in headers
    assert "No connection obtained" in headers
    assert "Connection not seen" in headers
    assert rows > 23


@pytest.mark.parametrize("connections", [None, 12, 1], ids=["story", "twelve", "one"])
def test_ten_thousand_requests_can_be_explored(open_page: Callable[..., Opened], connections: int | None) -> None:
    """10,000 requests can be zoomed, scrolled and walked through; only what is in sight is drawn."""
    opened = open_page(reports.report(reports.many(10_000, connections)))
    page = opened.page
    page.locator("#lanes").focus()
    for key in ("ArrowDown", "+", "+", "+", "ArrowRight", "PageDown", "0", "n", "End"):
        opened.press(key)
    opened.drawn(
        lambda: page.locator("#lanes").evaluate(
            "element => { element.scrollTop = 50000; element.dispatchEvent(new Event('scroll')); }"
        )
    )
    canvas = page.locator("#lanes canvas")
    assert opened.chosen()
    assert canvas.evaluate("element => element.height") < 1000
    assert page.evaluate("document.querySelectorAll('*').length") < 1200
    # What takes longest is drawing all there is: no more than a few operations for each pixel across each lane in sight.
    calls = page.evaluate(
        """() => {
          const paper = document.querySelector('#lanes canvas').getContext('2d');
          let calls = 0;
          const plain = CanvasRenderingContext2D.prototype.fillRect;
          paper.fillRect = function (...rest) { calls += 1; return plain.apply(this, rest); };
          document.querySelector('[data-do=fit]').click();
          return new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(() => done(calls))));
        }"""
    )
    assert 0 < calls < 20_000
