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
from ..facts import broke, cause, closing_place, error_type, failed_by, phase_of, proxy, stood_still, timed_out
from ..findings import Finding, Severity, Sure, Thresholds
from ..rows import Row
from ..units import count, seconds, size, spread
from .advice import DOING, advice_for
from .definitions import INSTANT, RAN
from .kind import Kind
from .tally import MAX_KEYS, Tally, at_line, named, named_all, were

#: Timeouts that are looked at together; of more, each is judged alone.
_TOGETHER: Final = 5_000


class _Failure(Kind):
    """A verdict on failed requests."""

    def what(self, row: Row) -> str:
        phase, why = phase_of(row), cause(row)
        error = failed_by(row) + (f" ({why})" if why and why != failed_by(row) else "")
        return f"{error}{f' in {phase}' if phase else ''} after {seconds(row.duration)}"

    def noting(self, row: Row, tally: Tally) -> None:
        tally.note("errors", failed_by(row))
        tally.note("phases", phase_of(row))
        tally.note("causes", cause(row))


def _errors(tally: Tally) -> str:
    return " or ".join(str(error) for error, _ in sorted(tally.noted("errors").most_common(4)))


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
            + (f" ({_errors(tally)})" if tally.noted("errors") else ""),
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
            f"they failed ({_errors(tally)}) while {_phases(tally)}",
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
            else "find what holds the descriptors (ls /proc/PID/fd); limit the pool (max_connections), or raise the limit (ulimit -n)",
            numbers={"connections": opened, "clients": clients},
        )


class ApplicationFailed(_Failure):
    """Story 20."""

    name = "application_failed"

    def key(self, row: Row) -> Any:
        return (failed_by(row), *closing_place(row))

    def finding(self, key: Any, tally: Tally) -> Finding:
        error, line, via = key
        advice = f"look at that line: {error} was raised while the response was in use; the server and the network had done their part"
        if error == "DecodingError":
            advice = (
                "the body is not what its Content-Encoding says: look at what sends it (a proxy that changes one and not the other), "
                "or ask for another encoding (Accept-Encoding: identity)"
            )
        elif error == "HTTPStatusError":
            advice = (
                "look at the statuses; read the body before raise_for_status(), it says why, and the connection is kept"
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
        timed = f" ({_errors(tally)})" if failed else ""
        if known:
            how = f"stood still for up to {seconds(tally.most)}"
        else:
            how = f"seems to have stood still: they ended at the same instants, having taken up to {seconds(tally.most)} more or less"
        return self.make(
            tally,
            f"this process {how}, with {count(tally.count, 'request')} to {named_all(tally.origins)} under way"
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

    def finding(self, key: Any, tally: Tally) -> Finding:
        errors = _errors(tally)
        # A timeout has no cause but itself.
        causes = [str(one) for one, _ in tally.noted("causes").most_common(2) if str(one) not in tally.noted("errors")]
        why = ", ".join(causes)
        refused = "refused" in why or "ECONNREFUSED" in why
        return self.make(
            tally,
            f"the proxy {key} {'refused the connection' if refused else 'does not answer'}: {count(tally.count, 'request')} to "
            f"{named_all(tally.origins)} failed ({': '.join(filter(None, (errors, why)))}) after {spread(tally.least, tally.most)}; the server was never tried",
            "look at the proxy, and where it is set: HTTP_PROXY, HTTPS_PROXY or ALL_PROXY in the environment (httpx reads them "
            "unless trust_env=False), or proxy= in the code; NO_PROXY names servers to reach without it",
            numbers={"proxy": key, "error": errors, "cause": why or None},
        )


class _DialTimeout(_Failure):
    """Story 8: one exception, four places.

    A proxy that does not answer CONNECT runs into the read timeout, for httpcore sends that as any other request.
    """

    phase = ""
    doing = ""
    advice = ""

    def key(self, row: Row) -> Any:
        return (row.origin, error_type(row))

    def cost(self, row: Row) -> float:
        return row.phases.get(self.phase, row.duration)

    def what(self, row: Row) -> str:
        return f"timed out in {self.phase} after {seconds(self.cost(row))}"

    def noting(self, row: Row, tally: Tally) -> None:
        super().noting(row, tally)
        tally.note("proxies", proxy(row))

    def finding(self, key: Any, tally: Tally) -> Finding:
        origin, error = key
        through = f" through the proxy {next(iter(tally.noted('proxies')))}" if tally.noted("proxies") else ""
        return self.make(
            tally,
            f"{count(tally.count, 'request')} to {named(origin)}{through} ran into {error} in the {self.phase} phase ({self.doing}), "
            f"which had taken {spread(tally.least, tally.most)}",
            self.advice,
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
    advice = "the proxy does not answer, or cannot reach the server"


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
            f"{count(tally.count, 'request')} to {named(key)} failed ({_errors(tally)}) as the server retired the HTTP/2 connection "
            "(GOAWAY): a restart, a limit of requests or of age",
            "look at what the server was told then (a deployment, keepalive_requests, max_connection_age); a request that it had "
            "not begun may be repeated",
            numbers={"error": _errors(tally)},
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
            f"failed ({_errors(tally)}) while {_phases(tally)}, and the connection lived on",
            "look at the server's log for these requests: it, or a proxy in front of it, gave them up one by one; the connection is not to blame",
            numbers={"codes": codes},
        )


class MalformedResponse(_Failure):
    """Story 17."""

    name = "malformed_response"

    def noting(self, row: Row, tally: Tally) -> None:
        super().noting(row, tally)
        tally.measure("bytes", row.attributes.get(names.RESPONSE_BYTES_RECEIVED))

    def finding(self, key: Any, tally: Tally) -> Finding:
        came = tally.measures.get("bytes")
        after = f", after {size(came.most)}" + (" or less" if came.least < came.most else "") if came else ""
        return self.make(
            tally,
            f"{count(tally.count, 'answer')} from {named(key)} could not be parsed ({_errors(tally)}){after}: what came is no valid head of an HTTP response",
            "look at what the server sent (the exception's text, or tcpdump): an illegal header or status line, another protocol on that port, "
            "or the rest of an answer before",
            numbers={"bytes_received": came.most if came else None},
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
            f"{count(tally.count, 'request')} to {named(key)} could not be written in time ({_errors(tally)}{told}), after "
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
        return self.make(
            tally,
            f"{count(tally.count, 'request')} to {named(key)} took up to {seconds(sending.most)} to be written, and up to "
            f"{seconds(tally.most)} until the answer began{kernel}: the way up, or who reads at its other end, is slow",
            "send less at a time or compress it; look at the uplink and at how fast the server reads. What is written last is still on its way "
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
            advice = f"set keepalive_expiry below {seconds(tally.least)}{between}"
            if tally.noted("acknowledged")[True]:
                forgot = "what acknowledged the requests, a load balancer or a proxy, had forgotten the way on"
                advice += ": it works whoever forgets them"
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

    def finding(self, key: Any, tally: Tally) -> Finding:
        survived = self.survived.get(key, 0.0)
        likely = survived <= tally.least
        return self.make(
            tally,
            f"{count(tally.count, 'request')} to {named(key)} failed ({_errors(tally)}) on a connection that had been idle for "
            f"{spread(tally.least, tally.most)}: the server drops idle ones at about {seconds(tally.least)}",
            f"set keepalive_expiry below {seconds(tally.least)}, which is the server's keep-alive, or repeat such requests "
            "where they may be repeated",
            # What the server did in that moment no client can see.
            sure=Sure.LIKELY if likely else Sure.POSSIBLE,
            because="no request went well on a connection that had been idle for longer"
            if likely
            else f"but one went well after {seconds(survived)} of idleness",
            seconds=0.0,
            numbers={"idle": tally.least, "longest_idle": tally.most, "survived": survived},
        )


class ClosedWithoutAnswer(_Failure):
    """Story 32."""

    name = "closed_without_answer"

    def cost(self, row: Row) -> float:
        return row.phases.get("wait", 0.0)

    def noting(self, row: Row, tally: Tally) -> None:
        super().noting(row, tally)
        tally.note("new", names.CONN_IDLE not in row.attributes or None)
        tally.note("cut", row.attributes.get(names.TCP_UNACKED, 0) > 0 or None)

    def finding(self, key: Any, tally: Tally) -> Finding:
        new = tally.noted("new")[True]
        on = ", just opened" if new == tally.count else ", just used" if not new else ""
        # What is not acknowledged has not arrived: so nobody had the whole request.
        cut = tally.noted("cut")[True] == tally.count
        at_work = tally.most > self.limits.crossed and not cut
        had = "had not taken in all of them" if cut else "had them in work" if at_work else "had them"
        told = f"{spread(tally.least, tally.most)} after the request was written" if tally.most else "without an answer"
        return self.make(
            tally,
            f"{count(tally.count, 'connection')} to {named(key)} {were(tally.count)} closed {told}{on}: the requests failed ({_errors(tally)}), "
            f"and the server, or what lies between, {had}",
            "look at the server's log at that moment: a worker that was killed (memory, a worker timeout as gunicorn's --timeout), a crash, a "
            "deployment, or a proxy's own time limit"
            + ("; is the time always the same, then it is somebody's limit" if at_work and tally.count > 1 else ""),
            numbers={"least": tally.least, "longest": tally.most},
        )


class ServerSlow(_Failure):
    """What story 12 is not: the response began late, or the client stopped waiting for it."""

    name = "server_slow"

    def cost(self, row: Row) -> float:
        return row.phases.get("wait", row.duration)

    def what(self, row: Row) -> str:
        time = seconds(self.cost(row))
        return f"no response headers within {time} (ReadTimeout)" if broke(row) else f"the response headers took {time}"

    def noting(self, row: Row, tally: Tally) -> None:
        tally.note("vain", (phase_of(row) == "wait" and broke(row)) or None)

    def finding(self, key: Any, tally: Tally) -> Finding:
        vain = tally.noted("vain")[True]
        sentence = (
            f"{count(tally.count, 'response')} from {named(key)} took up to {seconds(tally.most)} to begin: the request was written, and then "
            "nothing came"
        )
        if vain:
            sentence += f"; {vain:,} of them never did (ReadTimeout)"
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

    def finding(self, key: Any, tally: Tally) -> Finding:
        origin, error = key
        read, whole = next(iter(tally.noted("amounts")), (0, None))
        of = f" of {size(whole)}" if whole is not None else ""
        example = f"after {size(read)}{of}" + (", for one" if tally.count > 1 else "")
        advice = (
            "the status was sent before the failure: look at the server's log at that moment, and at what lies between"
        )
        if error == "ReadTimeout":
            advice = "no byte came for as long as the read timeout: look at the server, or allow it more time"
        return self.make(
            tally,
            f"{count(tally.count, 'response')} from {named(origin)} failed half-way ({error}), {example}",
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

    def findings(self) -> Iterator[Finding]:
        # One cause, one finding: what failed alike at several servers is told once.
        alike: dict[Any, Tally] = {}
        for key, tally in self.tallies:
            alike.setdefault(key[1:], Tally()).merge(tally)
        for key, tally in alike.items():
            yield self.finding(key, tally)

    def finding(self, key: Any, tally: Tally) -> Finding:
        phase, error, why = key
        total = sum(self.requests[origin] for origin in tally.origins)
        of = f" of {total:,}" if total >= tally.count else ""
        while_ = f" while {DOING.get(phase, phase)}" if phase else ", before anything was seen of them"
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
    """

    def __init__(self, limits: Thresholds) -> None:
        self._limits = limits
        self._files = TooManyOpenFiles(limits)
        self._stalled = ProcessStalled(limits)
        self._dead = ConnectionDead(limits)
        self._stale = StaleKeepalive(limits)
        #: Both ask what idle times were survived.
        self._survived = self._stale.survived = self._dead.survived
        self.requests = 0
        self._failed = Failed(limits)
        upload = UploadSlow(limits)
        inherited, foreign, server = ConnectionInherited(limits), ConnectionOfOtherLoop(limits), ServerSlow(limits)
        # What tells most of a cause comes first.
        self._kinds: tuple[Kind, ...] = (
            inherited, foreign, ClientClosedInUse(limits), self._files, ApplicationFailed(limits), self._stalled,
            ProxyUnreachable(limits), DnsTimeout(limits), ConnectTimeout(limits), ProxyTimeout(limits), TlsTimeout(limits),
            Http2Goaway(limits), Http2StreamReset(limits), MalformedResponse(limits), UploadStalled(limits), upload, self._dead,
            server, self._stale, ClosedWithoutAnswer(limits), BodyFailed(limits), self._failed,
        )  # fmt: skip
        self._slow: tuple[Kind, ...] = (inherited, foreign, self._stalled, upload, server)
        #: Timeouts, to be looked at together.
        self._timeouts: list[Row] = []

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
            if kind.take(row):
                return

    def failed(self, row: Row) -> None:
        """A request that failed."""
        if timed_out(row) and len(self._timeouts) < _TOGETHER:
            self._timeouts.append(row)
        else:
            self._judge(row)

    def _judge(self, row: Row) -> None:
        for kind in self._kinds:
            # Of one request only the kernel can tell that nothing arrived.
            alone = kind is not self._dead or bool(
                row.attributes.get(names.TCP_UNACKED) and row.attributes.get(names.TCP_RETRANSMITS)
            )
            if alone and kind.take(row):
                return

    def findings(self) -> list[Finding]:
        """What was found, in no order."""
        # More may come: what is kept stays to be looked at again.
        told = copy.deepcopy(self)
        told._together()
        return [finding for kind in told._kinds for finding in kind.findings()]

    def _together(self) -> None:
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
                self._judge(row)

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
