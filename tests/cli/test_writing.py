"""What commands write: whole or not at all, as private as before, and nowhere that somebody else has prepared."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from kit.command import COMMAND, environment, httptrace
from kit.otlp import story

from otel_httptrace.cli import files
from otel_httptrace.cli.errors import Problem
from otel_httptrace.cli.files import check_writable, open_private, writing
from otel_httptrace.report.otlp import to_json

pytestmark = pytest.mark.skipif(os.name == "nt", reason="modes, owners and links of Unix")

#: Not ours, whoever runs the tests, and not root's.
SOMEBODY = 65533


def mode(path: Path) -> int:
    """Its permissions."""
    return stat.S_IMODE(path.stat().st_mode)


def write(path: Path, text: str = "new") -> None:
    """Write it as commands do."""
    with writing(str(path)) as file:
        file.write(text)


@pytest.fixture(autouse=True)
def _umask() -> Iterator[None]:
    before = os.umask(0o022)
    yield
    os.umask(before)


@pytest.fixture
def traces(tmp_path: Path) -> Path:
    """A file of spans."""
    path = tmp_path / "traces.jsonl"
    path.write_bytes(b"".join(to_json(request) + b"\n" for request in story()))
    return path


@pytest.fixture
def everybodys(tmp_path: Path) -> Path:
    """A folder as /tmp is."""
    folder = tmp_path / "everybodys"
    folder.mkdir()
    folder.chmod(0o1777)
    return folder


def test_a_file_is_replaced_only_when_it_is_whole(tmp_path: Path) -> None:
    """Until all is written the file is what it was; then it is all new, and nothing else is left."""
    path = tmp_path / "report"
    path.write_text("old")
    with writing(str(path)) as file:
        file.write("new" * 100_000)
        file.flush()
        assert path.read_text() == "old"
    assert path.read_text() == "new" * 100_000
    assert os.listdir(tmp_path) == ["report"]


@pytest.mark.parametrize("error", [RuntimeError("ours"), KeyboardInterrupt()])
def test_an_interrupted_write_leaves_the_old_file(tmp_path: Path, error: BaseException) -> None:
    """What is interrupted while it is written leaves what was there, and nothing else."""
    path = tmp_path / "report"
    path.write_text("old")
    with pytest.raises(type(error)), writing(str(path)) as file:
        file.write("ne")
        raise error
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["report"]


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full")
def test_a_full_disk_is_one_line_and_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there is no room that is told in a line, and what was there is still there."""
    path = tmp_path / "report"
    path.write_text("old")
    real = os.open

    def full(where: str | Path, flags: int, mode: int = 0o777) -> int:
        descriptor = real(where, flags, mode)
        os.dup2(real("/dev/full", os.O_WRONLY), descriptor)
        return descriptor

    monkeypatch.setattr(files, "_liken", lambda descriptor, there: None)
    monkeypatch.setattr(os, "open", full)
    with pytest.raises(Problem, match="No space left on device"):
        write(path)
    monkeypatch.undo()
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["report"]


@pytest.mark.parametrize("before", [0o600, 0o640, 0o664, 0o400, 0o755])
def test_a_file_keeps_its_mode(tmp_path: Path, before: int) -> None:
    """A report that is written again is as private as it was."""
    path = tmp_path / "report"
    path.write_text("old")
    path.chmod(before)
    write(path)

    assert (path.read_text(), mode(path)) == ("new", before)


@pytest.mark.parametrize(("umask", "made"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_a_new_file_has_the_mode_of_the_umask(tmp_path: Path, umask: int, made: int) -> None:
    """A report that was not there has the mode that the user's umask gives."""
    os.umask(umask)
    write(tmp_path / "report")

    assert mode(tmp_path / "report") == made


@pytest.mark.skipif(os.name == "nt" or os.geteuid() != 0, reason="only root can give files away")
def test_a_file_keeps_its_owner(tmp_path: Path) -> None:
    """Root, who writes a file of somebody else's again, leaves it theirs."""
    path = tmp_path / "report"
    path.write_text("old")
    os.chown(path, SOMEBODY, SOMEBODY)
    path.chmod(0o640)
    write(path)

    found = path.stat()
    assert (path.read_text(), found.st_uid, found.st_gid, mode(path)) == ("new", SOMEBODY, SOMEBODY, 0o640)


def test_a_group_that_cannot_be_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the group cannot be kept, what it was allowed is allowed to no other."""
    path = tmp_path / "report"
    path.write_text("old")
    path.chmod(0o664)

    def refused(descriptor: int, owner: int, group: int) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "fchown", refused)
    made = os.fstat
    monkeypatch.setattr(
        os, "fstat", lambda descriptor: os.stat_result((*made(descriptor)[:5], SOMEBODY, *made(descriptor)[6:]))
    )
    write(path)
    monkeypatch.undo()

    assert (path.read_text(), mode(path)) == ("new", 0o604)


def test_nobody_can_know_the_name_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What stands in for the file is made by us or not at all, under a name of 64 random bits."""
    made: list[tuple[str, int]] = []
    real = os.open

    def noted(path: str | Path, flags: int, mode: int = 0o777) -> int:
        made.append((Path(path).name, flags))
        return real(path, flags, mode)

    monkeypatch.setattr(os, "open", noted)
    for _ in range(20):
        write(tmp_path / "report")
    monkeypatch.undo()

    assert len({name for name, _ in made}) == 20
    assert all(len(name) == len(".report.") + 16 for name, _ in made)
    assert all(flags & os.O_EXCL and flags & os.O_NOFOLLOW for _, flags in made)


def test_a_name_of_maximal_length_can_be_written(tmp_path: Path) -> None:
    """A name as long as one can be does not make that of what stands in for it too long."""
    path = tmp_path / ("x" * 255)
    write(path)

    assert path.read_text() == "new"


def test_a_link_of_ones_own(tmp_path: Path) -> None:
    """A link stays one, and what it leads to is replaced as a whole, with its mode."""
    (tmp_path / "store").mkdir()
    real = tmp_path / "store" / "report"
    real.write_text("old")
    real.chmod(0o600)
    (tmp_path / "latest").symlink_to("first")
    (tmp_path / "first").symlink_to(Path("store") / "report")
    write(tmp_path / "latest")

    assert (tmp_path / "latest").is_symlink()
    assert (real.read_text(), mode(real), os.listdir(tmp_path / "store")) == ("new", 0o600, ["report"])


def test_links_in_a_ring(tmp_path: Path) -> None:
    """Links that lead to each other are told in a line."""
    (tmp_path / "one").symlink_to("two")
    (tmp_path / "two").symlink_to("one")
    with pytest.raises(Problem, match="too many levels of symbolic links"):
        write(tmp_path / "one")


@pytest.mark.skipif(os.name == "nt" or os.geteuid() != 0, reason="only root can be somebody else")
@pytest.mark.parametrize("kind", ["link", "dangling", "file", "pipe"])
@pytest.mark.parametrize("how", [write, lambda path: open_private(str(path)), lambda path: check_writable(str(path))])
def test_what_others_put_into_everybodys_folder(everybodys: Path, tmp_path: Path, kind: str, how: object) -> None:
    """In a folder as /tmp is, a link, a file and a pipe that somebody else has put there are left alone."""
    victim = tmp_path / "victim"
    victim.write_text("precious")
    planted = everybodys / "report.html"
    if kind == "file":
        planted.write_text("theirs")
    elif kind == "pipe":
        os.mkfifo(planted)
    else:
        planted.symlink_to(victim if kind == "link" else tmp_path / "not there")
    os.lchown(planted, SOMEBODY, SOMEBODY)
    everybodys_owner = os.stat(everybodys).st_uid
    assert everybodys_owner != SOMEBODY

    with pytest.raises(Problem, match="of another user, in a directory that everybody can write to: not written"):
        how(planted)  # type: ignore[operator]
    assert victim.read_text() == "precious"
    assert not (tmp_path / "not there").exists()
    assert os.listdir(everybodys) == ["report.html"]


def test_ones_own_in_everybodys_folder(everybodys: Path) -> None:
    """What is one's own in a folder as /tmp is, is written as anywhere else."""
    for _ in range(2):
        write(everybodys / "report")

    assert (everybodys / "report").read_text() == "new"


@pytest.mark.parametrize("path", ["/dev/stdout", "/dev/fd/1", "/proc/self/fd/1"])
def test_stdout_by_its_name(traces: Path, tmp_path: Path, path: str) -> None:
    """A view of stdout is written to where stdout leads, a file or a pipe, and never replaced."""
    if not os.path.exists(path):
        pytest.skip(f"no {path}")
    out = tmp_path / "out"
    with out.open("w") as file:
        ran = subprocess.run(
            [*COMMAND, "report", "-q", "--json", path, str(traces)], stdout=file, env=environment(), check=False
        )
        assert ran.returncode == 0
        assert os.fstat(file.fileno()).st_ino == out.stat().st_ino
    piped = httptrace("report", "-q", "--json", path, traces)
    assert out.read_text() == piped.stdout != ""


def test_spans_are_their_owners(tmp_path: Path) -> None:
    """A file of spans that is new is its owner's alone, whatever the umask; one that is there keeps its mode, not its content."""
    os.umask(0)
    new, old = tmp_path / "new", tmp_path / "old"
    old.write_text("old")
    old.chmod(0o640)
    for path in (new, old):
        with open_private(str(path)) as file:
            file.write(b"x")

    assert (mode(new), mode(old), old.read_text()) == (0o600, 0o640, "x")


def test_files_with_query_strings_are_private(tmp_path: Path) -> None:
    """`--otlp`, which holds query strings, is made private; the reports, which hold none, are as the umask has it."""
    names = {"--otlp": "spans.jsonl", "--html": "page.html", "--json": "report.json", "-o": "report.txt"}
    arguments = [part for option, name in names.items() for part in (option, str(tmp_path / name))]
    code = "import httpx; httpx.Client().get('http://127.0.0.1:9/?secret=1')"
    httptrace("run", *arguments, "--", sys.executable, "-c", code)

    assert {path.name: mode(path) for path in tmp_path.iterdir()} == {
        "spans.jsonl": 0o600,
        "page.html": 0o644,
        "report.json": 0o644,
        "report.txt": 0o644,
    }
    assert "secret" in (tmp_path / "spans.jsonl").read_text()
    assert not any("secret" in (tmp_path / name).read_text() for name in ("page.html", "report.json", "report.txt"))


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="root may write anywhere")
def test_a_file_in_a_folder_that_is_not_ones_own(tmp_path: Path) -> None:
    """A file that can be written in a folder that cannot is written to as it stands."""
    path = tmp_path / "report"
    path.write_text("old")
    tmp_path.chmod(0o555)
    try:
        check_writable(str(path))
        write(path)
        assert path.read_text() == "new"
    finally:
        tmp_path.chmod(0o755)
