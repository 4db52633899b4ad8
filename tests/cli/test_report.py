"""`httptrace report`: what was collected before, whatever it is."""

from __future__ import annotations

import gzip
import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
from kit.backend import Asked, Backend, Reply
from kit.command import COMMAND, PATIENCE, Terminal, httptrace, start
from kit.server import Server, answer, free_port

from otel_httptrace.clients import named

UPSTREAM = "opentelemetry.instrumentation.httpx"


def pairs(**attributes: Any) -> list[dict[str, Any]]:
    """Attributes in OTLP/JSON; a name's dots are underscores here."""
    kinds = {bool: "boolValue", int: "intValue", float: "doubleValue", str: "stringValue"}
    return [{"key": key.replace("__", "."), "value": {kinds[type(value)]: value}} for key, value in attributes.items()]


def line(number: int, scope: str = UPSTREAM, **attributes: Any) -> str:
    """A line of the collector's file: one request."""
    span = {
        "traceId": f"{number:032x}",
        "spanId": f"{number:016x}",
        "name": "GET",
        "kind": 3,
        "startTimeUnixNano": str(1_700_000_000_000_000_000 + number * 1_000_000),
        "endTimeUnixNano": str(1_700_000_000_010_000_000 + number * 1_000_000),
        "attributes": pairs(url__full="http://api.example/x?secret=1", http__response__status_code=200, **attributes),
    }
    resource = {"attributes": pairs(service__name="shop")}
    scopes = [{"scope": {"name": scope}, "spans": [span]}]
    return json.dumps({"resourceSpans": [{"resource": resource, "scopeSpans": scopes}]}) + "\n"


def lost(number: int) -> str:
    """A request that lost its connection, and had to open it because the one before had."""
    return line(
        number,
        http__conn__reused=False,
        httptrace__conn__id=number,
        httptrace__conn__open_reason="body_not_read" if number > 1 else "first_connection",
        httptrace__conn__close_reason="body_not_read",
        httptrace__body__outcome="closed_early",
        httptrace__body__closed_at="shop/client.py:42 in charge",
    )


@pytest.fixture
def traces(tmp_path: Path) -> Path:
    """Ten requests, each of which lost its connection."""
    path = tmp_path / "traces.jsonl"
    path.write_text("".join(lost(number) for number in range(1, 11)))
    return path


def test_a_file_is_reported_with_its_finding(traces: Path) -> None:
    """The report goes to stdout, with the finding and the line; no query is shown."""
    ran = httptrace("report", traces)

    assert (ran.returncode, ran.stderr) == (0, "")
    assert ran.stdout.startswith("10 requests to 1 origin in 19.0 ms, from shop")
    assert "1. body_not_read" in ran.stdout
    assert "shop/client.py:42 in charge" in ran.stdout
    assert "secret" not in ran.stdout


def test_standard_input_and_gzip_are_read(traces: Path) -> None:
    """Standard input will do, and gzip."""
    expected = httptrace("report", traces).stdout
    (hint,) = re.findall(r"   to see a trace:\s+httptrace\s+report\s+\S+\s+--trace\s+ID\n", expected)
    # A path is not broken.
    assert str(traces) in hint
    packed = traces.with_suffix(".gz")
    packed.write_bytes(gzip.compress(traces.read_bytes()))

    assert httptrace("report", "-", input=traces.read_text()).stdout == expected.replace(hint, "")
    assert httptrace("report", packed).stdout.replace(str(packed), str(traces)).split() == expected.split()


def test_times_that_cannot_be(tmp_path: Path) -> None:
    """Spans that end before they begin, or have no time, are one line, and are in no figure of times; status 2."""
    good = line(1, httptrace__conn__id=1, http__conn__reused=True, httptrace__time__wait=0.004)
    odd = [
        line(2, httptrace__time__wait=0.004).replace("1700000000012", "1600000000012"),
        line(3).replace('"1700000000003000000"', "0").replace('"1700000000013000000"', "0"),
        line(4).replace('"1700000000004000000"', '"1"'),
    ]
    path = tmp_path / "odd.jsonl"
    path.write_text(good + "".join(odd))
    ran = httptrace("report", path)
    (tmp_path / "none.jsonl").write_text(odd[0])
    none = httptrace("report", tmp_path / "none.jsonl", "--html", tmp_path / "none.html")

    assert ran.returncode == none.returncode == 2
    assert ran.stderr.splitlines()[0] == (
        "httptrace: 3 spans have invalid timestamps (end before start, or the year 1970): they are ignored"
    )
    shown = ran.stdout.splitlines()
    assert shown[0] == "4 requests to 1 origin in 10.0 ms, from shop, beginning 2023-11-14 22:13:20 UTC"
    assert [words.split() for words in shown if words.startswith(("wait ", "total "))] == [
        ["wait", *["4.0", "ms"] * 4, "8.0", "ms", "2"],
        ["total", *["10.0", "ms"] * 5, "1"],
    ]
    assert not any("1970" in words for words in shown)
    assert none.stdout.startswith("1 request to 1 origin, from shop\n")
    assert "1970" not in none.stdout and "Time span</dt><dd>—" in (tmp_path / "none.html").read_text()


def test_no_blanks_at_the_end(traces: Path, tmp_path: Path) -> None:
    """In a file and in a pipe no line ends with blanks, with colours or without."""
    plain = httptrace("report", traces, "-o", tmp_path / "r.txt")
    piped = httptrace("report", traces)
    coloured = httptrace("report", traces, environ={"FORCE_COLOR": "1"})

    assert plain.returncode == 0
    assert (tmp_path / "r.txt").read_text() == piped.stdout
    uncoloured = re.sub("\x1b\\[[0-9;]*m", "", coloured.stdout)
    assert uncoloured == piped.stdout != coloured.stdout
    assert [words for words in piped.stdout.splitlines() if words != words.rstrip()] == []


def test_a_file_is_not_written_over(traces: Path) -> None:
    """What is read is not written to, whatever it is called; what is no plain file takes more than one."""
    before = traces.read_text()
    link = traces.with_name("link")
    link.symlink_to(traces)
    ran = httptrace("report", traces, "--json", link)
    nowhere = httptrace("report", traces, "--json", "/dev/null", "--html", "/dev/null")

    assert (ran.returncode, ran.stdout) == (2, "")
    assert ran.stderr.startswith(f"httptrace report: --json and FILE are the same file: {traces}. ")
    assert traces.read_text() == before
    assert nowhere.returncode == 0


def test_a_terminal_without_the_signs(traces: Path) -> None:
    """Where stdout has no sign for µ or a bar, one that is like it stands there, and JSON is ASCII anyhow."""
    with traces.open("a") as file:
        file.write(line(99, httptrace__time__wait=0.000085, http__conn__reused=True))
    text = httptrace("report", traces, environ={"PYTHONIOENCODING": "ascii"})
    data = httptrace("report", traces, "--json", "-", environ={"PYTHONIOENCODING": "ascii"})

    assert (text.returncode, text.stderr) == (0, "")
    assert "shop/client.py:42 in charge" in text.stdout
    assert "?" not in text.stdout
    assert "  GET   10.0 ms  ####" in text.stdout and " 85 us " in text.stdout
    assert "http://api.example ----" in text.stdout
    assert (data.returncode, len(json.loads(data.stdout)["findings"])) == (0, 1)


def test_a_stdout_that_is_closed_or_full(traces: Path) -> None:
    """Closed, nobody reads it; full, that is one line and status 2."""
    script = 'exec "$@" {}'
    ran = {
        where: subprocess.run(
            ["sh", "-c", script.format(where), "sh", *COMMAND, "report", str(traces)],
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
        for where in (">&-", ">/dev/full")
    }

    assert (ran[">&-"].returncode, ran[">&-"].stderr) == (0, "")
    assert ran[">/dev/full"].returncode == 2
    assert ran[">/dev/full"].stderr.splitlines() == ["httptrace: [Errno 28] No space left on device"]


def test_json_alone_on_stdout(traces: Path) -> None:
    """`--json -` is all there is on stdout."""
    ran = httptrace("report", traces, "--json", "-")

    assert (ran.returncode, ran.stderr) == (0, "")
    assert [finding["verdict"] for finding in json.loads(ran.stdout)["findings"]] == ["body_not_read"]


def test_html_writes_a_page(traces: Path, tmp_path: Path) -> None:
    """`--html` writes a page; with `--quiet` nothing is printed."""
    pytest.importorskip("otel_httptrace.report.page")
    page = tmp_path / "page.html"
    ran = httptrace("report", traces, "--html", page, "--quiet")

    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "", "")
    assert page.read_text().lower().startswith("<!doctype html>")


def test_fail_on_a_finding_is_status_1(traces: Path) -> None:
    """For CI: a finding that is asked for is status 1."""
    ran = httptrace("report", traces, "--fail-on", "body_not_read", "--quiet")
    assert (ran.returncode, ran.stdout, ran.stderr) == (1, "", "httptrace: found body_not_read\n")
    assert httptrace("report", traces, "--fail-on", "dns_slow", "--quiet").returncode == 0


def test_a_truncated_file_is_status_2_and_the_rest_is_reported(traces: Path, tmp_path: Path) -> None:
    """A file that ends in the middle of a line: one line says so, status 2, and the rest is reported."""
    cut = tmp_path / "cut.jsonl"
    cut.write_bytes(traces.read_bytes()[:-100])
    page = tmp_path / "r.json"
    ran = httptrace("report", cut, "--json", page)

    assert ran.returncode == 2
    assert ran.stderr == "httptrace: line 10 is cut off\n"
    assert ran.stdout.startswith("9 requests to 1 origin")
    assert "cut off" not in ran.stdout
    assert json.loads(page.read_text())["problems"] == ["line 10 is cut off"]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "there is no span in it"),
        ('{"a": 1}\n', "no resourceSpans"),
        ("[1, 2]\n", "not OTLP"),
        ("\x1b]0;evil\x07\n", "not JSON"),
        (line(1, scope="somebody.else"), f"none of the 1 spans is from a request made with {named('or')}"),
    ],
    ids=["empty", "object", "list", "escape", "foreign"],
)
def test_garbage_is_one_line_and_status_2(tmp_path: Path, text: str, told: str) -> None:
    """What is no trace of ours is one line that says so, and status 2; no byte of it reaches the terminal."""
    path = tmp_path / "traces.jsonl"
    path.write_text(text)
    ran = httptrace("report", path)

    assert ran.returncode == 2
    (error,) = ran.stderr.splitlines()
    assert told in error
    assert "\x1b" not in ran.stdout + ran.stderr


def test_requests_without_our_attributes_are_counted(tmp_path: Path) -> None:
    """Requests that otel-httptrace has said nothing of are counted, and that is said."""
    path = tmp_path / "traces.jsonl"
    path.write_text(line(1) + line(2))
    ran = httptrace("report", path)

    assert ran.returncode == 2
    assert "none of the 2 requests has an attribute of otel-httptrace" in ran.stderr
    assert ran.stdout.startswith("2 requests to 1 origin")


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ([], "expected one of FILE, --jaeger URL and --tempo URL"),
        (["file", "--tempo", "http://localhost:1"], "expected one of FILE, --jaeger URL and --tempo URL"),
        (["no-such-file"], "no-such-file cannot be opened: No such file or directory"),
        (["."], ". cannot be"),
        (["--jaeger", "http://localhost:1"], "--jaeger needs --service NAME"),
        (["--jaeger", "http://localhost:1", "--service", "x", "--query", "{}"], "--query is for --tempo"),
        (["--jaeger", "http://localhost:1", "--service", "x", "--tenant", "one"], "--tenant is for --tempo"),
        (["--tempo", "http://localhost:1", "--tenant", "ä"], "Tempo: X-Scope-OrgID is not a header that can be sent"),
        (["--jaeger", "localhost", "--service", "x"], "a URL like http://localhost:16686 was expected"),
        (["--tempo", "http://localhost:1", "--lookback", "yesterday"], "yesterday"),
        (["--limit", "0", "file"], "0 is not in the range"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_arguments_are_one_line_and_status_2(arguments: list[str], told: str) -> None:
    """Wrong arguments are one line and status 2."""
    ran = httptrace("report", *arguments)

    assert (ran.returncode, ran.stdout) == (2, "")
    (error,) = ran.stderr.splitlines()
    assert told in error


@pytest.mark.parametrize("backend", [["--jaeger", "--service", "shop"], ["--tempo"]], ids=lambda backend: backend[0])
def test_an_unreachable_backend_is_one_line(backend: list[str]) -> None:
    """A backend that cannot be reached is one line that names it."""
    url = f"http://127.0.0.1:{free_port()}"
    ran = httptrace("report", backend[0], url, *backend[1:])

    assert (ran.returncode, ran.stdout) == (2, "")
    (error,) = ran.stderr.splitlines()
    assert f"at {url} cannot be reached" in error


@pytest.mark.parametrize("backend", [["--jaeger", "--service", "shop"], ["--tempo"]], ids=lambda backend: backend[0])
def test_a_url_that_refuses(server: Server, backend: list[str]) -> None:
    """A server that answers something else is one line, too; credentials in the URL are not shown."""

    class Everything(dict[str, Any]):
        def __missing__(self, key: str) -> bytes:
            return answer(b"go away", status="403 Forbidden")

    server.routes = Everything()
    url = server.url().replace("//", "//user:secret@")
    ran = httptrace("report", backend[0], url, *backend[1:])

    assert (ran.returncode, ran.stdout) == (2, "")
    (error,) = ran.stderr.splitlines()
    assert "403" in error
    assert "secret" not in error


def test_a_tenant_of_tempo(traces: Path) -> None:
    """--tenant and HTTPTRACE_AUTHORIZATION go with every request to Tempo, whose traces are those of the tenant."""
    trace = json.loads(traces.read_text().splitlines()[0])

    def answered(asked: Asked) -> Reply:
        if asked.headers.get("x-scope-orgid") != "one" or asked.headers.get("authorization") != "Bearer hunter2":
            return Reply(b"no org id\n", 401)
        if asked.path == "/api/search":
            return Reply({"traces": [{"traceID": "1", "startTimeUnixNano": "1700000000000000000"}]})
        return Reply({"trace": trace})

    environ = {"HTTPTRACE_AUTHORIZATION": "Bearer hunter2"}
    with Backend(answered) as tempo:
        ran = httptrace("report", "--tempo", tempo.url, "--tenant", "one", environ=environ)
        refused = httptrace("report", "--tempo", tempo.url, environ=environ)

    assert (ran.returncode, ran.stderr) == (0, "")
    assert ran.stdout.startswith("1 request to 1 origin in 10.0 ms, from shop")
    assert (refused.returncode, refused.stdout) == (2, "")
    assert refused.stderr == (
        f"httptrace: Tempo at {tempo.url} answered 401 Unauthorized: it has tenants: name one with --tenant\n"
    )


def test_what_backends_are_sent_is_documented() -> None:
    """The help and docs/report.md name the options for backends, and the variable for their credentials."""
    told = httptrace("report", "--help").stdout
    documented = (Path(__file__).parents[2] / "docs" / "report.md").read_text()

    for name in (
        "HTTPTRACE_AUTHORIZATION",
        "--tenant",
        "X-Scope-OrgID",
        "--jaeger",
        "--tempo",
        "--query",
        "--lookback",
    ):
        assert name in told and name in documented, name


def test_a_reader_that_leaves(traces: Path) -> None:
    """`httptrace report ... | head` is no error to speak of."""
    with start("report", traces) as process:
        assert process.stdout is not None
        # Before it has said anything: what it says then has no reader.
        process.stdout.close()
        assert process.stderr is not None
        error = process.stderr.read()
        process.wait(PATIENCE)

    assert error == ""
    assert process.returncode == 141


def test_a_terminal_gets_colours_and_no_line_too_long(traces: Path) -> None:
    """On a terminal there are colours, no line is wider than that, and the bar of progress is gone in the end."""
    with Terminal(*COMMAND, "report", str(traces), columns=60) as terminal:
        assert terminal.end() == 0

    assert "\x1b[" in terminal.shown
    assert "10 requests to 1 origin" in terminal.shown
    assert "\x1b[2K" in terminal.shown.partition("10 requests to 1 origin")[0]
