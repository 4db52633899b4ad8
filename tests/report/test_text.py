"""A report as text: whole outputs, and what must never reach a terminal."""

from __future__ import annotations

import io
from dataclasses import replace
from typing import Any

import pytest
from kit.otlp import Export, opening, read, reusing, row, story
from rich.console import Console

from otel_httptrace.report import text, units
from otel_httptrace.report.analysis import analyze
from otel_httptrace.report.rows import Row
from otel_httptrace.report.summary import Report


def printed(what: Report | Row, width: int = 100, *, everything: bool = False, **options: Any) -> list[str]:
    """The lines of a report, or of one request's waterfall, without what pads them."""
    console = Console(file=io.StringIO(), width=width, highlight=False, **options)
    if isinstance(what, Report):
        text.render(what, console, everything=everything)
    else:
        console.print(text.waterfall(what, width))
    return [line.rstrip() for line in console.file.getvalue().splitlines()]  # type: ignore[attr-defined]


def pair() -> list[Row]:
    """Two requests to one origin, of which the first lost the connection."""
    rows = read(story())[:2]
    for each in rows:
        each.origin = "http://api.test"
        each.attributes.update({"httptrace.body.bytes_read": 0, "http.response.body.size": 2048})
    return rows


def test_a_report_is_findings_then_origins_then_requests() -> None:
    """A report is its findings, then each origin's figures, then single requests."""
    assert printed(analyze(pair())) == [
        "2 requests to 1 origin in 30.0 ms, beginning 2001-09-09 01:46:40 UTC",
        "",
        "1. body_not_read  waste, certain",
        "   100 % of the connections to http://api.test (2 of 2) were lost because responses were closed",
        "   before they had been read, at app.py:7 in check; 1 new connection had to be opened and 1 lookup",
        "   made, 2.0 ms in all",
        "   => read the body to its end before closing the response, or ask for less (HEAD, Range)",
        "   certain: each of these connections was closed together with a response whose end had not been",
        "   read, and no exception passed through the caller; criterion: httptrace.conn.close_reason is",
        "   body_not_read; not (httptrace.body.closed_by is an exception other than a cancellation, and the",
        "   body itself had not failed); at least 2 of one server (lost_connections)",
        f"   see trace {'ab' * 16}: closed after 0 B of 2.0 KiB, its connection lost",
        f"   see trace {'ab' * 16}: closed after 0 B of 2.0 KiB, its connection lost",
        "",
        "http://api.test " + "─" * 84,
        "requests 2   connections opened 2   lookups 1   reuse 0 %",
        "opened because  first_connection 1, body_not_read 1",
        "closed because  body_not_read 2",
        "bodies          closed_early 2",
        "time         p50      p95      p99  longest    total  requests",
        "dns       2.0 ms   2.0 ms   2.0 ms   2.0 ms   2.0 ms         1",
        "wait      4.0 ms   8.0 ms   8.0 ms   8.0 ms  12.0 ms         2",
        "receive   1.0 ms   2.0 ms   2.0 ms   2.0 ms   3.0 ms         2",
        "total    10.0 ms  10.0 ms  10.0 ms  10.0 ms  20.0 ms         2",
        "",
        "the slowest request " + "─" * 80,
        f"trace {'ab' * 16} span 0000000000000002, connection 2 (new: body_not_read)",
        "  GET                10.0 ms  " + "█" * 70,
        "    http.getconn      4.0 ms  " + "█" * 28,
        "      http.dns        2.0 ms  " + "█" * 14,
        "      http.connect    2.0 ms  " + " " * 14 + "█" * 14,
        "    wait              4.0 ms  " + " " * 28 + "█" * 28,
        "    receive           2.0 ms  " + " " * 56 + "█" * 14,
        "  http://api.test",
        "  body closed_early at app.py:7 in check",
        "  its connection could not be reused: the response was closed unread (body_not_read)",
        "  the connection before was lost by request 0000000000000001 at app.py:7 in check",
        "",
        "the next slowest " + "─" * 83,
        f"trace {'ab' * 16} span 0000000000000001, connection 1 (new: first_connection)",
        "  GET         10.0 ms  " + "█" * 77,
        "    wait       8.0 ms  " + " " * 8 + "█" * 62,
        "    receive    1.0 ms  " + " " * 69 + "█" * 8,
        "  http://api.test",
        "  body closed_early at app.py:7 in check",
        "  its connection could not be reused: the response was closed unread (body_not_read)",
    ]


@pytest.mark.parametrize("width", [40, 52, 64, 200])
def test_no_line_is_wider_than_the_terminal(width: int) -> None:
    """No line is wider than the terminal, nor any figure cut off."""
    lines = printed(analyze(pair()), width)

    assert max(map(len, lines)) <= width
    assert not any("…" in line for line in lines)
    assert sum(line.startswith(("dns ", "wait ", "receive ")) for line in lines) == 3


def test_lines_that_go_on() -> None:
    """What goes on in a further line is indented, so that it does not look like something new."""
    first, second = pair()
    for each in (first, second):
        each.attributes["httptrace.body.closed_via"] = "stripe/_http_client.py:310 in close"
    lines = printed(analyze([first, second]), 80)
    narrow = printed(analyze([first, second]), 40)

    title = next(number for number, line in enumerate(lines) if line.startswith("trace "))
    assert lines[title : title + 2] == [
        f"trace {'ab' * 16} span 0000000000000002,",
        "    connection 2 (new: body_not_read)",
    ]
    lost = lines.index("  the connection before was lost by request 0000000000000001 at app.py:7 in")
    assert lines[lost + 1] == "    check"
    assert narrow[:2] == ["2 requests to 1 origin in 30.0 ms,", "  beginning 2001-09-09 01:46:40 UTC"]
    body = narrow.index("  body closed_early at app.py:7 in")
    assert narrow[body + 1 : body + 3] == ["    check, by way of", "    stripe/_http_client.py:310 in close"]


def test_an_empty_report_says_so() -> None:
    """Of nothing there is nothing to say."""
    assert printed(analyze([])) == ["no requests in 0 spans", "", "nothing to judge"]


def test_a_report_without_findings_says_so() -> None:
    """Where no criterion is met the report says so."""
    assert printed(analyze([reusing()]))[2] == "No problems found in 1 request"


def test_what_failed_is_told_at_once() -> None:
    """Where requests failed or were answered with errors, a line says so, also without a finding."""
    refused = row(failed=True, status=None, failed_phase="connect", error__type="ConnectError")
    lines = printed(analyze([refused, reusing(status=500), reusing(status=404), reusing()]))

    assert lines[1:4] == [
        "3 of 4 requests failed: 1 x ConnectError, 1 x HTTP 500, 1 x HTTP 404",
        "",
        "1. failed  failed, certain",
    ]
    # Nothing is counted twice: a body that broke off after an error status is one failure.
    both = row(failed=True, status=500, body__outcome="failed", error__type="ReadError", failed_cause="ECONNRESET")
    assert analyze([both, reusing()]).failures == "1 of 2 requests failed: 1 x ReadError (reset)"
    assert "Nothing else found in 2 requests" in printed(analyze([reusing(status=404), reusing()]))
    assert "errors     ConnectError 1" in lines
    assert "statuses   500 1, 404 1, 200 1" in lines


def test_requests_without_our_attributes_are_counted() -> None:
    """Requests about which otel-httptrace said nothing are counted, and not judged."""
    lines = printed(analyze([row(), row()]))

    assert lines[1].startswith("of 100 % of them (2) otel-httptrace has seen nothing")
    assert lines[4] == "nothing to judge"


def many(origins: int = 50, each: int = 100) -> Report:
    """A report on many servers, of which two lose connections and one refuses them."""
    rows = [reusing(origin=f"http://host{number}.test") for number in range(origins) for _ in range(each)]
    for number in (31, 47):
        for pair_ in [pair() for _ in range(3)]:
            for each_ in pair_:
                each_.origin = f"http://host{number}.test"
            rows += pair_
    for _ in range(3):
        refused = row(failed=True, status=None, failed_phase="connect", error__type="ConnectError")
        refused.origin = "http://host20.test"
        rows.append(refused)
    return analyze(rows)


def test_many_origins() -> None:
    """Servers that a finding is about come first, in full; of the others each has a line, and `--all` shows all in full."""
    lines = printed(many())
    full = [line.split()[0] for line in lines if line.startswith("http://host") and line.endswith("─")]
    short = [line.split() for line in lines if line.startswith("http://host") and not line.endswith("─")]

    assert sorted(full) == ["http://host20.test", "http://host31.test", "http://host47.test"]
    assert len(short) == 40 and short[0] == ["http://host0.test", "100", "0", "100", "%", "10.0", "ms", "10.0", "ms"]
    assert "and 7 origins more; all figures of each: --all" in lines
    everything = printed(many(), everything=True)
    assert sum(line.startswith("http://host") and line.endswith("─") for line in everything) == 50


@pytest.mark.parametrize("width", [80, 100])
def test_the_first_screen(width: int) -> None:
    """The first 24 lines say of each finding what is wrong, whose line it is, and what to do."""
    report = many()
    screen = printed(report, width)[:24]

    assert len(report.findings) == 2
    assert screen[0].startswith("5,015 requests to 50 origins")
    at = screen.index(f"1. {report.findings[0].verdict}  failed, 3 requests, http://host20.test")
    assert screen[at + 1].startswith("   => ")
    assert screen[at + 2] == "2. body_not_read  waste, 12 requests, at app.py:7 in check"
    assert screen[at + 3].startswith("   => read the body to its end before closing the response, or ask for less ")


def test_the_first_screen_with_many_findings() -> None:
    """However many findings there are, the first screen has the worst of them in short, and says how many more there are."""
    report = many()
    findings = tuple(replace(report.findings[number % 2], verdict=f"verdict_{number}") for number in range(30))
    screen = printed(replace(report, findings=findings), 80)[:24]

    short = screen[: screen.index("and 22 more")]
    assert [line.split()[1] for line in short if "verdict_" in line] == [f"verdict_{number}" for number in range(8)]
    assert sum(line.startswith("   => ") for line in short) == 8


def test_failed_and_cancelled_are_counted_apart() -> None:
    """What was cancelled is not among what failed, and the line of phases says which of them it has."""
    refused = row(failed=True, status=None, failed_phase="connect", error__type="ConnectError")
    given_up = row(status=None, failed_phase="wait")
    half_way = row(body__outcome="cancelled")
    both = printed(analyze([refused, given_up, half_way, reusing()]))
    cancelled = printed(analyze([given_up, reusing()]))

    assert [line for line in both if line.startswith(("requests ", "failed "))] == [
        "requests 4   connections opened 0   lookups 0   reuse 100 %   failed 1   cancelled 2",
        "failed or cancelled in  connect 1, wait 1",
    ]
    assert [line for line in cancelled if line.startswith(("requests ", "cancelled "))] == [
        "requests 2   connections opened 0   lookups 0   reuse 100 %   cancelled 1",
        "cancelled in  wait 1",
    ]


HOSTILE = "\x1b]0;owned\x07[bold]x[/bold]\r\n\u202e"


def test_nothing_reaches_the_terminal_but_text() -> None:
    """Control characters of a span are shown, not obeyed, and its brackets are no markup."""
    hostile = opening(
        "body_not_read",
        conn__close_reason="body_not_read",
        body__outcome="closed_early",
        body__closed_at=HOSTILE,
        body__closed_via=HOSTILE,
        origin=HOSTILE,
    )
    hostile.name = hostile.trace_id = hostile.span_id = HOSTILE
    output = "\n".join(printed(analyze([hostile, hostile]), 200, force_terminal=True, color_system=None))

    assert not {"\x1b", "\x07", "\r", "\u202e"} & set(output)
    assert "[bold]x[/bold]" in output


def test_colour_only_where_it_is_shown() -> None:
    """A terminal gets colours, a file none."""
    console = Console(file=io.StringIO(), width=80, force_terminal=True, color_system="standard")
    text.render(analyze(pair()), console)

    assert "\x1b[" in console.file.getvalue()  # type: ignore[attr-defined]
    assert not any("\x1b" in line for line in printed(analyze(pair())))


def test_a_waterfall_with_all_spans() -> None:
    """Where wait and receive have spans of their own they are not drawn twice."""
    export = Export()
    request = export.get(0, 4, http__conn__reused=True, httptrace__conn__id=9, httptrace__time__wait=0.002)
    export.span("http.wait", 1, 2, request)
    (found,) = read([export.request])

    lines = printed(found, width=120)
    assert lines[0].endswith("connection 9 (reused)")
    assert [line.split()[0] for line in lines[1:]] == ["GET", "http.wait"]


def test_a_slow_upload_has_a_bar() -> None:
    """Sending is drawn where it took a part of the time that can be seen, before the wait; else it is not."""
    slow = reusing(duration=1.0, time__send=0.7, time__wait=0.2, time__receive=0.1)
    quick = reusing(duration=1.0, time__send=0.001, time__wait=0.9, time__receive=0.1)

    lines = printed(slow, width=120)
    assert [line.split()[0] for line in lines[1:5]] == ["GET", "send", "wait", "receive"]
    assert lines[2].index("█") < lines[3].index("█") < lines[4].index("█")
    assert [line.split()[0] for line in printed(quick)[1:4]] == ["GET", "wait", "receive"]


def test_time_in_no_phase_is_told() -> None:
    """A quarter or more of all time that no phase accounts for is told as that, and less is not."""
    held = [reusing(duration=1.0, time__wait=0.2, time__receive=0.1) for _ in range(3)]
    known = [reusing(duration=1.0, time__wait=0.7, time__receive=0.1) for _ in range(3)]

    (line,) = (line for line in printed(analyze(held)) if "in no phase" in line)
    assert line.split() == ["in", "no", "phase", "2.1", "s"]
    assert not any("in no phase" in line for line in printed(analyze(known)))


def test_a_request_that_took_no_time() -> None:
    """A span without a length, or one that ends before it starts, is drawn all the same."""
    export = Export()
    export.get(5, -1)
    (found,) = read([export.request])

    assert found.duration == 0
    assert printed(found)[1].split() == ["GET", "0", "µs", "█"]


def test_a_response_that_was_never_closed() -> None:
    """Where nobody read a response there is no time of receiving it, in a bar or in a figure."""
    export = Export()
    left = {"httptrace__time__receive": 0.0, "httptrace__body__outcome": "never_closed", "httptrace__conn__id": 1}
    export.get(0, 4, httptrace__time__wait=0.002, **left)
    (found,) = read([export.request])

    assert [line.split()[0] for line in printed(found)[1:3]] == ["GET", "wait"]
    assert not any("receive" in line for line in printed(analyze([found])))


def test_requests_without_a_response_say_where_they_ended() -> None:
    """A request that got no response says where that was, and whether it was the caller's doing."""
    failed = row(failed=True, status=None, failed_phase="dns", error__type="ConnectError")
    cancelled = row(status=None, failed_phase="wait")

    assert printed(failed)[-1] == "  failed in dns: ConnectError"
    assert printed(cancelled)[-1] == "  cancelled in wait"


@pytest.mark.parametrize(
    ("value", "told"),
    [
        (7200, "2.0 h"), (240, "4.0 min"), (123.4, "123 s"), (1.25, "1.2 s"), (0.99996, "1.0 s"), (0.25, "250 ms"),
        (0.0999, "99.9 ms"), (0.09996, "100 ms"), (0.0042, "4.2 ms"), (0.000042, "42 µs"), (0, "0 µs"),
    ],
)  # fmt: skip
def test_durations_have_three_digits_and_a_fitting_unit(value: float, told: str) -> None:
    """Durations have three digits at most, and a unit that fits."""
    assert units.seconds(value) == told


def test_other_units_are_written_for_people() -> None:
    """Counts, shares, sizes and spreads read as people write them."""
    assert [units.count(1, "body", "bodies"), units.count(1200, "body", "bodies")] == ["1 body", "1,200 bodies"]
    assert [units.share(1, 1000), units.share(999, 1000), units.share(2, 4), units.share(0, 0)] == [
        "1 %", "99 %", "50 %", "0 %",
    ]  # fmt: skip
    assert [units.size(512), units.size(1536), units.size(5 * 2**20), units.size(2**42)] == [
        "512 B", "1.5 KiB", "5.0 MiB", "4096.0 GiB",
    ]  # fmt: skip
    assert [units.spread(5, 5.01), units.spread(4.8, 5.2), units.spread(0.5, 2)] == [
        "5.0 s", "4.8 to 5.2 s", "500 ms to 2.0 s",
    ]  # fmt: skip


def test_each_phase_has_one_colour_everywhere() -> None:
    """Each phase has a colour of its own on a terminal, and the page's style has both of its others."""
    from otel_httptrace.report.colours import COLOURS
    from otel_httptrace.report.page import render as page
    from otel_httptrace.report.rows import PHASES

    assert list(COLOURS) == list(PHASES)
    assert len({colour.terminal for colour in COLOURS.values()}) == len(PHASES)
    style = page(analyze([])).partition("<style>")[2].partition("</style>")[0]
    for phase, colour in COLOURS.items():
        assert f"--{phase}: light-dark({colour.light}, {colour.dark});" in style
