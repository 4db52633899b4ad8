"""What of a path is shown: routes, and neither ids nor keys."""

from __future__ import annotations

import base64
import json
import random
import string
import uuid
from urllib.parse import quote

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from kit.otlp import Export, read
from kit.reports import row
from rich.console import Console

from otel_httptrace.report import schema, text
from otel_httptrace.report.analysis import analyze
from otel_httptrace.report.page import render as page
from otel_httptrace.report.paths import ID, is_word, path, shown


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ("/", "/"),
        ("/users/42", "/users/{id}"),
        ("/users/42/orders/", "/users/{id}/orders/"),
        ("/api/v1.2/GetUserById", "/api/v1.2/GetUserById"),
        ("/.well-known/openid-configuration", "/.well-known/openid-configuration"),
        ("/shop.OrderService/getUserById", "/shop.OrderService/getUserById"),
        ("/logs/_search", "/logs/_search"),
        ("/oauth2/graphql/index.html", "/oauth2/graphql/index.html"),
        # Dates, versions of things, users with a number.
        ("/reports/2024-10-01", "/reports/{id}"),
        ("/users/user42/v123456", "/users/{id}/{id}"),
        (f"/a/{uuid.UUID(int=2**127)}/b", "/a/{id}/b"),
        ("/commits/deadbeef", "/commits/{id}"),
        # A key's place gives it away, whatever it looks like.
        ("/password-reset/opensesame", "/password-reset/{id}"),
        ("/token/refresh/all", "/token/{id}/all"),
        ("/hooks/incoming/hunter", "/hooks/{id}/{id}"),
        ("/services/T02AB/B04CD/XXXXXXXXXXXXXXXXXXXXXXXX", "/services/{id}/{id}/{id}"),
        ("/bot110201543:AAHdqTcvCH1vGWJxfSeofSAs0K5PALDsaw/getMe", "/{id}/getMe"),
        ("/api/webhooks/opensesame/messages", "/api/webhooks/{id}/messages"),
        # Pass phrases, codes, addresses, parameters of a path.
        ("/s/correct-horse-battery-staple", "/s/{id}"),
        ("/booking/XKJDQP", "/booking/{id}"),
        ("/users/alice@example.com", "/users/{id}"),
        ("/login;jsessionid=0A1B2C/next", "/login/next"),
        ("/a=b/k:v/~me/$all/(x)/a,b", "/{id}/{id}/{id}/{id}/{id}/{id}"),
        # What is encoded is not looked into.
        ("/files/my%20notes", "/files/{id}"),
        ("/x/%68%75%6e%74%65%72", "/x/{id}"),
        ("/straße/日本", "/{id}/{id}"),
        ("/" + "/".join("abcdefghijkl"), "/a/b/c/d/e/f/g/h/…"),
        ("/" + "a" * 41, "/{id}"),
        ("//double//", "//double//"),
    ],
)
def test_words_are_shown_and_all_else_is_an_id(given: str, told: str) -> None:
    """A segment that reads like a route's word is shown, and `{id}` stands for each other, and for what follows "token"."""
    assert shown(given) == told


@pytest.mark.parametrize(
    ("attributes", "told"),
    [
        ({"url.full": "https://u:p@h:1/a/b?token=x#y"}, "/a/b"),
        ({"http.url": "http://h/a;x=1#y"}, "/a"),
        ({"url.full": "http://h"}, "/"),
        ({"url.full": "http://h?q=/x"}, "/"),
        ({"http.target": "/a?b=/c"}, "/a"),
        ({"url.path": "/a#b"}, "/a"),
        ({"url.full": 5, "http.target": "/x"}, "/x"),
        ({"http.target": "*"}, ""),
        ({}, ""),
    ],
)
def test_where_a_path_is_read(attributes: dict[str, object], told: str) -> None:
    """A path is that of `url.full` or `http.url`, else `url.path` or `http.target`, without query and fragment."""
    assert path(attributes) == told


def test_keys_as_services_make_them_do_not_survive() -> None:
    """Of keys at random, in each alphabet that services make them of, next to none is taken for a word."""
    dice = random.Random(5)
    alphabets = (
        string.ascii_letters + string.digits,
        string.digits + "abcdef",
        "abcdefghijklmnopqrstuvwxyz234567",
        string.ascii_uppercase,
        string.ascii_letters,
    )
    made = [
        "".join(dice.choice(alphabet) for _ in range(length))
        for alphabet in alphabets
        for length in (16, 20, 24, 32, 40)
        for _ in range(400)
    ]
    made += [base64.urlsafe_b64encode(dice.randbytes(size)).decode() for size in (12, 16, 24, 32) for _ in range(400)]
    kept = [key for key in made if is_word(key)]

    assert len(kept) * 2000 < len(made), kept


@given(st.text(min_size=1, max_size=30))
@example("sk_live_4eC39HqLyjWDarjtT1zdp7dc")
@example("..")
def test_nothing_that_is_encoded_or_strange_survives(secret: str) -> None:
    """Whatever is percent-encoded in a path is not in what is shown, and what is shown is plain ASCII."""
    encoded = quote(secret, safe="")
    told = shown(f"/a/{encoded}/b")

    assert told.isascii() and told.isprintable()
    if encoded != secret:
        assert told == f"/a/{ID}/b"


def requests() -> Export:
    """Six requests to one server, of which those to one path are slow."""
    export = Export()
    for number, (where, took) in enumerate(
        [("/users/1", 10), ("/users/2", 20), ("/slow", 900), ("/slow", 800), ("/key/abc", 5), ("/users/3", 30)]
    ):
        export.get(
            number * 1000, took, http__conn__reused=True, httptrace__body__outcome="complete",
            url__full=f"http://api.test{where}?token=s3cr3t", status=2 if where == "/slow" else 0,
        )  # fmt: skip
    return export


def test_the_slowest_paths_are_shown_in_text_json_and_page() -> None:
    """An origin's paths are told slowest first, with their times, and a request's path beside its origin."""
    report = analyze(read([requests().request]))
    console = Console(width=100, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    with console.file:
        text.render(report, console)
    told = [line.rstrip() for line in console.export_text().splitlines()]
    at = told.index(next(line for line in told if line.startswith("slowest by path")))
    document = json.loads(schema.dumps(report))
    (origin,) = document["origins"]
    drawn = page(report)

    assert told[at : at + 4] == [
        "slowest by path      p50      p95  longest  requests  failed",
        "/slow             796 ms   897 ms   900 ms         2       2",
        "/users/{id}      20.0 ms  29.7 ms  30.0 ms         3",
        "/key/{id}         5.0 ms   5.0 ms   5.0 ms         1",
    ]
    assert "  http://api.test/slow" in told
    assert [(one["path"], one["requests"], one["failed"], one["seconds"]["longest"]) for one in origin["paths"]] == [
        ("/users/{id}", 3, 0, 0.03),
        ("/slow", 2, 2, 0.9),
        ("/key/{id}", 1, 0, 0.005),
    ]
    assert [one["path"] for one in document["slowest"]] == ["/slow", "/slow", "/users/{id}"]
    assert drawn.index("<bdi>/slow</bdi>") < drawn.index("<bdi>/users/{id}</bdi>") < drawn.index("<bdi>/key/{id}</bdi>")
    for shown_somewhere in ("\n".join(told), json.dumps(document), drawn):
        assert "s3cr3t" not in shown_somewhere and "/abc" not in shown_somewhere


def test_paths_are_bounded() -> None:
    """Of one origin 50 paths are counted apart, and the others together."""
    rows = [row(number, 0.0, {"wait": 0.1}) for number in range(100)]
    for number, each in enumerate(rows):
        each.path = f"/{number}"
    (origin,) = analyze(rows).origins

    assert len(origin.paths) == 51
    assert origin.paths["_other"].requests == 50


def test_one_path_needs_no_table() -> None:
    """Where all requests went to one path there is no table of paths: the origin's figures are its."""
    only = row(1, 0.0, {"wait": 0.1})
    only.path = "/x"

    assert "Slowest by path" not in page(analyze([only]))
