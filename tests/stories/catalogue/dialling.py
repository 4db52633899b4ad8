"""Connections that take long to come, or do not come: the resolver, addresses, TLS."""

from __future__ import annotations

import socket
from functools import partial

from kit.server import answer

from otel_httptrace.report.findings import Sure

from .. import worlds
from ..story import SOME, AtLeast, Case, Found, Guide, Search, Story, scaled, slowest

DIALLING = (
    Story(
        7,
        "Every call takes 5 s, but only in the cluster",
        "{ span.httptrace.time.dns > $dns }",
        "`http.dns`: the name, as it was asked for",
        "Look at the resolver: search domains (ndots), a server that does not answer.",
        (
            Case(
                "The resolver takes 0.4 s for the name.",
                "price",
                partial(worlds.name, answer(), 0.4, "127.0.0.1"),
                "200\n" * 3,
                Found(
                    "dns_slow",
                    1,
                    numbers={"name": "prices.test", "longest": AtLeast(0.4), "lookups": 1},
                    sure=Sure.LIKELY,
                ),
                arguments=("5",),
                thresholds=scaled(dns=0.3),
                runs=SOME,
                finds=1,
                says=r"the lookup took \d+ ms of that",
            ),
            Case(
                "The resolver fails after 0.4 s.",
                "price",
                partial(worlds.no_name, 0.4),
                "ConnectError\n",
                Found("failed", 1, numbers={"phase": "dns", "cause": "EAI_AGAIN"}),
                also=("dns_slow",),
                arguments=("5",),
                thresholds=scaled(dns=0.3),
                finds=1,
                says=r"^Looking up prices\.test failed after \d+ ms: ConnectError \(EAI_AGAIN\)",
            ),
        ),
        (
            Case(
                "The name is there at once, and the connect takes a second.",
                "price",
                partial(worlds.slow_to_accept, 0.3),
                "200\n" * 3,
                arguments=("5",),
                # A connect that takes so long has a verdict of its own: tests/report/test_retries.py.
                thresholds=scaled(dns=0.3, connect=10.0),
                runs=SOME,
            ),
        ),
        guide=Guide(
            (
                "slow: every call takes 5 s, but only in the cluster",
                "slow: some calls take 5 s or 10 s longer, nearly to the millisecond",
            ),
            Search("", "http.dns", "dns"),
            (slowest("dns_lookup_duration_seconds", "le, dns_question_name", "$dns"),),
            "The child span `http.dns` is nearly the whole request; `http.connect` and `http.tls` beside it are short. It has the "
            "name (`dns.question.name`), the answer (`dns.answers`) or `error.type`: `try_again` and `timed_out` are the resolver's "
            "fault, `host_not_found` is the name's.",
            "A resolver of /etc/resolv.conf did not answer: after 5 s glibc asks the next, or again. In Kubernetes `ndots:5` makes "
            "five questions of one, each with another search domain, before the name itself is asked for.",
            "`ndots:1`, or a dot at the end of the name; a cache on the node. Fewer connections mean fewer lookups: see story 1.",
            kept=True,
        ),
    ),
    Story(
        8,
        "ConnectTimeout or ConnectError, but which part of it?",
        '{ span.httptrace.failed_phase =~ "dns|connect|proxy|tls" }',
        "`httptrace.failed_phase`, `error.type`",
        "dns: the resolver, or the name. connect: the network, a firewall, a server that is down or overloaded. "
        "tls: what listens there. proxy: the proxy.",
        (
            Case(
                "The resolver does not answer in time.",
                "price",
                partial(worlds.name, answer(), 1.2, "127.0.0.1"),
                "ConnectTimeout\n",
                Found("dns_timeout", 1, numbers={"phase": "dns", "longest": AtLeast(0.2)}),
                arguments=("0.3",),
                runs=("httpx asyncio", "httpx2 trio"),
                finds=1,
                search=Search("httptrace.failed_phase=dns"),
                says=r"^Looking up prices\.test failed after .+: ConnectTimeout; the timeout was 300 ms",
            ),
            Case(
                "Nobody answers the connect.",
                "price",
                worlds.unreachable,
                "ConnectTimeout\n",
                Found("connect_timeout", 1, numbers={"phase": "connect", "longest": AtLeast(0.2)}),
                arguments=("0.3",),
                runs=SOME,
                finds=1,
                says=r"^Connecting to 127\.0\.0\.1:\d+ failed after .+: ConnectTimeout; the timeout was 300 ms",
            ),
            Case(
                "The proxy accepts, and never answers: that is a ReadTimeout, before there was anything to read.",
                "download",
                worlds.silent_proxy,
                "ReadTimeout after 0 bytes\n",
                Found("proxy_timeout", 1, numbers={"phase": "proxy", "longest": AtLeast(0.2)}),
                arguments=("0", "1"),
                runs=SOME,
                finds=1,
                search=Search("httptrace.failed_phase=proxy"),
                says=r"^The handshake with the proxy 127\.0\.0\.1:\d+ failed after .+: ReadTimeout",
            ),
            Case(
                "The server accepts, and never says a word of TLS.",
                "price",
                worlds.silent,
                "ConnectTimeout\n",
                Found("tls_timeout", 1, numbers={"phase": "tls", "longest": AtLeast(0.2)}),
                arguments=("1",),
                runs=SOME,
                finds=1,
                search=Search("httptrace.failed_phase=tls"),
                says=r"^The TLS handshake with https://127\.0\.0\.1:\d+ failed after .+: ConnectTimeout",
            ),
        ),
        (
            Case(
                "The connection is refused at once.",
                "price",
                worlds.refused,
                "ConnectError\n",
                Found("failed", 1, numbers={"phase": "connect", "cause": "ECONNREFUSED"}),
                arguments=("0.3",),
                runs=SOME,
                finds=1,
            ),
            Case(
                "There is no such name, as the resolver says at once.",
                "price",
                partial(worlds.no_name, 0, socket.EAI_NONAME),
                "ConnectError\n",
                Found("failed", 1, numbers={"phase": "dns", "cause": "EAI_NONAME"}),
                arguments=("0.3",),
                runs=SOME,
                finds=1,
                search=Search("httptrace.failed_phase=dns"),
            ),
            Case(
                "The connection is there, and the answer is late.",
                "price",
                partial(worlds.serving, worlds.after(0.5, answer())),
                "200\n" * 3,
                arguments=("0.3",),
            ),
        ),
        guide=Guide(
            (
                "fails: `ConnectTimeout`, and it is not clear what timed out",
                'fails: `ConnectError`, "Connection refused"',
                'fails: `ConnectError`, "Name or service not known", "No address associated with hostname"',
                "fails: `ReadTimeout` before anything was sent, through a proxy",
            ),
            Search("httptrace.failed_phase=connect"),
            (
                'sum by (server_address, httptrace_failed_phase) (rate(httptrace_requests_total{job="$service", '
                'httptrace_failed_phase=~"dns|connect|proxy|tls"}[5m]))',
                'sum by (httptrace_failed_phase, error_type) (rate(traces_span_metrics_calls_total{job="$service", '
                'span_kind="SPAN_KIND_CLIENT", httptrace_failed_phase=~"dns|connect|proxy|tls"}[5m]))',
            ),
            "`httptrace.failed_phase` says where it struck: `dns`, `connect`, `proxy` or `tls`. The times of the phases before are "
            "there too. `ConnectTimeout` (behind a proxy also `ReadTimeout`): the failed phase is about as long as the timeout. "
            "`ConnectError`: somebody said no, mostly at once, and `error.type` of the child span is more exact: on `http.connect` "
            "`connection_refused` if nothing listens on that port, on `http.dns` `host_not_found` if there is no such name. In the "
            "phase `tls` it is mostly the certificate. `ProxyError`: the proxy refused.",
            "httpx has one timeout for all that it takes to connect, and the exception does not say which part it was. Async "
            "clients apply it to the lookup too; a sync client waits for the resolver, however long that takes (story 7). A "
            "connection that is refused: the server is down or restarting, or it is the wrong port. An unknown name: a typing "
            "error, a search domain, a service that is not there any more.",
            "The same timeout in all phases of all servers: look at this host's CPU first.",
            "Without an error it was given up by the caller: story 13. What is refused at once is `failed` in the report, with its cause.",
            kept=True,
        ),
    ),
    Story(
        10,
        "Calls stall, where a host has addresses of both families",
        '{ name = "http.connect" && duration > ${fallback}s && span.network.type = "ipv4" }',
        "`dns.answers` of `http.dns` beside it: it begins with an IPv6 address",
        "Mend the way to the first address, or take it out of DNS.",
        (
            Case(
                "Nobody answers at the IPv6 address, the IPv4 one works.",
                "price",
                partial(worlds.addresses, "::1", "127.0.0.1", silent=True),
                "200\n" * 3,
                Found(
                    "address_fallback",
                    1,
                    numbers={"first": "::1", "won": "127.0.0.1", "longest": AtLeast(0.25)},
                    sure=Sure.LIKELY,
                ),
                arguments=("0.6",),
                runs=("httpx sync", "httpx asyncio"),
                finds=1,
                says=r"connecting took \d+ ms of that",
            ),
        ),
        (
            Case(
                "The IPv6 address refuses at once.",
                "price",
                partial(worlds.addresses, "::1", "127.0.0.1"),
                "200\n" * 3,
                arguments=("0.6",),
                runs=("httpx sync", "httpx asyncio"),
            ),
            Case(
                "The name has one address, and it works.",
                "price",
                partial(worlds.addresses, "127.0.0.1"),
                "200\n" * 3,
                arguments=("0.6",),
                runs=("httpx sync",),
            ),
        ),
        guide=Guide(
            (
                "slow: calls stall for the connect timeout, or for 250 ms, and then work",
                "slow: only where a host has IPv6 and IPv4 addresses",
            ),
            Search("network.type=ipv4", "http.connect", "fallback"),
            (
                slowest(
                    "traces_span_metrics_duration_seconds",
                    "le",
                    "$fallback",
                    'span_name="http.connect", span_kind="SPAN_KIND_INTERNAL"',
                ),
            ),
            "`http.connect` ended on an IPv4 address (`network.peer.address`) and took long. `dns.answers` of `http.dns` beside it "
            "begins with an IPv6 address: that was tried first, and did not answer.",
            "The host, or the network between, drops IPv6. asyncio and trio try the next address after 250 ms; the sync client only "
            "after the connect timeout.",
            "",
            "A slow connect to a far or busy server over IPv4 is found too, hence the look at `dns.answers`. PromQL does not even "
            "know the family.",
        ),
    ),
    Story(
        11,
        "TLS is slow since the certificate was changed",
        '{ name = "http.tls" && duration > ${tls}s }',
        "`tls.protocol.version`, `tls.resumed`",
        "Keep connections; look at the chain, at OCSP, at the server's load.",
        (
            Case(
                "A handshake takes 0.4 s.",
                "price",
                partial(worlds.tls, 0.4, answer()),
                "200\n" * 3,
                Found(
                    "tls_slow",
                    1,
                    numbers={"longest": AtLeast(0.3), "details": "version 1.3, not resumed"},
                    sure=Sure.LIKELY,
                ),
                arguments=("5",),
                thresholds=scaled(tls=0.3),
                runs=SOME,
                finds=1,
                says=r"the TLS handshake took \d+ ms of that",
            ),
        ),
        (
            Case(
                "The handshake is quick, and answers on the connection take 0.4 s.",
                "price",
                partial(worlds.tls, 0, worlds.after(0.4, answer())),
                "200\n" * 3,
                arguments=("5",),
                thresholds=scaled(tls=0.3),
                runs=("httpx sync",),
            ),
        ),
        guide=Guide(
            ("slow: since a certificate or a load balancer was changed, on new connections only",),
            Search("", "http.tls", "tls"),
            (
                slowest(
                    "traces_span_metrics_duration_seconds",
                    "le",
                    "$tls",
                    'span_name="http.tls", span_kind="SPAN_KIND_INTERNAL"',
                ),
            ),
            "The child span `http.tls` is long, `http.connect` beside it is short: so it is not the network. "
            "`tls.protocol.version`, `tls.cipher` and `tls.resumed` are what was agreed upon.",
            "The server is short of CPU for handshakes, its chain got long or its key large, or it asks somebody else first "
            "(OCSP, a client certificate).",
            "Reused connections have no handshake: `http.conn.reused` = `true` on most requests makes this a matter of the first.",
        ),
    ),
)
