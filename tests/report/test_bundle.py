"""The page's script: modules that become one script (report/page/bundle.py)."""

from __future__ import annotations

import re
from importlib.resources import files

import pytest

from otel_httptrace.report.page.bundle import bundle, imports

FOLDER = files("otel_httptrace.report.page").joinpath("script")
MODULES = {one.name.removesuffix(".js"): one.read_text("utf-8") for one in FOLDER.iterdir() if one.name.endswith(".js")}

DECLARED = re.compile(
    r"^(?:export )?(?:async )?(?:const|let|class|function) (?:(\w+)|\{ ([\w, ]+) \}|\[([\w, ]+)\])", re.MULTILINE
)
EXPORTED = re.compile(DECLARED.pattern.replace("(?:export )?", "export "), re.MULTILINE)


def names(pattern: re.Pattern[str], text: str) -> list[str]:
    """What a module declares at its top level."""
    return [name for found in pattern.findall(text) for group in found if group for name in group.split(", ")]


def test_no_two_modules_of_the_page_declare_one_name() -> None:
    """In one scope they would be one variable."""
    declared = [name for text in MODULES.values() for name in names(DECLARED, text)]

    assert len(declared) > 100
    assert [name for name in declared if declared.count(name) > 1] == []


def test_modules_of_the_page_import_what_others_export_and_export_nothing_else() -> None:
    """An import is of a name that its module exports, and each export is imported."""
    asked = {(module, name) for text in MODULES.values() for module, found in imports(text).items() for name in found}

    assert asked == {(module, name) for module, text in MODULES.items() for name in names(EXPORTED, text)}


def test_every_module_is_in_the_page_after_what_it_imports() -> None:
    """Each module is in the script once, after those that it imports, without its imports and exports."""
    script = bundle("page", MODULES.__getitem__)
    places = {module: script.index(text.splitlines()[0]) for module, text in MODULES.items()}

    assert all(places[imported] < places[module] for module, text in MODULES.items() for imported in imports(text))
    assert not re.search(r"^(import|export) ", script, re.MULTILINE)


def test_modules_that_import_each_other_are_refused() -> None:
    """There is no order for modules that import each other."""
    modules = {"a": 'import { b } from "./b.js";\n', "b": 'import { a } from "./a.js";\n'}

    with pytest.raises(ValueError, match=r"^modules import each other: a -> b -> a$"):
        bundle("a", modules.__getitem__)
