"""`[tool.httptrace]`: a project's settings, weaker than a variable, and that than an option."""

from __future__ import annotations

from pathlib import Path

import pytest
from test_gate import write

from otel_httptrace.cli.app import group, run
from otel_httptrace.cli.errors import Problem
from otel_httptrace.cli.project import SETTINGS, VARIABLES, settings

WHOLE = """
[tool.other]
x = 1
[tool.httptrace]
all = true
fail-on = ["failed", "waste"]
html = "out/page.html"
json = "-"
width = 90
threshold = { dns = 0.5, statuses = 9 }
"""


def test_a_file_s_settings_are_read_as_options(tmp_path: Path) -> None:
    """The nearest pyproject.toml above counts; its files are relative to it."""
    (tmp_path / "pyproject.toml").write_text(WHOLE)
    (tmp_path / "src" / "shop").mkdir(parents=True)

    assert settings(tmp_path / "src" / "shop") == {
        "everything": True,
        "fail_on": ["failed", "waste"],
        "html": str(tmp_path / "out" / "page.html"),
        "json": "-",
        "width": 90,
        "threshold": ["dns=0.5", "statuses=9"],
    }
    (tmp_path / "src" / "pyproject.toml").write_text('[project]\nname = "shop"\n')
    assert settings(tmp_path / "src" / "shop") == {}
    assert VARIABLES["fail-on"] == "HTTPTRACE_FAIL_ON"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("fail_on = 1", "[tool.httptrace] has no setting 'fail_on'; there are " + ", ".join(SETTINGS)),
        ("fail-on = [1]", "fail-on = [1] in [tool.httptrace] is not a string, or a list of strings"),
        ("width = true", "width = True in [tool.httptrace] is not an integer"),
        ("quiet = 'yes'", "quiet = 'yes' in [tool.httptrace] is not true or false"),
        ("threshold = 3", "threshold = 3 in [tool.httptrace] is not a table of numbers"),
        ("]", "is not TOML: "),
    ],
)
def test_a_setting_that_is_wrong(tmp_path: Path, text: str, told: str) -> None:
    """A setting that there is not, or is of another type, is told in one line that names the file."""
    path = tmp_path / "pyproject.toml"
    path.write_text(f"[tool.httptrace]\n{text}\n")

    with pytest.raises(Problem) as caught:
        settings(tmp_path)
    assert caught.value.message.startswith(str(path)) and told in caught.value.message


def test_settings_are_documented() -> None:
    """Each setting and its variable are in docs/report.md."""
    told = (Path(__file__).parents[2] / "docs" / "report.md").read_text()

    assert [name for name in SETTINGS if f"`{name}`" not in told] == []
    assert [name for name in VARIABLES.values() if f"`{name}`" not in told] == []


def test_a_shell_can_complete(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """As documented, the variable of click gets a shell its completion, of subcommands and of their options."""
    told = (Path(__file__).parents[2] / "docs" / "report.md").read_text()
    assert "_HTTPTRACE_COMPLETE=bash_source httptrace" in told
    for words, expected in (("httptrace re", "report"), ("httptrace report --thr", "--threshold")):
        monkeypatch.setenv("_HTTPTRACE_COMPLETE", "zsh_complete")
        monkeypatch.setenv("COMP_WORDS", words)
        monkeypatch.setenv("COMP_CWORD", str(len(words.split()) - 1))
        with pytest.raises(SystemExit):
            group.main([], prog_name="httptrace")
        assert expected in capsys.readouterr().out.split("\n")


def test_an_option_is_stronger_than_a_variable_and_that_than_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The command line is stronger than the environment, and that than the project's file."""
    spans = str(write(tmp_path / "spans"))
    (tmp_path / "pyproject.toml").write_text('[tool.httptrace]\nfail-on = "body_not_read"\nquiet = true\n')
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("GITHUB_ACTIONS", raising=False)

    assert run(["report", spans]) == 1
    assert capsys.readouterr() == ("", "httptrace: found body_not_read\n")
    monkeypatch.setenv("HTTPTRACE_FAIL_ON", "dns_slow")
    assert run(["report", spans]) == 0
    assert run(["report", spans, "--fail-on", "any"]) == 1
    monkeypatch.setenv("HTTPTRACE_THRESHOLD", "lost_connections=9 dns=3")
    monkeypatch.setenv("HTTPTRACE_QUIET", "0")
    capsys.readouterr()
    assert run(["report", spans, "--fail-on", "any"]) == 0
    assert "No problems found in " in capsys.readouterr().out
