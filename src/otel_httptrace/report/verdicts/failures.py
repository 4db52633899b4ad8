# Each failed request is a case of exactly one verdict: the first whose definition
# holds, and "failed" for what no other explains. So nothing that failed goes untold,
# and nothing is told twice.
#
# What one request cannot tell, many can. Timeouts are kept and looked at together:
# those of one process that end at the same instant, however long each had taken, were
# not all of them the servers' (the process stood still); and if none of the younger
# connections and all of the older ones get no answer, it is their age.

"""Why requests failed: one verdict for each."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Iterator
from typing import Any, Final

from ...telemetry import names
from ..ends import Ends
from ..facts import (
    ERRORS,
    MOST_HEADERS,
    MOST_OF_HEAD,
    MOST_OF_LINE,
    READ_TIMEOUTS,
    beyond_limit,
    broke,
    cause,
    closing_place,
    error_type,
    failed_by,
    http2,
    phase_of,
    proxy,
    proxy_set_by,
    queued,
    stood_still,
    timed_out,
)
from ..findings import Finding, Severity, Sure, Thresholds
from ..rows import Row
from ..units import count, listed, seconds, size, spread
from .addresses import Addresses
from .advice import DOING, UNDECODABLE, advice_for
from .definitions import CLOSES_UNSAID, INSTANT, MANY, RAN, REFUSED_IN_TLS, SLOW_BODY, SLOW_READER
from .dialling import FREE_THREADS, NO_THREAD, without_thread
from .kind import Kind
from .seen_there import outside
from .settings import advised, called
from .tally import DIAL, MAX_KEYS, Tally, at_line, errors, named, named_all, statuses, were

#: Timeouts that are looked at together; of more, each is judged alone.
_TOGETHER: Final = 5_000
#: What one of several servers that have one name may do, and the others not.
_AT_AN_ADDRESS: Final = frozenset({"server_slow", "closed_without_answer", "body_failed", "malformed_response"})
#: Seconds of a body that a limit may end: what takes less ends after the same time by chance.
_LIMIT: Final = 1.0
#: Seconds until a packet that was lost is sent again while nothing is known of the way (RFC 6298, section 2.1).
LOST_PACKET: Final = 1.0


class _Failure(Kind):
    """A verdict on failed requests."""

    def what(self, row: Row) -> str:
        phase, why = phase_of(row), cause(row)
        if not phase and not broke(row) and error_type(row) is None and row.status is not None:
            return f"answered with {row.status} after {seconds(row.duration)}"
        error = failed_by(row) + (f" ({why})" if why and why != failed_by(row) else "")
        return f"{error}{f' in {phase}' if phase else ''} after {seconds(row.duration)}"

    def noting(self, row: Row, tally: Tally) -> None:
        tally.note("errors", failed_by(row))
        tally.note("phases", phase_of(row))
        tally.note("causes", cause(row))


def _phases(tally: Tally) -> str:
    doing = [DOING.get(str(phase), str(phase)) for phase, _ in tally.noted("phases").most_common(3)]
    return " or ".join(filter(None, doing))


class ConnectionInherited(_Failure):
    """Story 24."""

    name = "connection_inherited"

    def key(self, row: Row) -> Any:
        return ""

    def noting(self, row: Row, tally: Tally) -> None:
        super().noting(row, tally)
        tally.note("processes", row.source)

    def finding(self, key: Any, tally: Tally) -> Finding:
        processes = len(tally.noted("processes"))
        of = f" of {processes:,} processes" if processes > 1 else ""
        return self.make(
            tally,
            f"{count(tally.count, 'request')}{of} to {named_all(tally.origins)} used a connection that was opened before a fork, "
            "by another process: processes that share a socket read each other's answers",
            "make the client after the fork, in each worker (gunicorn: post_fork, or without --preload; multiprocessing: the "
            "initializer, or the method spawn); answers that came over such a connection may be another request's",
            numbers={"processes": processes},
        )


class ConnectionOfOtherLoop(_Failure):
    """Story 27."""

    name = "connection_of_other_loop"

    def key(self, row: Row) -> Any:
        return ""

    def finding(self, key: Any, tally: Tally) -> Finding:
        return self.make(
            tally,
            f"{count(tally.count, 'request')} to {named_all(tally.origins)} used a connection that was opened in another event loop"
            + (f" ({errors(tally)})" if tally.noted("errors") else ""),
            "make one AsyncClient for each event loop, and close it in that loop; asyncio.run() makes a new loop each time. The "
            "server may have handled the request: look before you repeat it",
        )


class ClientClosedInUse(_Failure):
    """Story 21."""

    name = "client_closed_in_use"

    def key(self, row: Row) -> Any:
        known = row.attributes
        return (known.get(names.CONN_CLOSED_AT), known.get(names.CONN_CLOSED_VIA))

    def finding(self, key: Any, tally: Tally) -> Finding:
        line, via = key
        where = f", {at_line(line, via)}," if line is not None else ""
        return self.make(
            tally,
            f"this program closed its client{where} with {count(tally.count, 'request')} to {named_all(tally.origins)} under way: "
            f"they failed ({errors(tally)}) while {_phases(tally)}",
            "close the client after its requests: wait for the tasks that use it first, or leave its `with` block last; the "
            "server had no part in it",
            line=line,
            via=via,
        )


class TooManyOpenFiles(_Failure):
    """Story 25. Whose connections they are is told by `opened`."""

    name = "too_many_open_files"

    def __init__(self, limits: Thresholds) -> None:
        super().__init__(limits)
        self.clients: Counter[Any] = Counter()
        self.opened: Counter[Any] = Counter()

    def key(self, row: Row) -> Any:
        return ""

    def noting(self, row: Row, tally: Tally) -> None:
        super().noting(row, tally)
        tally.note("sources", row.source)

    def saw(self, row: Row) -> None:
        """A connection was opened; one that was closed with its request holds no descriptor."""
        if names.CONN_CLOSE_REASON not in row.attributes and (row.source in self.opened or len(self.opened) < MAX_KEYS):
            self.opened[row.source] += 1
            self.clients[row.source] += row.attributes.get(names.CONN_OPEN_REASON) == "new_client"

    def finding(self, key: Any, tally: Tally) -> Finding:
        opened = max((self.opened[source] for source in tally.noted("sources")), default=0)
        clients = max((self.clients[source] for source in tally.noted("sources")), default=0)
        held = ""
        if opened:
            held = f"; {count(opened, 'connection')} had been opened before"
            held += f", {clients:,} of them by one more client each" if clients else ""
        return self.make(
            tally,
            f"{count(tally.count, 'request')} to {named_all(tally.origins)} failed: this process has too many open files, and could "
            f"open no socket ({', '.join(str(one) for one, _ in tally.noted('causes').most_common(2))}){held}",
            "share one client, and close those that are not used any more: each keeps its connections open until then"
            if clients * 2 > opened
            else "find what holds the descriptors (ls /proc/PID/fd); limit the pool, or raise the limit (ulimit -n)",
            numbers={"connections": opened, "clients": clients},
        )


class ApplicationFailed(_Failure):
    """Story 20."""

    name = "application_failed"

    def key(self, row: Row) -> Any:
        return (failed_by(row), *closing_place(row))

    def noting(self, row: Row, tally: Tally) -> None:
        super().noting(row, tally)
        tally.note("statuses", row.status)

    def finding(self, key: Any, tally: Tally) -> Finding:
        error, line, via = key
        if error in ERRORS:
            # Its own error: it failed, and is told, too.
            return self.make(
                tally,
                f"{count(tally.count, 'response')} from {named_all(tally.origins)} {were(tally.count)} given up unread, {at_line(line, via)}, "
                f"for {error} of another request passed there",
                f"look at the requests that failed with {error}: what was given up had not failed itself",
                severity=Severity.SLOW,
                line=line,
                via=via,
                numbers={"error": error},
            )
        told, numbers = statuses(tally.noted("statuses"))
        advice = f"look at that line: {error} was raised while the response was in use; the server and the network had done their part"
        if error == "DecodingError":
            advice = UNDECODABLE
        elif error == "HTTPStatusError":
            return self.make(
                tally,
                f"{count(tally.count, 'response')} from {named_all(tally.origins)} had a status of errors ({told}): {error}, "
                f"{at_line(line, via)}, ended the response",
                "look at what was asked for, and at who asked: 401 and 403 are credentials, 404 the URL, 5xx the server; read the body "
                "before raise_for_status(), it says why, and the connection is kept",
                because="the server answered so",
                line=line,
                via=via,
                numbers={
                    "error": error,
                    "statuses": numbers,
                },
            )
        elif via is not None:
            advice = f"look at {via.partition(' in ')[0]}, and tell its maintainers: {error} was raised there while the response was in use"
        return self.make(
            tally,
            f"{count(tally.count, 'request')} to {named_all(tally.origins)} failed in the application: {error}, {at_line(line, via)}, "
            "ended the response; the body itself had not failed",
            advice,
            line=line,
            via=via,
            numbers={"error": error},
        )


class ProcessStalled(_Failure):
    """Story 19."""

    name = "process_stalled"

    def key(self, row: Row) -> Any:
        return ""

    def cost(self, row: Row) -> float:
        return stood_still(row) or row.duration

    def what(self, row: Row) -> str:
        stood = stood_still(row)
        if broke(row) or stood is None:
            return super().what(row)
        return f"the process stood still for {seconds(stood)} of {seconds(row.duration)}"

    def noting(self, row: Row, tally: Tally) -> None:
        super().noting(row, tally)
        tally.note("known", stood_still(row) is not None)
        tally.note("failed", broke(row) or None)

    def together(self, row: Row, spread_of: float) -> None:
        """Count *row*, which ended with others that had taken up to *spread_of* seconds less or more."""
        tally = self.tallies[""]
        tally.add(row, spread_of, f"{failed_by(row)} in {phase_of(row)} after {seconds(row.duration)}, with others")
        self.noting(row, tally)

    def finding(self, key: Any, tally: Tally) -> Finding:
        known, failed = tally.noted("known")[True], tally.noted("failed")[True]
        timed = f" ({errors(tally)})" if failed else ""
        if known:
            how = f"stood still for {seconds(tally.most)} or longer at a time"
        else:
            how = f"seems to have stood still: they ended at the same instants, having taken up to {seconds(tally.most)} more or less"
        return self.make(
            tally,
            f"this process {how}, as {count(tally.count, 'request')} to {named_all(tally.origins)} saw"
            + (f": {failed:,} of them failed{timed} while {_phases(tally)}" if failed else ""),
            "look for a call that blocks the event loop (a synchronous library, time.sleep, heavy computation: asyncio's debug mode "
            "names it), or for a lack of CPU; neither the network nor the server is to blame for these",
            severity=Severity.FAILED if failed else Severity.SLOW,
            sure=None if known == tally.count else Sure.LIKELY,
            because=None
            if known == tally.count
            else "timeouts of requests that began at different times struck at the same instant",
            numbers={"longest": tally.most, "failed": failed},
        )


class ProxyUnreachable(_Failure):
    """Story 31."""

    name = "proxy_unreachable"

    def key(self, row: Row) -> Any:
        return proxy(row)

    def noting(self, row: Row, tally: Tally) -> None:
        super().noting(row, tally)
        tally.note("set_by", proxy_set_by(row))

    def finding(self, key: Any, tally: Tally) -> Finding:
        failures = errors(tally)
        where = next(iter(tally.noted("set_by")), None)
        setting = "look at the proxy, and where it is set: " + {
            None: f"HTTP_PROXY, HTTPS_PROXY or ALL_PROXY in the environment ({advised(tally, 'reads')}), or {called(tally, 'proxies')} in the code",
            "program": "no variable of the environment names it, so by the program (proxy=, mounts=, proxies=, its configuration)",
        }.get(where, f"{where} in the environment names it")
        # A timeout has no cause but itself.
        causes = [str(one) for one, _ in tally.noted("causes").most_common(2) if str(one) not in tally.noted("errors")]
        why = ", ".join(causes)
        refused = "refused" in why or "ECONNREFUSED" in why
        return self.make(
            tally,
            f"the proxy {key} {'refused the connection' if refused else 'does not answer'}: {count(tally.count, 'request')} to "
            f"{named_all(tally.origins)} failed ({': '.join(filter(None, (failures, why)))}) after {spread(tally.least, tally.most)}; the server was never tried",
            f"{setting}; NO_PROXY names servers to reach without it" if where != "program" else setting,
            numbers={"proxy": key, "error": failures, "cause": why or None, "set_by": where},
        )


class _DialTimeout(_Failure):
    """Story 8: one exception, four places.

    A proxy that does not answer CONNECT runs into the read timeout, for httpcore sends that as any other request.
    """

    phase = ""
    doing = ""
    advice = ""

    def cost(self, row: Row) -> float:
        return row.phases.get(self.phase, row.duration)

    def what(self, row: Row) -> str:
        return f"timed out in {self.phase} after {seconds(self.cost(row))}"

    def noting(self, row: Row, tally: Tally) -> None:
        super().noting(row, tally)
        tally.note("proxies", proxy(row))
        tally.measure("timeouts", row.attributes.get(names.TIMEOUT))
        tally.measure("queued", queued(row) if self.phase == "dns" else None)

    def finding(self, key: Any, tally: Tally) -> Finding:
        waited = tally.measures.get("queued")
        held = without_thread(tally)
        advice = FREE_THREADS if held else self.advice
        no_thread = f"; for up to {seconds(waited.most)} {NO_THREAD}" if held and waited is not None else ""
        timeouts = tally.measures.get("timeouts")
        short = timeouts is not None and timeouts.least <= LOST_PACKET
        of = f" of {spread(timeouts.least, timeouts.most)}" if timeouts is not None and short else ""
        through = f" through the proxy {next(iter(tally.noted('proxies')))}" if tally.noted("proxies") else ""
        return self.make(
            tally,
            f"{count(tally.count, 'request')} to {named(key)}{through} ran into {errors(tally)}{of} in the {self.phase} phase ({self.doing}), "
            f"which had taken {spread(tally.least, tally.most)}{no_thread}",
            advice
            + (
                f"; or the timeout is too short: a lost packet is sent again after {LOST_PACKET:g} s, so one is too much"
                if short
                else ""
            ),
            numbers={"phase": self.phase, "longest": tally.most},
        )


class DnsTimeout(_DialTimeout):
    """In the lookup."""

    name, phase, doing = "dns_timeout", "dns", "looking up the name"
    advice = "look at the resolver; the server was never asked"


class ConnectTimeout(_DialTimeout):
    """In the connect."""

    name, phase, doing = "connect_timeout", "connect", "connecting"
    advice = "the address does not answer: a firewall that drops, a wrong address, a server whose backlog is full"


class ProxyTimeout(_DialTimeout):
    """At the proxy."""

    name, phase, doing = "proxy_timeout", "proxy", "talking to the proxy"
    advice = (
        "the proxy does not answer, or cannot reach the server; or its URL begins with https:// and it speaks no TLS itself (most do not: "
        "http://HOST:PORT is the proxy's URL for https requests, too)"
    )


class TlsTimeout(_DialTimeout):
    """In the handshake."""

    name, phase, doing = "tls_timeout", "tls", "TLS handshake"
    advice = "the port is open but does not complete TLS: a plain-text port, an overloaded server, a middlebox"


class Http2Goaway(_Failure):
    """Story 16."""

    name = "http2_goaway"

    def finding(self, key: Any, tally: Tally) -> Finding:
        return self.make(
            tally,
            f"{count(tally.count, 'request')} to {named(key)} failed ({errors(tally)}) as the server retired the HTTP/2 connection "
            "(GOAWAY): a restart, a limit of requests or of age",
            "look at what the server was told then (a deployment, keepalive_requests, max_connection_age); a request that it had "
            "not begun may be repeated",
            numbers={"error": errors(tally)},
        )


class Http2StreamReset(_Failure):
    """Story 16."""

    name = "http2_stream_reset"

    def finding(self, key: Any, tally: Tally) -> Finding:
        codes = [str(one) for one, _ in tally.noted("causes").most_common(3) if str(one).isupper()]
        code = f" ({', '.join(codes)})" if codes else ""
        return self.make(
            tally,
            f"the server {named(key)} reset {count(tally.count, 'HTTP/2 stream')}{code}: {'that request' if tally.count == 1 else 'these requests'} "
            f"failed ({errors(tally)}) while {_phases(tally)}, and the connection lived on",
            "look at the server's log for these requests: it, or a proxy in front of it, gave them up one by one; the connection is not to blame",
            numbers={"codes": codes},
        )


class MalformedResponse(_Failure):
    """Story 17."""

    name = "malformed_response"

    def key(self, row: Row) -> Any:
        return (row.origin, beyond_limit(row))

    def noting(self, row: Row, tally: Tally) -> None:
        super().noting(row, tally)
        tally.measure("bytes", row.attributes.get(names.RESPONSE_BYTES_RECEIVED))
        tally.note("reused", row.attributes.get(names.CONN_REUSED) or None)

    def finding(self, key: Any, tally: Tally) -> Finding:
        origin, beyond = key
        came = tally.measures.get("bytes")
        numbers = {"bytes_received": came.most if came else None, "beyond": beyond or None}
        if beyond:
            most = {
                "head": f"had no end of its headers within {size(MOST_OF_HEAD)}",
                "line": f"had a line of more than {size(MOST_OF_LINE)} in its headers",
                "headers": f"had more than {MOST_HEADERS} headers",
            }[beyond]
            return self.make(
                tally,
                f"{count(tally.count, 'answer')} from {named(origin)} {most}, which is the most that this client reads ({errors(tally)})",
                "look at what the server, or a proxy, puts into the headers (curl -sI URL): cookies that grow in number, policies, links, "
                "what is meant for debugging; no setting of the client raises that limit",
                because="the client gave the answer up at that limit",
                numbers=numbers,
            )
        after = f", after {size(came.most)}" + (" or less" if came.least < came.most else "") if came else ""
        on, advice = (
            "",
            "an illegal header or status line, another protocol on that port, or the rest of an answer before",
        )
        if tally.noted("reused")[True] == tally.count:
            # A server that cannot speak HTTP would have shown that on a new connection.
            on = f", {'each ' if tally.count > 1 else ''}on a connection that had carried another answer"
            advice = (
                "the rest of that answer, if it was longer than it said (its Content-Length, a body with 204, 304 or HEAD), or an illegal "
                "header or status line"
            )
        return self.make(
            tally,
            f"{count(tally.count, 'answer')} from {named(origin)} could not be parsed ({errors(tally)}){after}{on}: what came is no valid head of an HTTP response",
            f"look at what the server sent (the exception's text, or tcpdump): {advice}",
            numbers=numbers,
        )


class UploadStalled(_Failure):
    """Story 22."""

    name = "upload_stalled"

    def cost(self, row: Row) -> float:
        return row.phases.get("send", 0.0) + (row.phases.get("wait", 0.0) if phase_of(row) == "wait" else 0.0)

    def noting(self, row: Row, tally: Tally) -> None:
        super().noting(row, tally)
        tally.measure("unacked", row.attributes.get(names.TCP_UNACKED))
        tally.measure("timeouts", row.attributes.get(names.TIMEOUT))

    def finding(self, key: Any, tally: Tally) -> Finding:
        unacked, timeouts = tally.measures.get("unacked"), tally.measures.get("timeouts")
        kernel = f"; the kernel still had up to {size(unacked.most)} that were not acknowledged" if unacked else ""
        told = f" of {spread(timeouts.least, timeouts.most)}" if timeouts else ""
        return self.make(
            tally,
            f"{count(tally.count, 'request')} to {named(key)} could not be written in time ({errors(tally)}{told}), after "
            f"{spread(tally.least, tally.most)} of sending{kernel}",
            "raise the write timeout (and the read timeout: an upload goes on in the kernel after it is written), send less at a time, or "
            "look at the uplink and at who reads at the other end",
            numbers={"longest": tally.most, "unacked": unacked.most if unacked else None},
        )


class UploadSlow(_Failure):
    """Story 22, where it went well in the end."""

    name = "upload_slow"

    def cost(self, row: Row) -> float:
        return row.phases.get("send", 0.0) + row.phases.get("wait", 0.0)

    def what(self, row: Row) -> str:
        return f"{seconds(row.phases.get('send', 0.0))} to write the request, {seconds(row.phases.get('wait', 0.0))} more to the answer"

    def noting(self, row: Row, tally: Tally) -> None:
        tally.measure("send", row.phases.get("send"))
        tally.measure("unacked", row.attributes.get(names.TCP_UNACKED))

    def finding(self, key: Any, tally: Tally) -> Finding:
        sending, unacked = tally.measures["send"], tally.measures.get("unacked")
        kernel = (
            f"; the kernel still had up to {size(unacked.most)} that were not acknowledged"
            if unacked and unacked.most
            else ""
        )
        slow = "the way up, or who reads at its other end, is slow"
        maker = ""
        if tally.left[SLOW_BODY]:
            slow, maker = (
                f"the way up, who reads at its other end, or {SLOW_BODY.cause}",
                "look at what makes the body; ",
            )
        return self.make(
            tally,
            f"{count(tally.count, 'request')} to {named(key)} took up to {seconds(sending.most)} to be written, and up to "
            f"{seconds(tally.most)} until the answer began{kernel}: {slow}",
            f"{maker}send less at a time or compress it; look at the uplink and at how fast the server reads. What is written last is still on its way "
            "when the wait for the answer begins, so allow the read timeout for that, too",
            numbers={"longest": tally.most, "send": sending.most},
        )


class _Idle(_Failure):
    """Failures that depend on how long a connection had been idle."""

    def __init__(self, limits: Thresholds) -> None:
        super().__init__(limits)
        #: The longest idle time after which a request still went well.
        self.survived: dict[str, float] = {}
        self.well: Counter[str] = Counter()

    def cost(self, row: Row) -> float:
        return float(row.attributes.get(names.CONN_IDLE, 0.0))

    def what(self, row: Row) -> str:
        return f"failed ({error_type(row)}) after {seconds(self.cost(row))} of idleness"


class ConnectionDead(_Idle):
    """Story 18."""

    name = "connection_dead"

    def noting(self, row: Row, tally: Tally) -> None:
        super().noting(row, tally)
        tally.measure("waited", row.phases.get("wait", row.duration))
        tally.measure("retransmits", row.attributes.get(names.TCP_RETRANSMITS))
        tally.note("idle", names.CONN_IDLE in row.attributes)
        tally.note("acknowledged", row.attributes.get(names.TCP_UNACKED) == 0 or None)

    def old(self, row: Row) -> bool:
        """Whether none went well on a connection idle for as long."""
        idle = row.attributes.get(names.CONN_IDLE, 0.0)
        return bool(idle >= self.limits.stale_idle and idle > self.survived.get(row.origin, 0.0))

    def finding(self, key: Any, tally: Tally) -> Finding:
        survived, retransmits = self.survived.get(key, 0.0), tally.measures.get("retransmits")
        if retransmits is not None and not retransmits.most:
            retransmits = None
        idle = tally.noted("idle")[True] == tally.count and tally.least > survived
        advice = (
            "look at the network between: nothing that was sent arrived; shorter timeouts only tell it earlier, TCP keep-alive tells it while "
            "the connection is idle"
        )
        sentence = f"{count(tally.count, 'request')} to {named(key)} got no answer"
        if idle:
            sentence += f" on connections that had been idle for {spread(tally.least, tally.most)}"
            if survived:
                sentence += f", and all others did, after at most {seconds(survived)} of idleness"
            forgot = "a NAT, a firewall or a load balancer had forgotten them"
            between = f" (between {seconds(survived)} and that)" if survived else ""
            advice = f"{advised(tally, 'idle', most=seconds(tally.least))}{between}"
            if tally.noted("acknowledged")[True]:
                forgot = "what acknowledged the requests, a load balancer or a proxy, had forgotten the way on"
                advice += ": this helps whatever forgot them"
            else:
                advice += ", or TCP keep-alive (socket_options of the transport)"
            sentence += f": these connections were dead ({forgot})"
            advice += "; the server's access log tells whether it ever got these requests"
        if retransmits:
            sentence += (
                f"; the kernel sent them again up to {retransmits.most:,.0f} times, and nothing was acknowledged"
            )
        return self.make(
            tally,
            sentence,
            advice,
            because=None
            if retransmits
            else "no request went well on a connection that had been idle for longer, and all on younger ones did",
            seconds=tally.measures["waited"].total,
            numbers={"idle": tally.least, "longest_idle": tally.most, "survived": survived},
        )


class StaleKeepalive(_Idle):
    """Story 6.

    A request is written on a connection that the server is closing just then. It has all the marks of a server's
    failure, but for the idle time.
    """

    name = "stale_keepalive"

    def noting(self, row: Row, tally: Tally) -> None:
        super().noting(row, tally)
        lost = row.other.lost if row.other is not None and self.defined.proven(row, self.limits) else None
        if lost is not None:
            tally.note("told", True)
            tally.measure("there", lost.idle)

    def finding(self, key: Any, tally: Tally) -> Finding:
        if tally.noted("told"):
            return self._told(key, tally)
        survived = self.survived.get(key, 0.0)
        likely = survived <= tally.least
        return self.make(
            tally,
            f"{count(tally.count, 'request')} to {named(key)} failed ({errors(tally)}) on a connection that had been idle for "
            f"{spread(tally.least, tally.most)}: the server, or what lies between, drops idle ones at about "
            f"{seconds(tally.least)}",
            f"{advised(tally, 'idle', most=seconds(tally.least))}: who drops them may be the server, a load balancer or a proxy; or repeat "
            "such requests where they may be repeated",
            # What the server did in that moment no client can see.
            sure=Sure.LIKELY if likely else Sure.POSSIBLE,
            because="no request went well on a connection that had been idle for longer"
            if likely
            else f"but one went well after {seconds(survived)} of idleness",
            seconds=0.0,
            numbers={"idle": tally.least, "longest_idle": tally.most, "survived": survived},
        )

    def _told(self, key: Any, tally: Tally) -> Finding:
        # By the server: of all of them, or of some.
        told, there = tally.noted("told")[True], tally.measures["there"]
        of = "these connections" if told == tally.count else f"{told:,} of these connections"
        return self.make(
            tally,
            f"{count(tally.count, 'request')} to {named(key)} failed ({errors(tally)}) on a connection that had been idle for "
            f"{spread(tally.least, tally.most)}: the server says that its keep-alive timeout closed {of}, after "
            f"{spread(there.least, there.most)}",
            f"{advised(tally, 'idle', most=seconds(there.least))}, or the server's keep-alive (uvicorn: --timeout-keep-alive; gunicorn: "
            "--keep-alive) above that of all its clients; or repeat such requests where they may be repeated",
            sure=None if told == tally.count else Sure.LIKELY,
            because="the server's own timer closed these very connections: it says so of the port that each was opened from"
            if told == tally.count
            else "the server's timer closed some of these connections, and the others look the same",
            seconds=0.0,
            numbers={
                "idle": tally.least,
                "longest_idle": tally.most,
                "survived": self.survived.get(key, 0.0),
                "keepalive": there.least,
                "told": told,
            },
        )


class ClosedWithoutAnswer(_Failure):
    """Story 32."""

    name = "closed_without_answer"

    def __init__(self, limits: Thresholds) -> None:
        super().__init__(limits)
        #: Requests that went well, by server.
        self.well: Counter[str] = Counter()

    def cost(self, row: Row) -> float:
        return row.phases.get("wait", 0.0)

    def noting(self, row: Row, tally: Tally) -> None:
        super().noting(row, tally)
        tally.note("new", names.CONN_IDLE not in row.attributes or None)
        tally.note("connections", row.connection if http2(row) else None)
        tally.note("cut", row.attributes.get(names.TCP_UNACKED, 0) > 0 or None)
        half = row.other.half if row.other is not None else None
        if half is not None:
            tally.note("there", half.close_reason or "no reason")
        if names.TIME_SEND in row.attributes and row.attributes.get(names.TCP_UNACKED, 0) > 0:
            # It may have failed while it was written: httpcore looks for an answer all the same.
            tally.measure("sending", row.phases.get("send", 0.0) + row.phases.get("wait", 0.0))
            tally.note("uploads", True)

    @staticmethod
    def _there(tally: Tally) -> str:
        there = tally.noted("there")
        if not there:
            return ""
        reasons = listed(Counter({reason: many for reason, many in there.items() if reason != "no reason"}))
        return f"; the server has a span of {there.total():,} of them" + (
            f", and says why their connections ended: {reasons}" if reasons else ""
        )

    def finding(self, key: Any, tally: Tally) -> Finding:
        new, shared = tally.noted("new")[True], tally.noted("connections")
        on = ", just opened" if new == tally.count else ", just used" if not new else ""
        # Many streams of HTTP/2 end with one connection.
        together = shared.total() == tally.count > len(shared)
        closed, which = (len(shared), "HTTP/2 connection") if together else (tally.count, "connection")
        failed = f"{count(tally.count, 'request')} on {'it' if closed == 1 else 'them'}" if together else "the requests"
        # What is not acknowledged has not arrived: so nobody had the whole request.
        cut = tally.noted("cut")[True] == tally.count
        at_work = tally.most > self.limits.crossed and not cut
        had = "had not taken in all of them" if cut else "had them in work" if at_work else "had them"
        told = f"{spread(tally.least, tally.most)} after the request was written" if tally.most else "without an answer"
        never = new == tally.count and not at_work and not self.well[key]
        if tally.noted("uploads")[True] == tally.count:
            return self._upload(tally, key, f"{count(closed, which)} to {named(key)} {were(closed)}", on)
        return self.make(
            tally,
            f"{count(closed, which)} to {named(key)} {were(closed)} closed {told}{on}: {failed} failed ({errors(tally)}), "
            f"and the server, or what lies between, {had}{self._there(tally)}",
            "look at the server's log at that moment: a worker that was killed (memory, a worker timeout as gunicorn's --timeout), a crash, a "
            "deployment, or a proxy's own time limit"
            + ("; if the time is always the same, it is a limit that somebody set" if at_work and closed > 1 else "")
            + (
                "; no request to it went well: is it the right port, the right scheme (https), and does anything stand behind that port?"
                if never
                else ""
            )
            + "".join(f"; or {rival.cause}" for rival in (REFUSED_IN_TLS, CLOSES_UNSAID) if tally.left[rival]),
            because="the server had them: it has a span of each"
            if tally.noted("there").total() == tally.count
            else None
            if tally.least > self.limits.crossed or tally.left
            else "the connections had not been idle: no keep-alive time was up",
            numbers={"least": tally.least, "longest": tally.most, "connections": closed},
        )

    def _upload(self, tally: Tally, key: Any, closed: str, on: str) -> Finding:
        sending = tally.measures["sending"]
        slow = sending.least >= self.limits.wait
        limits = "client_body_timeout of nginx, a worker timeout, a load balancer's limit for a request"
        advice = (
            f"the upload took longer than the server, or a proxy, allows ({limits}): look for the limit that is as long as that, and raise it, or "
            "send less at a time; its log tells"
            if slow
            else "look at the server's log at that moment: it refused the upload before it had read it (too large: 413, client_max_body_size; not "
            "allowed: 401, 403), a worker ended, or it was a limit of time"
        )
        if tally.left[CLOSES_UNSAID]:
            advice += f"; or {CLOSES_UNSAID.cause}"
        return self.make(
            tally,
            f"{closed} closed while the request was being sent, after {spread(sending.least, sending.most)} of that{on}: "
            f"{count(tally.count, 'request')} failed ({errors(tally)}), and the server, or what lies between, had not taken in all of "
            f"{'it' if tally.count == 1 else 'them'}",
            advice,
            because="the kernel had bytes of the request that nobody had acknowledged when the connection was closed",
            seconds=sending.total,
            numbers={"least": sending.least, "longest": sending.most, "connections": tally.count},
        )


class TimeBetween(_Failure):
    """Story 46: of both ends durations are compared, never times of day, for their clocks differ."""

    name = "time_between"

    def cost(self, row: Row) -> float:
        return outside(row)

    def what(self, row: Row) -> str:
        return f"waited {seconds(row.phases['wait'])}, of which the server's span has {seconds(self._there(row))}"

    def _there(self, row: Row) -> float:
        return row.phases["wait"] - outside(row)

    def noting(self, row: Row, tally: Tally) -> None:
        tally.note("errors", error_type(row) if broke(row) else None)
        other = row.other
        tally.measure("waited", row.phases["wait"])
        tally.measure("there", self._there(row))
        tally.note("broken", broke(row) or None)
        tally.note("between", (other is not None and other.same is False) or None)
        tally.note("new", row.opened or None)

    def finding(self, key: Any, tally: Tally) -> Finding:
        waited, there = tally.measures["waited"], tally.measures["there"]
        broken, between, new = (tally.noted(kind)[True] for kind in ("broken", "between", "new"))
        one = tally.count == 1
        told = (
            f"{count(tally.count, 'request')} to {named(key)} waited {spread(waited.least, waited.most)} for the response headers, and the "
            f"server's own {'span of it is' if one else 'spans of them are'} {spread(there.least, there.most)}: at least "
            f"{seconds(tally.seconds)} went by outside of {'it' if one else 'them'}"
        )
        told += f"; {broken:,} of them gave up ({errors(tally)})" if broken else ""
        told += f"; something stands between client and server ({between:,} of {tally.count:,})" if between else ""
        return self.make(
            tally,
            told,
            "the handler was quick: look at what comes before it (accept backlog, workers and threads that are all busy, a blocked event "
            "loop, a middleware outside of the instrumentation), at what stands between, and at the network"
            + (
                "; these connections were just opened: a full accept backlog looks like this"
                if new == tally.count
                else ""
            ),
            severity=Severity.FAILED if broken else Severity.SLOW,
            numbers={
                "waited": waited.most,
                "server": there.most,
                "outside": tally.seconds,
                "longest": tally.most,
                "between": between,
                "new": new,
            },
        )


class ServerSlow(_Failure):
    """What story 12 is not: the response began late, or the client stopped waiting for it."""

    name = "server_slow"

    def cost(self, row: Row) -> float:
        return row.phases.get("wait", row.duration)

    def what(self, row: Row) -> str:
        time = seconds(self.cost(row))
        return (
            f"no response headers within {time} ({error_type(row)})"
            if broke(row)
            else f"the response headers took {time}"
        )

    def noting(self, row: Row, tally: Tally) -> None:
        tally.note("errors", error_type(row) if broke(row) else None)
        tally.note("vain", (phase_of(row) == "wait" and broke(row)) or None)
        tally.measure("begun", row.attributes.get(names.RESPONSE_BYTES_RECEIVED) or None)

    def finding(self, key: Any, tally: Tally) -> Finding:
        vain, begun = tally.noted("vain")[True], tally.measures.get("begun")
        sentence = f"{count(tally.count, 'response')} from {named(key)} took up to {seconds(tally.most)} to begin: the request was written, and then "
        if begun is None:
            sentence += "nothing came"
        else:
            sentence += f"up to {size(begun.most)} came that were not yet its headers (a part of them, or an interim response as 103)"
        if vain:
            sentence += f"; {vain:,} of them never did ({errors(tally)})"
        rivals = bool(tally.left)
        return self.make(
            tally,
            sentence,
            "look at the server: the client had done its part"
            if not rivals
            else "look at the server, if the request reached it (its access log tells)",
            severity=Severity.FAILED if vain else Severity.SLOW,
            # Of a request that got no answer nothing tells that it arrived.
            sure=Sure.POSSIBLE if rivals and vain else None,
            numbers={"longest": tally.most, **({"read_timeouts": vain} if vain else {})},
        )


class BodyFailed(_Failure):
    """Story 14."""

    name = "body_failed"

    def key(self, row: Row) -> Any:
        return (row.origin, error_type(row) or "an error")

    def what(self, row: Row) -> str:
        known = row.attributes
        read, whole = known.get(names.BODY_BYTES_READ, 0), known.get(names.HTTP_RESPONSE_BODY_SIZE)
        return f"{error_type(row)} after {size(read)}" + (f" of {size(whole)}" if whole is not None else "")

    def noting(self, row: Row, tally: Tally) -> None:
        super().noting(row, tally)
        known = row.attributes
        tally.note("amounts", (known.get(names.BODY_BYTES_READ, 0), known.get(names.HTTP_RESPONSE_BODY_SIZE)))
        tally.measure("lasted", row.phases.get("receive"))

    def finding(self, key: Any, tally: Tally) -> Finding:
        origin, error = key
        read, whole = next(iter(tally.noted("amounts")), (0, None))
        of = f" of {size(whole)}" if whole is not None else ""
        example = f"after {size(read)}{of}" + (", for one" if tally.count > 1 else "")
        advice = (
            "the status was sent before the failure: look at the server's log at that moment, and at what lies between"
        )
        if tally.left[SLOW_READER]:
            advice = (
                "this program spent most of the time between reads, and a server that cannot send gives up after a while (nginx: send_timeout, "
                "60 s): read the body at once, and do the work with it after that; else look at the server's log at that moment"
            )
        lasted, limit = tally.measures.get("lasted"), ""
        if lasted is not None and tally.count >= MANY and lasted.least >= _LIMIT and lasted.most <= 1.05 * lasted.least:
            # No timeout of the client's is for a whole body.
            limit = f", each {seconds(lasted.least)} after its headers"
            advice = (
                "each broke off after the same time, as by a limit that somebody set: look for one of that length in the server, in a proxy or a "
                "load balancer between (for a whole response, or an idle one); else look at the server's log at these moments"
            )
        if error in READ_TIMEOUTS:
            limit = ""
            advice = "no byte came for as long as the read timeout: look at the server, or allow it more time"
        return self.make(
            tally,
            f"{count(tally.count, 'response')} from {named(origin)} failed half-way ({error}), {example}{limit}",
            advice,
            numbers={"error": error, "bytes_read": read, "size": whole},
        )


class Failed(_Failure):
    """Story 26: what nothing else explains."""

    name = "failed"

    def __init__(self, limits: Thresholds) -> None:
        super().__init__(limits)
        self.requests: Counter[str] = Counter()

    def key(self, row: Row) -> Any:
        return (row.origin, phase_of(row), failed_by(row), cause(row))

    def noting(self, row: Row, tally: Tally) -> None:
        super().noting(row, tally)
        tally.note("proxies", proxy(row))
        tally.note("lines", row.attributes.get(names.BODY_CLOSED_AT))
        tally.note("answered", row.attributes.get(names.BODY_OUTCOME) == "complete" or None)

    def findings(self) -> Iterator[Finding]:
        # One cause, one finding: what failed alike at several servers is told once, and so is what the system, TLS or
        # the resolver said to several clients, each of which has a class of its own for it.
        alike: dict[Any, Tally] = {}
        for (_, phase, error, why), tally in self.tallies:
            said = why is not None and why.isupper() and phase in DIAL and phase != "proxy"
            alike.setdefault((phase, None if said else error, why), Tally()).merge(tally)
        for key, tally in alike.items():
            yield self.finding(key, tally)

    def finding(self, key: Any, tally: Tally) -> Finding:
        phase, error, why = key
        error = error or errors(tally)
        total = sum(self.requests[origin] for origin in tally.origins)
        of = f" of {total:,}" if total >= tally.count else ""
        while_ = f" while {DOING.get(phase, phase)}" if phase else ", before anything was seen of them"
        if not phase and tally.noted("answered")[True] == tally.count:
            while_ = " after an answer had been read to its end"
        because = f" ({why})" if why and why != error else ""
        through = f" through the proxy {next(iter(tally.noted('proxies')))}" if tally.noted("proxies") else ""
        return self.make(
            tally,
            f"{tally.count:,}{of} {'request' if (total or tally.count) == 1 else 'requests'} to {named_all(tally.origins)}{through} failed{while_}: "
            f"{error}{because}",
            advice_for(phase, error, why),
            numbers={"error": error, "cause": why, "phase": phase or None, "requests": total},
        )


class Failures:
    """All failed requests, and those that were too slow to begin: each a case of one verdict.

    Args:
        limits: from where on something is a finding.
        ends: tells what servers say of requests.
        addresses: tells which address of a server requests went to.
    """

    def __init__(self, limits: Thresholds, ends: Ends, addresses: Addresses) -> None:
        self._limits = limits
        self._files = TooManyOpenFiles(limits)
        self._stalled = ProcessStalled(limits)
        self._dead = ConnectionDead(limits)
        self._stale = StaleKeepalive(limits)
        #: Both ask what idle times were survived.
        self._survived = self._stale.survived = self._dead.survived
        closed = ClosedWithoutAnswer(limits)
        closed.well = self._dead.well
        self.requests = 0
        self._failed = Failed(limits)
        self._closed, self._between, self._ends = closed, TimeBetween(limits), ends
        upload = UploadSlow(limits)
        inherited, foreign, server = ConnectionInherited(limits), ConnectionOfOtherLoop(limits), ServerSlow(limits)
        self._server = server
        # What tells most of a cause comes first.
        self._kinds: tuple[Kind, ...] = (
            inherited, foreign, ClientClosedInUse(limits), self._files, ApplicationFailed(limits), self._stalled,
            ProxyUnreachable(limits), DnsTimeout(limits), ConnectTimeout(limits), ProxyTimeout(limits), TlsTimeout(limits),
            Http2Goaway(limits), Http2StreamReset(limits), MalformedResponse(limits), UploadStalled(limits), upload, self._dead,
            self._between, server, self._stale, closed, BodyFailed(limits), self._failed,
        )  # fmt: skip
        for kind in self._kinds:
            if kind.name in _AT_AN_ADDRESS:
                kind.addresses = addresses
        self._addresses = addresses
        self._slow: tuple[Kind, ...] = (inherited, foreign, self._stalled, upload, server)
        #: Timeouts, to be looked at together.
        self._timeouts: list[Row] = []
        #: What the other end can decide, and may still tell of: connections closed, waits that took as long as a
        #: server that is slow, and other waits.
        self._closes: list[Row] = []
        self._slow_ones: list[Row] = []
        self._waits: list[Row] = []

    def seen(self, row: Row) -> None:
        """Any request."""
        self.requests += 1
        if row.origin in self._failed.requests or len(self._failed.requests) < MAX_KEYS:
            self._failed.requests[row.origin] += 1

    def opened(self, row: Row) -> None:
        """A connection was opened."""
        self._files.saw(row)

    def went_well(self, row: Row) -> None:
        """A request got a response."""
        origin, well = row.origin, self._dead.well
        if origin in well or len(well) < MAX_KEYS:
            well[origin] += 1
            idle = row.attributes.get(names.CONN_IDLE)
            if idle is not None and idle > self._survived.get(origin, 0.0):
                self._survived[origin] = idle

    def slow(self, row: Row) -> None:
        """A request that did not fail, and is to be judged by what is known of its connection, or of its wait."""
        for kind in self._slow:
            if kind is self._server and len(self._slow_ones) < _TOGETHER and kind.defined.holds(row, self._limits):
                self._slow_ones.append(row)
                return
            if kind.take(row):
                return

    def waited(self, row: Row) -> None:
        """A request that got its answer, and waited for it."""
        if len(self._waits) < _TOGETHER:
            self._waits.append(row)

    def failed(self, row: Row) -> None:
        """A request that failed."""
        if timed_out(row) and len(self._timeouts) < _TOGETHER:
            self._timeouts.append(row)
        else:
            self._judge(row)

    def _judge(self, row: Row, *, ends: bool = False) -> None:
        # With what the other end knows, once all is there.
        for kind in self._kinds:
            if not ends and kind in (self._stale, self._closed) and len(self._closes) < _TOGETHER:
                if kind.defined.holds(row, self._limits):
                    self._closes.append(row)
                    return
                continue
            # Of one request only the kernel can tell that nothing arrived.
            alone = kind is not self._dead or bool(
                row.attributes.get(names.TCP_UNACKED) and row.attributes.get(names.TCP_RETRANSMITS)
            )
            if alone and kind.take(row):
                return

    def findings(self) -> list[Finding]:
        """What was found, in no order."""
        # More may come: what is kept stays to be looked at again. Rows are the same for all.
        same = (self._timeouts, self._closes, self._slow_ones, self._waits, self._addresses)
        told = copy.deepcopy(self, {id(one): one for one in same})
        told._together()
        return [finding for kind in told._kinds for finding in kind.findings()]

    def _together(self) -> None:
        for rows in (self._slow_ones, self._closes, self._waits, self._timeouts):
            for row in rows:
                row.other = self._ends.of(row)
        for row in self._slow_ones:
            self._server.take(row)
        for row in self._waits:
            self._between.take(row)
        for row in self._closes:
            self._judge(row, ends=True)
        rest = self._stalls(self._timeouts)
        dead, together = self._dead, self._dead.defined.together
        old: dict[str, list[Row]] = {}
        young: Counter[str] = Counter()
        for row in rest:
            if dead.defined.holds(row, self._limits):
                if dead.old(row):
                    old.setdefault(row.origin, []).append(row)
                else:
                    young[row.origin] += 1
        # One may be chance; and a server that leaves younger ones without an answer, too, is not their NAT.
        dead_ones = {
            row.span_id
            for origin, found in old.items()
            if together is not None and together.holds(len(found), dead.well[origin], young[origin])
            for row in found
        }
        for row in rest:
            if row.span_id in dead_ones:
                dead.count(row)
            else:
                self._judge(row, ends=True)

    def _stalls(self, timeouts: list[Row]) -> list[Row]:
        """Count what ended at one instant with others, and hand out the rest."""
        processes: dict[Any, list[Row]] = {}
        rest = []
        for row in timeouts:
            # Where it is known whether the process ran there is nothing to infer.
            if row.timed and stood_still(row) is None and not RAN.holds(row, self._limits):
                processes.setdefault(row.source, []).append(row)
            else:
                rest.append(row)
        for found in processes.values():
            found.sort(key=lambda row: row.end)
            for instant in _instants(found):
                if self._one_cause(instant):
                    durations = [one.duration for one in instant]
                    for one in instant:
                        self._stalled.together(one, max(durations) - min(durations))
                else:
                    rest += instant
        return rest

    def _one_cause(self, instant: list[Row]) -> bool:
        # Requests that began together time out together, and so do the streams of one connection.
        durations = [row.duration for row in instant]
        connections = {row.connection or row.span_id for row in instant}
        together = self._stalled.defined.together
        return together is not None and together.holds(durations, len(connections), self._limits)


def _instants(rows: list[Row]) -> Iterator[list[Row]]:
    """Rows in the order in which they ended, those together that ended at one instant."""
    instant: list[Row] = []
    for row in rows:
        if instant and row.end - instant[-1].end > INSTANT:
            yield instant
            instant = []
        instant.append(row)
    yield instant
