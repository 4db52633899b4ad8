# The page's script is written as modules, so that each says what it needs, and is one
# script in the page, so that a page is one file. A browser would fetch modules, and a
# file that is opened from a disk may fetch nothing.
#
# So this is no bundler of JavaScript, it is one of ours: the modules come one after the
# other, each after those that it imports, in one scope. What makes that right is checked
# by tests/report/test_bundle.py: no two modules use a name at their top level for
# different things, and none imports in a circle.

"""One script, from modules."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final

_IMPORT: Final = re.compile(r'^import \{ ([\w, ]+) \} from "\./(\w+)\.js";\n', re.MULTILINE)
_EXPORT: Final = re.compile(r"^export ", re.MULTILINE)


def bundle(main: str, read: Callable[[str], str]) -> str:
    """The module *main* and what it imports, as one script.

    Args:
        main: the name of a module, without its ending.
        read: the text of a module, by its name.

    Raises:
        ValueError: modules import each other in a circle.
    """
    done: dict[str, str] = {}

    def add(name: str, above: tuple[str, ...]) -> None:
        if name in above:
            raise ValueError(f"modules import each other: {' -> '.join((*above, name))}")
        if name not in done:
            text = read(name)
            for imported in imports(text):
                add(imported, (*above, name))
            done[name] = _EXPORT.sub("", _IMPORT.sub("", text)).replace("\n\n\n", "\n\n")

    add(main, ())
    return "\n".join(done.values())


def imports(text: str) -> dict[str, list[str]]:
    """What a module imports: names, by the module that they come from."""
    return {module: names.split(", ") for names, module in _IMPORT.findall(text)}


__all__ = ["bundle", "imports"]
