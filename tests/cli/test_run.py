"""`httptrace run`: the program is what it was without us, and its requests are told."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from kit.command import COMMAND, PATIENCE, Terminal, defaults, environment, httptrace, start
from kit.server import Server, free_port

from otel_httptrace.clients import named
from otel_httptrace.report.otlp import from_protobuf
from otel_httptrace.report.receiver import Receiver
from otel_httptrace.report.rows import rows

PYTHON = sys.executable

#: Loses every connection.
WASTEFUL = """
    import sys, httpx
    with httpx.Client() as client:
        for _ in range(5):
            with client.stream("GET", sys.argv[1]):
                pass
    print("done")
"""

#: Says which signals it gets, until SIGUSR2.
LISTENING = """
    import os, signal, sys, time
    got = []
    def handler(number, frame):
        got.append(signal.Signals(number).name)
        # Not print: it may be what was interrupted.
        os.write(1, (got[-1] + "\\n").encode())
        if number == signal.SIGUSR2:
            os.write(1, f"over {got}\\n".encode())
            sys.exit()
    for name in ("INT", "QUIT", "TERM", "HUP", "USR1", "ALRM", "WINCH", "TTIN", "TTOU", "USR2"):
        signal.signal(getattr(signal, "SIG" + name), handler)
    print("ready", flush=True)
    while True:
        # Another thread may be the one to take a signal, and leave this one asleep.
        time.sleep(0.01)
"""


@pytest.fixture
def program(tmp_path: Path) -> Callable[..., str]:
    """Writes a program and returns its path."""

    def write(text: str, name: str = "program.py") -> str:
        path = tmp_path / name
        path.write_text(textwrap.dedent(text))
        return str(path)

    return write


def test_the_program_runs_as_without_us(program: Callable[..., str], tmp_path: Path) -> None:
    """Arguments, stdin, both outputs, working directory, descriptors and exit status are what they are without us."""
    path = program("""
        import os, sys
        data = sys.stdin.buffer.read()
        os.write(1, b"out \\xff\\x00 " + data)
        os.write(2, b"err \\xfe\\r\\n")
        os.write(int(sys.argv[-1]), b"third")
        print(sys.argv[1:], os.getcwd(), os.environ["MINE"])
        sys.exit(3)
    """)

    def run(*prefix: str) -> tuple[int, bytes, bytes, bytes]:
        reads, writes = os.pipe()
        ran = subprocess.run(
            [*prefix, PYTHON, path, "--", "--quiet", "ä", "", str(writes)],
            input=b"\x80\n",
            env=environment(MINE="is kept"),
            cwd=tmp_path,
            pass_fds=(writes,),
            capture_output=True,
            timeout=PATIENCE,
            check=False,
        )
        os.close(writes)
        with open(reads, "rb") as pipe:
            return ran.returncode, ran.stdout.replace(str(writes).encode(), b"N"), ran.stderr, pipe.read()

    alone = run()
    assert alone[0] == 3 and alone[3] == b"third"
    assert run(*COMMAND, "run", "--quiet", "--") == alone
    # And without the dashes, for nothing after the program is an option of ours.
    assert run(*COMMAND, "run", "-q") == alone


def test_the_report_goes_to_stderr(program: Callable[..., str], server: Server) -> None:
    """Stdout stays the program's, the report follows on stderr, with the line that loses the connections."""
    ran = httptrace("run", "--", PYTHON, program(WASTEFUL), server.url())

    assert (ran.returncode, ran.stdout) == (0, "done\n")
    assert ran.stderr.startswith("5 requests to 1 origin in ")
    assert "from program.py" in ran.stderr
    assert "1. body_not_read" in ran.stderr
    assert "program.py:5 in <module>" in ran.stderr
    assert "\x1b" not in ran.stderr
    assert server.accepted == 5


def test_the_named_files_are_written(program: Callable[..., str], server: Server, tmp_path: Path) -> None:
    """Text, JSON and OTLP go to the files that are named, and what was kept tells the same again."""
    text, again, data, otlp = (tmp_path / name for name in ("r.txt", "again.txt", "r.json", "r.jsonl"))
    ran = httptrace(
        "run",
        "-o",
        text,
        "--json",
        data,
        "--otlp",
        otlp,
        "--width",
        "90",
        "--",
        PYTHON,
        program(WASTEFUL),
        server.url(),
    )

    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "done\n", "")
    found = json.loads(data.read_text())
    assert [finding["verdict"] for finding in found["findings"]] == ["body_not_read"]
    assert max(map(len, text.read_text().splitlines())) <= 90
    told = httptrace("report", otlp, "-o", again, "--json", "-", "--width", "90")
    assert (told.returncode, told.stderr) == (0, "")
    assert json.loads(told.stdout) == found
    assert again.read_text() == text.read_text()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["again.txt", "program.py", "r.json", "r.jsonl", "r.txt"]


def test_json_on_stdout_follows_the_programs_output(program: Callable[..., str], server: Server) -> None:
    """`--json -` comes after what the program has said."""
    ran = httptrace("run", "--quiet", "--json", "-", "--", PYTHON, program(WASTEFUL), server.url())

    said, _, document = ran.stdout.partition("\n")
    assert (ran.returncode, ran.stderr, said) == (0, "", "done")
    assert json.loads(document)["requests"] == 5


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL, signal.SIGSEGV, signal.SIGINT, signal.SIGUSR1])
def test_a_program_that_dies_of_a_signal(number: int) -> None:
    """We die of the same, so that whoever waits for us sees what it would have seen, and say why nothing was seen."""
    ran = httptrace("run", "--", PYTHON, "-c", f"import os; os.kill(os.getpid(), {number:d})")
    alone = subprocess.run(
        [PYTHON, "-c", f"import os; os.kill(os.getpid(), {number:d})"], capture_output=True, preexec_fn=defaults
    )

    assert ran.returncode == alone.returncode == -number
    assert f"the program was killed by signal {number:d}" in ran.stderr.splitlines()[-1]


def test_signals_sent_to_us_are_the_programs(program: Callable[..., str]) -> None:
    """Each signal that is sent to us alone reaches the program, once, and has no effect on us."""
    names = ["INT", "QUIT", "TERM", "HUP", "USR1", "ALRM", "WINCH", "TTIN", "TTOU", "USR2"]
    # Not in the foreground of a terminal, wherever these tests run.
    with start("run", "-q", "--", PYTHON, program(LISTENING), start_new_session=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        for name in names:
            process.send_signal(getattr(signal, f"SIG{name}"))
            assert process.stdout.readline() == f"SIG{name}\n"
        out = process.stdout.read()
        _, err = process.communicate(timeout=PATIENCE)

    assert (process.returncode, err) == (0, "")
    assert out == f"over {[f'SIG{name}' for name in names]}\n"


def test_signals_sent_to_the_group(program: Callable[..., str]) -> None:
    """A signal that is sent to the whole process group, where there is no terminal, reaches the program once."""
    with start("run", "-q", "--", PYTHON, program(LISTENING), start_new_session=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        for name in ("INT", "TERM", "INT", "HUP"):
            os.killpg(process.pid, getattr(signal, f"SIG{name}"))
            assert process.stdout.readline() == f"SIG{name}\n"
            # We take one signal after the other: once this has come, that would have come twice.
            process.send_signal(signal.SIGUSR1)
            assert process.stdout.readline() == "SIGUSR1\n"
        process.send_signal(signal.SIGUSR2)
        out, err = process.communicate(timeout=PATIENCE)

    assert (process.returncode, err) == (0, "")
    got = [name for once in ("INT", "TERM", "INT", "HUP") for name in (f"SIG{once}", "SIGUSR1")]
    assert out == f"SIGUSR2\nover {[*got, 'SIGUSR2']}\n"


def test_ctrl_c_reaches_the_program_once(program: Callable[..., str], server: Server) -> None:
    """Ctrl-C reaches the program once; it ends as it does, the report is printed, and we end alike."""
    path = program("""
        import signal, sys, time, httpx
        got = []
        signal.signal(signal.SIGINT, lambda number, frame: got.append(number))
        with httpx.Client() as client:
            client.get(sys.argv[1])
            print("waiting", flush=True)
            while not got:
                time.sleep(0.01)
            client.get(sys.argv[1])
        print("got", len(got), flush=True)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.raise_signal(signal.SIGINT)
    """)
    with Terminal(*COMMAND, "run", "--", PYTHON, path, server.url()) as terminal:
        terminal.until("waiting")
        terminal.type("\x03")
        terminal.until("got 1")
        status = terminal.end()

    assert status == -signal.SIGINT
    _, _, after = terminal.shown.partition("KeyboardInterrupt")
    assert "2 requests to 1 origin" in after
    assert "\x1b[" in after


def test_the_whole_job_stops_and_continues(program: Callable[..., str], tmp_path: Path) -> None:
    """Stopped and continued by a shell's job control, the whole job is, and goes on."""
    # What a shell does: a process group for the job, in the foreground; it waits, sees it stop, and wakes it.
    shell = program(
        """
        import os, signal, subprocess, sys
        signal.signal(signal.SIGTTOU, signal.SIG_IGN)
        job = subprocess.Popen(sys.argv[1:], preexec_fn=lambda: (
            os.setpgid(0, 0), os.tcsetpgrp(0, os.getpgrp()), signal.signal(signal.SIGTTOU, signal.SIG_DFL)))
        pid, status = os.waitpid(job.pid, os.WUNTRACED)
        print("stopped", os.WIFSTOPPED(status) and os.WSTOPSIG(status) == signal.SIGTSTP, flush=True)
        os.tcsetpgrp(0, job.pid)
        os.killpg(job.pid, signal.SIGCONT)
        pid, status = os.waitpid(job.pid, 0)
        print("ended", os.waitstatus_to_exitcode(status), flush=True)
        """,
        "shell.py",
    )
    path = program("""
        import os, signal, time
        def woken(number, frame):
            os.write(1, b"woken\\n")
            raise SystemExit(5)
        signal.signal(signal.SIGCONT, woken)
        print("waiting", flush=True)
        while True:
            time.sleep(0.01)
    """)
    every = ("--every", "100ms", "--json", str(tmp_path / "report.json"))
    with Terminal(PYTHON, shell, *COMMAND, "run", "-q", *every, "--", PYTHON, path) as terminal:
        terminal.until("waiting")
        terminal.type("\x1a")
        terminal.until("stopped True")
        terminal.until("woken")
        terminal.until("ended 5")
        assert terminal.end() == 0


def test_ignored_signals_stay_ignored() -> None:
    """Under nohup a hang-up is ignored by us and by the program."""
    code = "import signal; print(signal.getsignal(signal.SIGHUP) == signal.SIG_IGN, flush=True); input()"
    with start("run", "-q", "--", PYTHON, "-c", code, command=["nohup", *COMMAND]) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "True\n"
        process.send_signal(signal.SIGHUP)
        process.communicate("go on\n", timeout=PATIENCE)

    assert process.returncode == 0


def test_the_program_starts_with_default_signals() -> None:
    """The program starts with no signal blocked, and none ignored that was not."""
    code = (
        "import signal; print(signal.pthread_sigmask(signal.SIG_BLOCK, ()), "
        "[s.name for s in signal.valid_signals() if signal.getsignal(s) == signal.SIG_IGN])"
    )
    alone = subprocess.run(
        [PYTHON, "-c", code], env=environment(), preexec_fn=defaults, capture_output=True, text=True, check=True
    )
    ran = httptrace("run", "-q", "--", PYTHON, "-c", code)

    assert ran.stdout == alone.stdout


def test_the_program_survives_us(program: Callable[..., str], server: Server) -> None:
    """Killed, we take neither the program nor its results with us."""
    path = program("""
        import sys, httpx
        with httpx.Client() as client:
            print(client.get(sys.argv[1]).text, flush=True)
            input()
            print(client.get(sys.argv[1]).text, flush=True)
    """)
    with start("run", "-q", "--", PYTHON, path, server.url()) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "hello\n"
        process.kill()
        process.wait(PATIENCE)
        assert process.stdin is not None and process.stderr is not None
        process.stdin.write("go on\n")
        process.stdin.close()
        out, err = process.stdout.read(), process.stderr.read()

    assert out == "hello\n"
    # What is said is said by OpenTelemetry's exporter, which finds nobody.
    assert "otel_httptrace" not in err


@pytest.mark.parametrize(
    ("program_", "status", "told"),
    [
        ("no-such-program", 127, "no-such-program: not found"),
        ("./no/such.py", 127, "not found; to run a Python file: httptrace run -- python ./no/such.py"),
        ("{tmp}", 126, "is a directory"),
        ("{tmp}/plain.py", 126, "permission denied; to run a Python file: httptrace run -- python {tmp}/plain.py"),
        ("{tmp}/moved", 126, "its interpreter /no/such/python is not there"),
    ],
)
def test_a_program_that_cannot_run_is_one_line(tmp_path: Path, program_: str, status: int, told: str) -> None:
    """What cannot be run is one line, with a shell's exit status."""
    (tmp_path / "plain.py").write_text("")
    (tmp_path / "moved").write_text("#!/no/such/python\n")
    (tmp_path / "moved").chmod(0o755)
    ran = httptrace("run", "--", program_.format(tmp=tmp_path))

    assert (ran.returncode, ran.stdout) == (status, "")
    (line,) = ran.stderr.splitlines()
    assert told.format(tmp=tmp_path) in line


def test_a_program_beside_us(program: Callable[..., str], tmp_path: Path) -> None:
    """`./program` is the one in this directory, whatever the PATH has."""
    path = Path(program("#!/bin/sh\necho mine\n", "ls"))
    path.chmod(0o755)
    ran = httptrace("run", "-q", "--", "./ls", cwd=tmp_path)

    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "mine\n", "")


@pytest.mark.parametrize(
    ("verdicts", "status"), [("client_per_request,body_not_read", 1), ("client_per_request", 0), ("", 0)]
)
def test_fail_on_a_finding_fails_the_run(
    program: Callable[..., str], server: Server, verdicts: str, status: int
) -> None:
    """A finding that is asked for fails a program that has not failed."""
    ran = httptrace("run", "-q", "--fail-on", verdicts, "--", PYTHON, program(WASTEFUL), server.url())

    assert (ran.returncode, ran.stdout) == (status, "done\n")
    assert ran.stderr == ("httptrace: found body_not_read\n" if status else "")


def test_the_programs_status_wins(program: Callable[..., str], server: Server) -> None:
    """A program that fails by itself says more than `--fail-on`."""
    path = program(textwrap.dedent(WASTEFUL) + "sys.exit(7)\n")
    ran = httptrace("run", "-q", "--fail-on", "body_not_read", "--", PYTHON, path, server.url())

    assert (ran.returncode, ran.stderr) == (7, "")


def test_thresholds_can_be_set(program: Callable[..., str], server: Server) -> None:
    """What is a finding can be set."""
    ran = httptrace(
        "run", "--fail-on", "body_not_read", "--threshold", "lost_connections=9", "--", PYTHON, program(WASTEFUL),
        server.url(),
    )  # fmt: skip

    assert ran.returncode == 0
    assert "No problems found in " in ran.stderr


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--fail-on", "bodies"], "no verdict is called 'bodies'; there are address_fallback, "),
        (
            ["--fail-on", "body_not_reed"],
            "no verdict is called 'body_not_reed' (did you mean body_not_read?); there are ",
        ),
        (["--threshold", "dns"], "'dns' is not of the form NAME=VALUE"),
        (["--threshold", "dna=1"], "no threshold is called 'dna'; there are lost_connections, "),
        (["--threshold", "dns=slow"], "dns='slow': expected a number of seconds"),
        (["--every", "often"], "'often' is not a duration like 30s, 5m or 1h"),
        (["--every", "0s"], "'0s' is not a duration"),
        (["--json", "no/such/file"], "there is no directory no/such"),
        (["--html", "."], ". is a directory"),
        (["--otlp", "no/such/file"], "there is no directory no/such"),
        (["--forward", "ftp://x"], "an OTLP/HTTP endpoint like http://localhost:4318 was expected"),
        (["--json", "-", "--html", "-"], "only one of --json and --html can go to stdout"),
        (["--otlp", "same", "--json", "./same"], "--json and --otlp are the same file: same. See httptrace run --help"),
        (["--html", "same", "--json", "same"], "--html and --json are the same file: same. See httptrace run --help"),
        (["--no-such-option"], "No such option"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_options_are_status_2_before_the_program_starts(arguments: list[str], told: str) -> None:
    """A wrong option is one line and status 2, before the program is started."""
    ran = httptrace("run", *arguments, "--", PYTHON, "-c", "print('started')")

    assert (ran.returncode, ran.stdout) == (2, "")
    (line,) = ran.stderr.splitlines()
    assert told in line


def test_a_program_without_requests_is_told_why_that_may_be() -> None:
    """A program without requests is told what that may mean; the exit status is its own."""
    ran = httptrace("run", "--", PYTHON, "-c", "print('nothing to do')")

    assert (ran.returncode, ran.stdout) == (0, "nothing to do\n")
    (line,) = ran.stderr.splitlines()
    assert line.startswith(f"httptrace: no span came: either it made no request with {named('or')}, or")
    assert line.endswith(f"httptrace doctor -- {PYTHON}")

    failed = httptrace("run", "--", PYTHON, "-c", "raise SystemExit(7)")
    assert failed.returncode == 7
    assert failed.stderr.startswith(
        "httptrace: no span came, and the program ended with status 7: see what it says itself."
    )


@pytest.mark.parametrize(
    ("text", "others", "told"),
    [
        ("from grpc import insecure_channel", ["grpc"], "opentelemetry-instrumentation-grpc"),
        ("import http.client as client", ["http.client"], None),
    ],
)
def test_a_client_that_is_not_observed(
    program: Callable[..., str], text: str, others: list[str], told: str | None
) -> None:
    """A program without requests of ours is told which other clients it uses, and what gives these a span."""
    ran = httptrace("run", "--", PYTHON, program(text))

    (line,) = ran.stderr.splitlines()
    assert line.startswith(
        f"httptrace: no span came: the program made no request with {named('or')}, but it uses {', '.join(others)}, "
        "which otel-httptrace does not observe"
    )
    assert told is None or line.endswith(f": {told}")


def test_settings_that_defeat_us(program: Callable[..., str], server: Server) -> None:
    """Settings that keep spans from being made or sent to us give way, which -v tells."""
    environ = {
        "OTEL_SDK_DISABLED": "true",
        "OTEL_TRACES_EXPORTER": "none",
        "OTEL_TRACES_SAMPLER": "always_off",
        "OTEL_PYTHON_DISABLED_INSTRUMENTATIONS": "httpx, other",
        "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://127.0.0.1:9/v1/traces",
        "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "grpc",
        "OTEL_SERVICE_NAME": "mine",
    }
    ran = httptrace("run", "--fail-on", "body_not_read", "-v", "--", PYTHON, program(WASTEFUL), server.url(),
                    environ=environ)  # fmt: skip

    assert ran.returncode == 1
    assert ran.stderr.splitlines()[:4] == [
        "httptrace: OTEL_SDK_DISABLED is not passed on: with it there would be no spans",
        "httptrace: OTEL_TRACES_EXPORTER is otlp during this run, not none",
        "httptrace: OTEL_TRACES_SAMPLER is always_on during this run, not always_off",
        "httptrace: OTEL_PYTHON_DISABLED_INSTRUMENTATIONS applies without httpx",
    ]
    assert "from mine" in ran.stderr


def test_proxies_of_the_environment_are_left_to_the_program(program: Callable[..., str], server: Server) -> None:
    """A proxy in the environment is neither asked for what goes to us nor taken from the program."""
    path = program("""
        import sys, httpx
        try:
            httpx.get(sys.argv[1])
        except httpx.ConnectError:
            print("the proxy was asked")
        with httpx.Client(trust_env=False) as client:
            client.get(sys.argv[1])
    """)
    proxy = {"http_proxy": "http://127.0.0.1:9", "HTTP_PROXY": "http://127.0.0.1:9"}
    ran = httptrace("run", "--", PYTHON, path, server.url(), environ=proxy)

    assert (ran.returncode, ran.stdout) == (0, "the proxy was asked\n")
    assert ran.stderr.startswith("2 requests to 1 origin")


def test_every_prints_reports_while_the_program_runs(program: Callable[..., str], server: Server) -> None:
    """With `--every` the report is printed while the program runs, and once more in the end."""
    path = program("""
        import sys, httpx
        with httpx.Client() as client:
            for line in sys.stdin:
                client.get(sys.argv[1])
                print("asked", flush=True)
    """)
    with start("run", "--every", "100ms", "--", PYTHON, path, server.url()) as process:
        assert process.stdin is not None and process.stderr is not None
        process.stdin.write("\n")
        process.stdin.flush()
        assert process.stderr.readline().startswith("1 request to 1 origin")
        process.stdin.write("\n")
        process.stdin.flush()
        while not process.stderr.readline().startswith("2 requests to 1 origin"):
            pass
        # The heading may take a second line.
        while not (line := process.stderr.readline()).startswith("since"):
            assert line.endswith("UTC\n")
        assert re.match(r"since the report \S+ m?s ago: 1 request, 0 connections opened$", line)
        process.stdin.close()
        assert process.stdout is not None
        out, err = process.stdout.read(), process.stderr.read()

    assert (process.returncode, out) == (0, "asked\nasked\n")
    assert "\n2 requests to 1 origin" in err


def test_progress_on_a_terminal(program: Callable[..., str], server: Server) -> None:
    """On a terminal `--every` shows a line of progress, and takes it away in the end."""
    path = program("""
        import sys, httpx
        httpx.get(sys.argv[1])
        input()
    """)
    with Terminal(*COMMAND, "run", "--every", "1h", "--", PYTHON, path, server.url()) as terminal:
        terminal.until("httptrace: 1 requests, 0:0")
        terminal.type("\n")
        assert terminal.end() == 0

    _, _, after = terminal.shown.rpartition("1 requests, 0:0")
    assert "\x1b[K" in after
    assert "1 request to 1 origin" in after


@pytest.mark.parametrize(
    ("environ", "coloured"), [({}, False), ({"FORCE_COLOR": "1"}, True), ({"FORCE_COLOR": "1", "NO_COLOR": "1"}, False)]
)
def test_colours_are_for_terminals_unless_forced(
    program: Callable[..., str], server: Server, environ: dict[str, str], coloured: bool
) -> None:
    """Colours are for terminals, and for whoever forces them; NO_COLOR wins."""
    ran = httptrace("run", "--", PYTHON, program(WASTEFUL), server.url(), environ=environ)

    assert ("\x1b[31m" in ran.stderr or "\x1b[1;3" in ran.stderr) is coloured


FORKING = """
    import os, signal, sys, warnings, httpx
    # From Python 3.12 on: of the SDK's own threads, which are there under opentelemetry-instrument alone, too.
    warnings.filterwarnings("ignore", "This process .* is multi-threaded", DeprecationWarning)
    with httpx.Client() as client:
        client.get(sys.argv[1])
    workers = []
    for _ in range(2):
        worker = os.fork()
        if not worker:
            with httpx.Client() as client:
                for _ in range(3):
                    client.get(sys.argv[1])
            sys.exit()
        workers.append(worker)
    print([os.waitpid(worker, 0)[1] for worker in workers])
"""


def test_a_program_that_forks(program: Callable[..., str], server: Server, tmp_path: Path) -> None:
    """Workers that a program forks are seen, and told apart."""
    otlp = tmp_path / "kept.jsonl"
    ran = httptrace("run", "--otlp", otlp, "--json", "-", "-q", "--", PYTHON, program(FORKING), server.url())

    said, _, document = ran.stdout.partition("\n")
    assert (ran.returncode, ran.stderr, said) == (0, "", "[0, 0]")
    (origin,) = json.loads(document)["origins"]
    assert (origin["requests"], origin["connections_opened"]) == (7, 3)
    resources = [
        {pair["key"]: pair["value"] for pair in resource["resource"]["attributes"]}
        for line in otlp.read_text().splitlines()
        for resource in json.loads(line)["resourceSpans"]
    ]
    assert len({resource["service.instance.id"]["stringValue"] for resource in resources}) == 3


#: Requests in children of multiprocessing; the last ends as nobody can help.
POOLING = """
    import multiprocessing, os, sys, httpx
    from concurrent.futures import ProcessPoolExecutor
    def work(url):
        with httpx.Client() as client:
            client.get(url)
    def die(url):
        work(url)
        os._exit(0)
    if __name__ == "__main__":
        context = multiprocessing.get_context(sys.argv[2])
        with ProcessPoolExecutor(2, mp_context=context) as pool:
            list(pool.map(work, [sys.argv[1]] * 3))
        for target in [work, die] if "die" in sys.argv else [work]:
            child = context.Process(target=target, args=(sys.argv[1],))
            child.start()
            child.join()
        print("done")
"""


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_children_of_multiprocessing(program: Callable[..., str], server: Server, method: str) -> None:
    """Children and pools of processes lose no span, whatever way they are started; nothing is said of lost ones."""
    ran = httptrace("run", "-q", "--json", "-", "--", PYTHON, program(POOLING), server.url(), method)

    said, _, document = ran.stdout.partition("\n")
    report = json.loads(document)
    assert (ran.returncode, ran.stderr, said) == (0, "", "done")
    assert (report["requests"], report["unsent_processes"], report["unsent_spans"]) == (4, 0, 0)


def test_what_was_not_sent_is_told(program: Callable[..., str], server: Server, tmp_path: Path) -> None:
    """How many processes ended before they had sent all spans, and how many these had not sent, is in each report."""
    path, html = tmp_path / "report.json", tmp_path / "report.html"
    ran = httptrace(
        "run", "--json", path, "--html", html, "--width", "200", "--", PYTHON, program(POOLING), server.url(), "fork", "die"
    )  # fmt: skip

    report = json.loads(path.read_text())
    assert (ran.returncode, report["requests"]) == (0, 4)
    assert (report["unsent_processes"], report["unsent_spans"], report["unended_requests"]) == (1, 3, 0)
    told = "1 process ended before all spans were sent (by os._exit, or of a signal): 3 spans may be missing here"
    assert f"! {told}" in ran.stderr.splitlines()
    assert told in html.read_text()


#: Reads an answer, and is killed while it waits for another.
HANGING = """
    import os, signal, sys, httpx
    client = httpx.Client(timeout=None)
    client.get(sys.argv[1])
    def die(name, info):
        if name == "http11.receive_response_headers.started":
            os.kill(os.getpid(), signal.SIGKILL)
    client.get(sys.argv[1], extensions={"trace": die})
"""


def test_a_request_that_never_ended_is_told(program: Callable[..., str], server: Server, tmp_path: Path) -> None:
    """A program that is killed while it waits has no span of that, and the report says so."""
    path = tmp_path / "report.json"
    ran = httptrace("run", "--json", path, "--width", "200", "--", PYTHON, program(HANGING), server.url())

    report = json.loads(path.read_text())
    assert (ran.returncode, report["unended_requests"]) == (-signal.SIGKILL, 1)
    assert "1 request was still under way when its process ended, and has no span: with a shorter timeout" in ran.stderr


def test_only_what_is_ours_is_counted(program: Callable[..., str], server: Server) -> None:
    """Another tracer's span of the same request (ddtrace's, without a scope) is no request, nor is one to `run` itself."""
    path = program("""
        import os, sys, time, httpx
        from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
        request = ExportTraceServiceRequest()
        span = request.resource_spans.add().scope_spans.add().spans.add()
        span.trace_id, span.span_id, span.kind, span.name = b"1" * 16, b"2" * 8, span.SPAN_KIND_CLIENT, "http.request"
        span.start_time_unix_nano = span.end_time_unix_nano = time.time_ns()
        url = span.attributes.add(key="http.url").value
        url.string_value = sys.argv[1]
        headers = [pair.split("=", 1) for pair in os.environ["OTEL_EXPORTER_OTLP_TRACES_HEADERS"].split(",")]
        with httpx.Client() as client:
            client.get(sys.argv[1])
            print(client.post(
                os.environ["OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"], content=request.SerializeToString(),
                headers=dict(headers) | {"Content-Type": "application/x-protobuf"}).status_code)
    """)
    ran = httptrace("run", "-q", "--json", "-", "--", PYTHON, path, server.url())

    said, _, document = ran.stdout.partition("\n")
    report = json.loads(document)
    assert (ran.returncode, said, report["requests"]) == (0, "200", 1)
    assert [origin["origin"] for origin in report["origins"]] == [server.url().rstrip("/")]


def test_no_warning_of_ours(program: Callable[..., str], server: Server) -> None:
    """A program that is run with all warnings as errors has none that it has not without us."""
    ran = httptrace("run", "-q", "--", PYTHON, "-W", "error", "-X", "dev", program(WASTEFUL), server.url())

    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "done\n", "")


def test_every_command_has_help_with_examples() -> None:
    """Every command explains itself, with examples."""
    for command in ("run", "report", "probe", "doctor", "demo"):
        ran = httptrace(command, "--help")
        assert (ran.returncode, ran.stderr) == (0, "")
        assert ran.stdout.startswith(f"Usage: httptrace {command}")
        assert command == "demo" or f"\n    httptrace {command} " in ran.stdout
    assert httptrace("--version").stdout.startswith("httptrace ")
    assert "Commands:" in httptrace().stderr


@pytest.mark.parametrize("missing", ["click", "rich", "orjson"])
def test_without_the_extra_one_line_says_what_to_install(missing: str) -> None:
    """Without what the extra brings, one line says what to install."""
    code = f"import sys; sys.modules[{missing!r}] = None; import otel_httptrace.cli as cli; cli.main()"
    ran = subprocess.run([PYTHON, "-c", code], capture_output=True, text=True, timeout=PATIENCE)

    assert (ran.returncode, ran.stdout) == (2, "")
    assert ran.stderr == f"httptrace needs {missing}: pip install 'otel-httptrace[cli]'\n"


def test_nothing_is_left_behind(program: Callable[..., str], tmp_path: Path) -> None:
    """The program is reaped, and no process of ours outlives us."""
    marker = tmp_path / "marker"
    ran = httptrace("run", "-q", "--", PYTHON, "-c", f"import os; open({str(marker)!r}, 'w').write(str(os.getpid()))")

    assert ran.returncode == 0
    with pytest.raises(ProcessLookupError):
        os.kill(int(marker.read_text()), 0)


def test_a_second_ctrl_c(program: Callable[..., str], tmp_path: Path) -> None:
    """Ctrl-C while the report is made ends that."""
    # The report goes to a pipe that nobody reads.
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with Terminal(*COMMAND, "run", "-o", str(pipe), "--", PYTHON, "-c", "print('over')") as terminal:
        terminal.until("httptrace doctor")
        terminal.type("\x03")
        assert terminal.end() == -signal.SIGINT


@pytest.mark.skipif(not shutil.which("ps"), reason="needs ps")
def test_the_program_is_our_direct_child(program: Callable[..., str]) -> None:
    """The program is our child itself, in our group and session: no shell, no group of its own."""
    code = "import os; print(os.getppid(), os.getpgrp(), os.getsid(0))"
    with start("run", "-q", "--", PYTHON, "-c", code) as process:
        out, _ = process.communicate(timeout=PATIENCE)

    assert out == f"{process.pid} {os.getpgrp()} {os.getsid(0)}\n"


def test_a_backend_gets_all_signals_with_forward(program: Callable[..., str], server: Server) -> None:
    """With `--forward` a backend gets all three signals as if we were not there, and the report is made all the same."""
    received: list[Any] = []
    with Receiver(received.append) as backend:
        ran = httptrace("run", "--forward", backend.endpoint, "--", PYTHON, program(WASTEFUL), server.url())

    assert (ran.returncode, ran.stdout) == (0, "done\n")
    assert ran.stderr.startswith("5 requests to 1 origin")
    found = list(
        rows(span for request in received if hasattr(request, "resource_spans") for span in from_protobuf(request))
    )
    assert len(found) == 5
    assert any(hasattr(request, "resource_metrics") for request in received)


def test_nobody_to_forward_to(program: Callable[..., str], server: Server) -> None:
    """What could not be delivered is counted in one line, and neither the program nor the report suffer."""
    endpoint = f"http://127.0.0.1:{free_port()}"
    ran = httptrace("run", "--forward", endpoint, "--", PYTHON, program(WASTEFUL), server.url())

    assert (ran.returncode, ran.stdout) == (0, "done\n")
    first = ran.stderr.splitlines()[0]
    assert first.startswith(f"httptrace: not delivered to {endpoint}: ")
    assert "15 spans" in first
    assert "5 requests to 1 origin" in ran.stderr


#: What happens where a signal's sender cannot be asked for.
ELSEWHERE = """
    import sys
    from otel_httptrace.cli.programs import process
    process._CAN_WAIT = False
    sys.exit(process.die_like(process.run(sys.argv[1:], {"PATH": "/bin:/usr/bin"})))
"""


def test_signals_on_other_systems(program: Callable[..., str]) -> None:
    """Where the kernel does not say who sent a signal, those to us are passed on all the same, when no terminal is ours."""
    names = ["TERM", "HUP", "USR1", "INT", "USR2"]
    with start(program(ELSEWHERE, "elsewhere.py"), PYTHON, program(LISTENING), command=[PYTHON],
               start_new_session=True) as process:  # fmt: skip
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        for name in names:
            process.send_signal(getattr(signal, f"SIG{name}"))
            assert process.stdout.readline() == f"SIG{name}\n"
        out = process.stdout.read()

    assert process.returncode == 0
    assert out == f"over {[f'SIG{name}' for name in names]}\n"


def test_ctrl_c_on_other_systems(program: Callable[..., str]) -> None:
    """In the foreground of a terminal Ctrl-C is not sent a second time there either."""
    path = program("""
        import os, signal, time
        got = []
        signal.signal(signal.SIGINT, lambda number, frame: got.append(number))
        print("waiting", flush=True)
        while not got:
            time.sleep(0.01)
        # What is sent to its parent comes back, and not before a second one would have come.
        asked = []
        signal.signal(signal.SIGUSR1, lambda number, frame: asked.append(number))
        os.kill(os.getppid(), signal.SIGUSR1)
        while not asked:
            time.sleep(0.01)
        print("got", len(got), flush=True)
    """)
    with Terminal(PYTHON, program(ELSEWHERE, "elsewhere.py"), PYTHON, path) as terminal:
        terminal.until("waiting")
        terminal.type("\x03")
        terminal.until("got 1")
        assert terminal.end() == 0


def test_nothing_of_it_is_on_the_way(program: Callable[..., str], server: Server) -> None:
    """A program that is run has nothing of the command's in its memory."""
    path = program(textwrap.dedent(WASTEFUL) + "print([name for name in sys.modules if f'{name}.'.startswith("
                   "('jinja2.', 'otel_httptrace.cli.', 'otel_httptrace.report.'))])")  # fmt: skip
    ran = httptrace("run", "-q", "--", PYTHON, path, server.url())

    assert (ran.returncode, ran.stdout) == (0, "done\n[]\n")


def test_the_demo_agrees_with_its_server() -> None:
    """`httptrace demo` tells the founding story, and agrees with its server."""
    ran = httptrace("demo")

    assert (ran.returncode, ran.stderr) == (0, "")
    assert ran.stdout.count(": equal") == 2


SHOP = """
    import os, httpx

    def wsgi(environ, start_response):
        with httpx.Client() as client:
            client.get(os.environ["UPSTREAM"])
        start_response("200 OK", [("Content-Length", "2")])
        return [b"ok"]

    async def asgi(scope, receive, send):
        if scope["type"] == "http":
            async with httpx.AsyncClient() as client:
                await client.get(os.environ["UPSTREAM"])
            await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
            await send({"type": "http.response.body", "body": b"ok"})
"""


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("gunicorn", ["-w", "2", "-b", "127.0.0.1:{port}", "--no-control-socket", "shop:wsgi"]),
        ("uvicorn", ["--lifespan", "off", "--port", "{port}", "shop:asgi"]),
        (
            "uvicorn",
            [
                "--lifespan",
                "off",
                "--workers",
                "2",
                "--timeout-worker-healthcheck",
                "50",
                "--port",
                "{port}",
                "shop:asgi",
            ],
        ),
        ("uvicorn", ["--lifespan", "off", "--reload", "--port", "{port}", "shop:asgi"]),
    ],
    ids=["gunicorn", "uvicorn", "uvicorn workers", "uvicorn reload"],
)
def test_servers_and_their_workers_are_seen_while_they_serve(
    program: Callable[..., str], server: Server, tmp_path: Path, name: str, arguments: list[str]
) -> None:
    """Servers and their workers are seen while they serve, and end when we are asked to."""
    pytest.importorskip(name)
    program(SHOP, "shop.py")
    port = free_port()
    with (tmp_path / "stderr").open("w") as stderr, start(
        "run", "--every", "100ms", "--json", "r.json", "--", PYTHON, "-m", name, *(part.format(port=port) for part in arguments),
        environ={"UPSTREAM": server.url(), "PYTHONPATH": os.pathsep.join((str(tmp_path), os.environ.get("PYTHONPATH", "")))},
        cwd=tmp_path,
        stderr=stderr,
    ) as process:  # fmt: skip
        _ask(f"http://127.0.0.1:{port}/", times=6)
        report = tmp_path / "r.json"
        deadline = time.monotonic() + PATIENCE
        while not report.exists() or json.loads(report.read_text())["requests"] < 6:
            assert time.monotonic() < deadline, (tmp_path / "stderr").read_text()
            time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        process.wait(PATIENCE)

    assert process.returncode in (0, -signal.SIGTERM)
    assert json.loads(report.read_text())["requests"] == 6
    assert "6 requests to 1 origin" in (tmp_path / "stderr").read_text()


def _ask(url: str, times: int) -> None:
    from urllib.error import URLError
    from urllib.request import ProxyHandler, build_opener

    opener = build_opener(ProxyHandler({}))
    deadline = time.monotonic() + PATIENCE
    while times:
        try:
            with opener.open(url, timeout=PATIENCE) as response:
                assert response.read() == b"ok"
            times -= 1
        except (URLError, ConnectionError):
            # Not up yet.
            assert time.monotonic() < deadline
            time.sleep(0.05)


def test_a_propagator_that_is_not_installed(program: Callable[..., str], server: Server) -> None:
    """A propagator that is not installed, which alone would end the program, is left out, and that is said."""
    path = program("""
        import sys, httpx
        from opentelemetry.propagate import get_global_textmap
        httpx.get(sys.argv[1])
        print(sorted(get_global_textmap().fields))
    """)
    ran = httptrace("run", "--", PYTHON, path, server.url(), environ={"OTEL_PROPAGATORS": "b3,baggage"})

    assert (ran.returncode, ran.stdout) == (0, "['baggage']\n")
    told, report = ran.stderr.splitlines()[:2]
    assert told == (
        "httptrace: OTEL_PROPAGATORS names b3, not installed where the program runs: left out here, but "
        "opentelemetry-instrument alone would not start it; pip install opentelemetry-propagator-b3, or unset it"
    )
    assert report.startswith("1 request to 1 origin")


@pytest.mark.parametrize(
    ("environ", "told"),
    [
        (
            {"OTEL_PYTHON_HTTPX_EXCLUDED_URLS": "127.0.0.1"},
            "OTEL_PYTHON_HTTPX_EXCLUDED_URLS is 127.0.0.1, and requests to URLs that match have no span",
        ),
        (
            {"OTEL_PYTHON_EXCLUDED_URLS": ".*"},
            "OTEL_PYTHON_EXCLUDED_URLS is .*; it matches every URL: unset OTEL_PYTHON_EXCLUDED_URLS",
        ),
        (
            {"OTEL_PYTHON_EXCLUDED_URLS": "health", "OTEL_PYTHON_METER_PROVIDER": "nope"},
            "OTEL_PYTHON_METER_PROVIDER is nope; nope is not installed: opentelemetry-instrument gives up, and there "
            "are no spans; unset OTEL_PYTHON_METER_PROVIDER, or name one of default_meter_provider, sdk_meter_provider",
        ),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, dict) else "",
)
def test_settings_that_leave_nothing_to_see(
    program: Callable[..., str], server: Server, environ: dict[str, str], told: str
) -> None:
    """Where a setting kept requests from being seen, it is named; the surest first."""
    ran = httptrace("run", "--", PYTHON, program(WASTEFUL), server.url(), environ=environ)

    assert (ran.returncode, ran.stdout) == (0, "done\n")
    assert ran.stderr.splitlines()[-1] == f"httptrace: no span came: {told}"


def test_limits_that_cut_spans_short_give_way() -> None:
    """The user's limits on attributes would falsify the report: they are not handed on, and -v says so."""
    program = "import os; print([name for name in os.environ if 'LIMIT' in name or 'CONFIGURATOR' in name])"
    ran = httptrace(
        "run",
        "-v",
        "--",
        sys.executable,
        "-c",
        program,
        environ={"OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT": "3", "OTEL_PYTHON_CONFIGURATOR": "nope"},
    )

    assert (ran.returncode, ran.stdout) == (0, "[]\n")
    assert "OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT is not passed on: it would cut spans short" in ran.stderr
    assert "OTEL_PYTHON_CONFIGURATOR is not passed on: with it there would be no spans" in ran.stderr


def test_without_stderr_there_is_no_report() -> None:
    """Without a stderr there is no report: stdout stays the program's."""
    ran = subprocess.run(
        ["sh", "-c", 'exec "$@" 2>&-', "sh", *COMMAND, "run", "--", sys.executable, "-c", "print('its own')"],
        stdout=subprocess.PIPE,
        text=True,
        timeout=PATIENCE,
        check=False,
    )

    assert (ran.returncode, ran.stdout) == (0, "its own\n")
