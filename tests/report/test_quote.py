"""The source line under a finding: quoted where it can be read, and nothing else is."""

from __future__ import annotations

from pathlib import Path

import pytest

from otel_httptrace.report.quote import quoted


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A folder with a program, and beside it one that is none of the report's business."""
    (tmp_path / "shop" / "src" / "shop").mkdir(parents=True)
    (tmp_path / "shop" / "app.py").write_text("import httpx\n\n    response.close()\n")
    (tmp_path / "shop" / "src" / "shop" / "fetch.py").write_text("client.get(url)\n")
    (tmp_path / "shop" / "secret.txt").write_text("secret\n")
    (tmp_path / "other.py").write_text("secret\n")
    (tmp_path / "shop" / "link.py").symlink_to(tmp_path / "other.py")
    return tmp_path / "shop"


@pytest.mark.parametrize(
    ("place", "line"),
    [("app.py:3 in check", "response.close()"), ("shop/fetch.py:1 in fetch", "client.get(url)")],
)
def test_the_named_line_is_quoted(project: Path, place: str, line: str) -> None:
    """The line is quoted, below the folder or its src."""
    assert quoted(place, project) == line


@pytest.mark.parametrize(
    "place",
    [
        None, "", "app.py", "app.py:2 in check", "app.py:99 in check", "app.py:0 in check", "gone.py:1 in check",
        "../other.py:1 in check", "link.py:1 in check", "secret.txt:1 in check", "app\0.py:1 in check",
    ],
)  # fmt: skip
def test_what_is_no_line_of_python_is_not_quoted(project: Path, place: str | None) -> None:
    """What is not there, is no Python, or lies outside the folder is not quoted."""
    assert quoted(place, project) is None


def test_an_absolute_path_outside_is_not_quoted(project: Path) -> None:
    """Nor is a path from the root on, unless it leads below the folder."""
    assert quoted(f"{project.parent / 'other.py'}:1 in check", project) is None
    assert quoted(f"{project / 'app.py'}:3 in check", project) == "response.close()"
