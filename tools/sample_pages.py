"""Pages to look at, of reports made by hand and of the demo's real spans: `sample_pages.py FOLDER`."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from kit import reports  # noqa: E402

from otel_httptrace.report.analysis import analyze  # noqa: E402
from otel_httptrace.report.page import render  # noqa: E402
from otel_httptrace.report.summary import Report  # noqa: E402


def samples() -> Iterator[tuple[str, Report]]:
    """Reports by name."""
    story = reports.early_close()
    yield "story", reports.report(story, reports.body_not_read(story))
    mixed = reports.mixed()
    yield (
        "mixed",
        reports.report(
            mixed,
            reports.pool_saturated(mixed),
            reports.body_not_read(mixed),
            left_out=43_000,
            problems=("spans.jsonl, line 17: cut off after 812 bytes",),
        ),
    )
    yield "quiet", reports.report(reports.many(200, 4))
    yield "empty", analyze([])
    many = reports.many()
    yield "many-connections", reports.report(many, reports.body_not_read(many))
    yield "few-connections", reports.report(reports.many(10_000, 12))


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    for name, report in samples():
        began = time.perf_counter()
        page = render(report)
        took = time.perf_counter() - began
        (folder / f"{name}.html").write_text(page, encoding="utf-8")
        print(f"{name}.html: {report.requests} requests, {len(page.encode()) / 1e3:.0f} kB, {took * 1e3:.0f} ms")
