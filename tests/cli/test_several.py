"""`httptrace report` of several files, in brief, and options that would have no effect. All of it runs in this process."""

from __future__ import annotations

from pathlib import Path

import pytest
from kit.otlp import Export

from otel_httptrace.cli.app import run
from otel_httptrace.report.otlp import to_json


def export(trace: int) -> bytes:
    """Two requests, of which the first was closed unread at a line."""
    made = Export()
    made.get(
        0, 10, url__full="http://api.test/parts", http__conn__reused=False, httptrace__conn__id=1,
        httptrace__conn__close_reason="body_not_read", httptrace__body__outcome="closed_early",
        httptrace__body__closed_at="shop.py:27 in known",
    )  # fmt: skip
    made.get(
        40, 20, url__full="http://api.test/parts", http__conn__reused=False, httptrace__conn__id=2,
        httptrace__conn__open_reason="body_not_read", httptrace__body__outcome="complete",
    )  # fmt: skip
    for resource in made.request.resource_spans:
        for span in resource.scope_spans[0].spans:
            span.trace_id = bytes([trace]) + bytes(15)
    return to_json(made.request)


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[str, str, str]:
    """Two files, and one with both."""
    monkeypatch.chdir(tmp_path)
    one, other = export(1), export(2)
    Path("one.jsonl").write_bytes(one)
    Path("other.jsonl").write_bytes(other)
    Path("both.jsonl").write_bytes(one + b"\n" + other)
    return "one.jsonl", "other.jsonl", "both.jsonl"


def told(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    """What `httptrace report` says: status, stdout, stderr."""
    status = run(["report", *arguments])
    return status, *capsys.readouterr()


def test_several_files_are_one_report(files: tuple[str, str, str], capsys: pytest.CaptureFixture[str]) -> None:
    """A report of two files is that of one with the lines of both; and it says how to see a trace of them."""
    one, other, both = files
    status, out, err = told(capsys, one, other, "--width", "200")

    assert (status, err) == (0, "")
    assert "4 requests to 1 origin" in out
    assert f"to see a trace: httptrace report {one} {other} --trace ID\n" in out
    assert out.replace(f"{one} {other}", both) == told(capsys, both, "--width", "200")[1]
    assert told(capsys, one, other, "--trace", "02")[1].startswith(f"trace 02{'0' * 30}: 2 requests")


def test_what_cannot_be_read_of_several(files: tuple[str, str, str], capsys: pytest.CaptureFixture[str]) -> None:
    """A file that cannot be read, and a line, are told with their file, status 2; the rest is reported. If none can, that is all."""
    one, other, _ = files
    Path(other).write_bytes(export(2) + b'\n{"id": 7}\n')
    status, out, err = told(capsys, one, "missing", other)

    assert status == 2
    assert "4 requests to 1 origin" in out
    assert err.splitlines() == [
        "httptrace: missing cannot be opened: No such file or directory",
        "httptrace: other.jsonl: line 2 is not OTLP: it has no resourceSpans",
    ]
    assert told(capsys, "missing", "gone") == (
        2,
        "",
        "httptrace: missing cannot be opened: No such file or directory\n",
    )


def test_in_brief(files: tuple[str, str, str], capsys: pytest.CaptureFixture[str]) -> None:
    """In brief a report is a line for each finding, with the line at fault, however narrow the terminal is; or one line."""
    _, _, both = files
    found = told(capsys, both, "--brief")
    none = told(capsys, both, "--brief", "--threshold", "lost_connections=10", "--threshold", "reopened=10")

    assert found == (
        0,
        "body_not_read  waste, certain  shop.py:27 in known  50 % of the connections to http://api.test (2 of 4) were lost "
        "because responses were closed before they had been read, at shop.py:27 in known; 2 new connections had to be "
        "opened, 0 µs in all\n",
        "",
    )
    assert none == (0, "No problems found in 4 requests\n", "")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("one.jsonl", "./one.jsonl"), "./one.jsonl is given twice: its requests would count twice."),
        (("-", "-"), "- is given twice: its requests would count twice."),
        (("one.jsonl", "--service", "shop"), "--service is for --jaeger and --tempo: all of a FILE is read."),
        (("one.jsonl", "--query", "{}"), "--query is for --tempo: all of a FILE is read."),
        (("one.jsonl", "--tenant", "one"), "--tenant is for --tempo: all of a FILE is read."),
        (("one.jsonl", "--lookback", "1h"), "--lookback is for --jaeger and --tempo: all of a FILE is read."),
        (("one.jsonl", "--limit", "9"), "--limit is for --jaeger and --tempo: all of a FILE is read."),
        (("one.jsonl", "--trace", "01", "--all"), "--all has no effect with --trace."),
        (("one.jsonl", "--trace", "01", "--brief"), "--brief has no effect with --trace."),
        (("one.jsonl", "--brief", "--all"), "--all has no effect with --brief."),
        (("one.jsonl", "--brief", "--width", "80"), "--width has no effect with --brief."),
        (("one.jsonl", "--quiet", "--all"), "--all has no effect with --quiet."),
        (("one.jsonl", "--json", "-", "--width", "80"), "--width has no effect with no text: stdout is that file's."),
    ],
)
def test_what_would_have_no_effect_is_refused(
    arguments: tuple[str, ...], said: str, files: tuple[str, str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    """An option that would have no effect is refused, in a line that says why."""
    status, out, err = told(capsys, *arguments)

    assert (status, out, err) == (2, "", f"httptrace report: {said} See httptrace report --help.\n")


def test_every_so_often_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    """A program is not run for reports every so often that would go nowhere."""
    status = run(["run", "--every", "1s", "--quiet", "--", "false"])

    assert (status, *capsys.readouterr()) == (
        2,
        "",
        "httptrace run: --every has no effect with --quiet and without a file. See httptrace run --help.\n",
    )


def test_a_setting_of_the_project_is_no_mistake(
    files: tuple[str, str, str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A setting that is for all commands is passed over where it has no effect."""
    monkeypatch.setenv("HTTPTRACE_ALL", "1")
    monkeypatch.setenv("HTTPTRACE_WIDTH", "90")

    assert told(capsys, files[0], "--trace", "01")[0] == 0
    assert told(capsys, files[0], "--brief")[0] == 0
    assert told(capsys, files[0], "--quiet") == (0, "", "")
