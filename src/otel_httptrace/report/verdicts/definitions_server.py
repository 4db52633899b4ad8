# Verdicts on what servers tell, whoever their clients are. Who closed a connection
# is known there, so most of these leave no doubt about that; why a client did so only
# the client knows, and what is behind an address nobody.

"""What each verdict on a server's connections asks of a request that it served."""

from __future__ import annotations

from typing import Final

from ...server import names as served
from ..findings import Severity
from .conditions import absent, either, is_, no, that
from .definitions import Definition, Rival, Together
from .seen_there import HTTP_1_0, LOST_BY_CLIENT, LOST_BY_TIMEOUT

#: One of so many connections of a peer may have carried a second request, where nearly all are said to carry one.
NEARLY_ALL: Final = 10
#: So many times as many connections as were open at a time: fewer may be no more than a burst.
NO_BURST: Final = 3

_NOTHING: Final = that("nothing that is recorded", lambda row: False)
_FIRST: Final = is_(served.CONN_REUSED, False)
_ENDED_HERE: Final = is_(
    served.CONN_CLOSE_REASON, "worker_sync", "connection_close", "max_requests", "shutdown", "error", "goaway", "upgraded",
)  # fmt: skip

SERVERS: Final = (
    Definition(
        "server_failed", (45,), Severity.FAILED, (is_(served.CONN_CLOSE_REASON, "error"),),
        "the application raised an exception, and the server closed the connection for it",
        number="statuses",
    ),
    Definition(
        "clients_left", (44,), Severity.SLOW, (is_(served.CONN_CLOSE_REASON, "client_left"),),
        "the client's end of the stream, or a reset, came while a request was under way",
        (Rival("what stands between closed it (a proxy's or load balancer's time limit)", _NOTHING),),
        number="left", within="of one peer",
    ),
    Definition(
        "clients_do_not_reuse", (41,), Severity.WASTE,
        (_FIRST, no(_ENDED_HERE)),
        "the peer's connections carried one request each, and it was the peer that closed them",
        (
            Rival("this server's keep-alive timeout closed them, before the peer came again", LOST_BY_CLIENT, LOST_BY_TIMEOUT),
            Rival("it is told by the client's address and port, which something may have rewritten", absent(served.CONN_INFERRED)),
            Rival("many clients behind one address (a NAT, a proxy), each of which came once", _NOTHING),
        ),
        number="peer_connections", within="of one peer",
        together=Together(
            lambda limits: f"and no more than one in {NEARLY_ALL} of that peer's connections is of another kind or carried another "
            f"request, and they are more than {NO_BURST} times as many as waited for their first answer at a time",
            lambda single, again, connections, at_once: again * NEARLY_ALL <= connections
            and (connections - single) * NEARLY_ALL <= connections
            and single > NO_BURST * at_once,
        ),
    ),
    Definition(
        "server_keeps_none", (43,), Severity.WASTE, (is_(served.CONN_CLOSE_REASON, "worker_sync", "connection_close"),),
        "this server closes every connection after its first response",
        (
            Rival(
                "the clients asked for it: Connection: close",
                either(is_(served.CONN_CLOSE_REASON, "worker_sync"), HTTP_1_0),
            ),
        ),
        number="peer_connections", within="of one server",
        together=Together(
            lambda limits: "and no request of that server came on a connection that had carried another",
            lambda reused: not reused,
        ),
    ),
    Definition(
        "keepalive_timeout_closes", (42,), Severity.WASTE, (LOST_BY_TIMEOUT,),
        "the server's own timer closed them, and the peer came again",
        number="reopened", within="of one peer",
    ),
    Definition(
        "server_retires", (45,), Severity.WASTE, (is_(served.CONN_CLOSE_REASON, "max_requests", "shutdown"),),
        "the server said so",
        number="reopened", within="of one server",
    ),
)  # fmt: skip
"""What a served request may be a case of: any number of them."""
