"""What a finding does to CI: exit status, baselines, annotations. All of it runs in this process."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from kit.otlp import Export, opening, reusing, row

from otel_httptrace.cli.app import run
from otel_httptrace.cli.output import Output
from otel_httptrace.report import gate, schema
from otel_httptrace.report.analysis import analyze
from otel_httptrace.report.findings import Thresholds
from otel_httptrace.report.otlp import to_json
from otel_httptrace.report.summary import Report


def left(number: int, line: str = "shop.py:2 in known", port: int = 8000) -> dict[str, object]:
    """What is recorded of a request whose response was closed unread."""
    return {
        "url__full": f"http://127.0.0.1:{port}/x",
        "http__conn__reused": False,
        "httptrace__conn__id": number,
        "httptrace__conn__open_reason": "body_not_read" if number > 1 else "first_connection",
        "httptrace__conn__close_reason": "body_not_read",
        "httptrace__body__outcome": "closed_early",
        "httptrace__body__closed_at": line,
    }


def write(
    path: Path,
    *,
    line: str = "shop.py:2 in known",
    port: int = 8000,
    failed: bool = False,
    cause: str = "ECONNREFUSED",
) -> Path:
    """A file of spans: responses left unread and, if asked for, a request that failed."""
    export = Export()
    for number in (1, 2, 3):
        export.get(number, 10, **left(number, line, port))
    if failed:
        export.get(
            50, 10, status=2, url__full=f"http://127.0.0.1:{port}/x", error__type="ConnectError",
            httptrace__failed_phase="connect", httptrace__failed_cause=cause,
        )  # fmt: skip
    path.write_bytes(to_json(export.request))
    return path


@pytest.fixture(autouse=True)
def in_a_project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder with the source file that the findings are about; it is not on GitHub unless a test says so."""
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "shop.py").write_text("import httpx\nwith httpx.stream(...): pass\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("GITHUB_ACTIONS", raising=False)
    monkeypatch.delenv("GITHUB_WORKSPACE", raising=False)


def told(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str]:
    """A report's status, and what goes to stderr."""
    status = run(["report", "--quiet", *map(str, arguments)])
    out, err = capsys.readouterr()
    assert out == ""
    return status, err


@pytest.mark.parametrize(
    ("asked", "status"),
    [
        (["any"], 1),
        (["waste"], 1),
        (["failed"], 0),
        (["slow"], 0),
        (["slow,body_not_read"], 1),
        (["slow", " body_not_read, "], 1),
        (["dns_slow"], 0),
        ([""], 0),
    ],
)
def test_what_fails(tmp_path: Path, capsys: pytest.CaptureFixture[str], asked: list[str], status: int) -> None:
    """`--fail-on` takes verdicts and how bad they are, with commas or repeated."""
    options = [part for one in asked for part in ("--fail-on", one)]

    assert told(capsys, write(tmp_path / "spans"), *options) == (status, "httptrace: found body_not_read\n" * status)


def test_failed_is_what_failed() -> None:
    """`failed` is every finding about requests that failed, whatever the verdict is called."""
    report = analyze(reusing(status=503) for _ in range(3))

    assert [finding.verdict for finding in gate.Gate(frozenset({"failed"})).failing(report)] == ["error_statuses"]


@pytest.mark.parametrize("rows", [[], [row()]], ids=["no request", "none observed"])
def test_nothing_seen_is_status_2(capsys: pytest.CaptureFixture[str], rows: list[object]) -> None:
    """Where nothing was seen nothing can be judged: status 2 if a failure was asked for, and else none."""
    report = analyze(rows)  # type: ignore[arg-type]

    assert output(gate.Gate(frozenset({"any"}))).fails(report) == 2
    assert capsys.readouterr().err == (
        "httptrace: no request was seen by otel-httptrace: --fail-on has nothing to judge by\n"
    )
    assert output(gate.Gate()).fails(report) == 0
    assert output(gate.Gate(frozenset({"any"}))).fails(analyze([opening("first_connection")])) == 0


def output(asked: gate.Gate) -> Output:
    """Options of a command."""
    return Output(None, None, None, None, True, False, asked, Thresholds())


def test_only_what_is_new_fails(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With a baseline what was found before is no failure, on another line or port either; what is new is one."""
    before = tmp_path / "before.json"
    assert told(capsys, write(tmp_path / "old"), "--json", before) == (0, "")
    same = write(tmp_path / "same", line="shop.py:40 in known", port=9000)
    elsewhere = write(tmp_path / "elsewhere", line="shop.py:40 in other")
    worse = write(tmp_path / "worse", failed=True)

    assert told(capsys, same, "--baseline", before) == (0, "httptrace: nothing new: 1 finding as before\n")
    assert told(capsys, elsewhere, "--baseline", before) == (1, "httptrace: found body_not_read\n")
    assert told(capsys, worse, "--baseline", before) == (1, "httptrace: found failed; 1 finding as before\n")
    assert told(capsys, worse, "--baseline", before, "--fail-on", "slow") == (0, "")
    # It can be renewed in the same run.
    assert told(capsys, worse, "--baseline", before, "--json", before)[0] == 1
    assert told(capsys, worse, "--baseline", before) == (0, "httptrace: nothing new: 2 findings as before\n")
    # What has no verdict of its own is another thing if it failed otherwise.
    otherwise = write(tmp_path / "otherwise", failed=True, cause="EHOSTUNREACH")
    assert told(capsys, otherwise, "--baseline", before) == (1, "httptrace: found failed; 1 finding as before\n")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "{} cannot be read: No such file or directory"),
        ("{", "{} is no report of --json: it is not JSON"),
        ("[" * 100_000, "{} is no report of --json: it is not JSON"),
        ("[]", "{} is no report of --json: it has no findings"),
        ('{"version": 1, "findings": [1]}', "{} is no report of --json: it has no findings"),
        ('{"version": 9, "findings": []}', "{} is a report of another version of httptrace: make it again"),
    ],
)
def test_a_baseline_that_is_none(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str | None, said: str
) -> None:
    """A baseline that cannot be read is one line and status 2, before anything is run."""
    path = tmp_path / "before.json"
    if text is not None:
        path.write_text(text)

    assert told(capsys, write(tmp_path / "spans"), "--baseline", path) == (
        2, f"httptrace: --baseline: {said.format(path)}\n",
    )  # fmt: skip


def test_annotations_are_for_github(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """On GitHub each failure is an error at its line, relative to the workspace, escaped as its toolkit does."""
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    monkeypatch.setenv("GITHUB_WORKSPACE", str(tmp_path.parent))
    status, err = told(capsys, write(tmp_path / "spans", failed=True), "--fail-on", "any")
    first, failed, wasteful = err.splitlines()

    assert (status, first) == (1, "httptrace: found body_not_read, failed")
    assert failed.startswith("::error title=httptrace%3A failed::")
    assert wasteful.startswith(
        f"::error file={tmp_path.name}/src/shop.py,line=2,title=httptrace%3A body_not_read::100 %25 of the "
    )
    assert wasteful.endswith(" => read the body to its end before closing the response, or ask for less (HEAD, Range)")
    assert told(capsys, tmp_path / "spans", "--fail-on", "slow") == (0, "")


def test_annotations_are_escaped() -> None:
    """Per cent, line breaks, colons and commas cannot end a property, nor a command."""
    assert gate._property("a%b\r\nc:d,e") == "a%25b%0D%0Ac%3Ad%2Ce"
    assert gate._data("a%b\r\nc:d,e") == "a%25b%0D%0Ac:d,e"


@pytest.mark.parametrize("dumped", ["whole", "short"])
def test_a_report_in_json_says_what_it_is(tmp_path: Path, capsys: pytest.CaptureFixture[str], dumped: str) -> None:
    """A report that `--json` wrote is no file of spans, and one line says what it is."""
    text = schema.dumps(nothing())
    path = tmp_path / "report.json"
    path.write_text(text if dumped == "whole" else json.dumps(json.loads(text), separators=(",", ":")))

    assert told(capsys, path) == (
        2,
        f"httptrace: {path} is a report that --json wrote, for --baseline and for programs: what is read here are "
        "spans, as httptrace run --otlp keeps them\n",
    )


def nothing() -> Report:
    """A report of nothing."""
    return analyze([])


def test_the_page_s_address_comes_last(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Where a page was written its address is the last line on stderr, unless all is quiet or it went elsewhere."""
    spans, page = write(tmp_path / "spans"), tmp_path / "a page.html"

    assert run(["report", str(spans), "--html", str(page)]) == 0
    assert capsys.readouterr().err == f"httptrace: page: file://{tmp_path}/a%20page.html\n"
    assert run(["report", str(spans), "--html", "/dev/null"]) == 0
    assert capsys.readouterr().err == ""
    assert told(capsys, spans, "--html", page) == (0, "")
