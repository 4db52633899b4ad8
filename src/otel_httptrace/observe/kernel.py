# The kernel knows what nobody else does: whether what was written has arrived. A
# request that waits in vain looks the same whether the server is silent or never
# got it, until one asks how many bytes it has not acknowledged.
#
# Asked once, when something failed or was slow, of a socket that is open still;
# of the answer a few numbers are kept, and neither the socket nor its file
# descriptor. Linux alone tells it so (tcp(7), TCP_INFO; SIOCOUTQ; SIOCINQ, which is FIONREAD), elsewhere
# nothing is known.

"""What Linux says of a TCP connection."""

from __future__ import annotations

import array
import socket
import struct
import sys
from typing import Any, Final

from ..core.evidence import Socket

if sys.platform == "linux":
    import fcntl
    import termios

    #: linux/sockios.h: SIOCOUTQ is TIOCOUTQ.
    _SIOCOUTQ: Final = termios.TIOCOUTQ
    _TCP_INFO: Final = socket.TCP_INFO

#: linux/tcp.h, struct tcp_info, as far as it is read here: `tcpi_retransmits` is byte 2, `tcpi_last_data_sent`
#: and `tcpi_last_data_recv` (milliseconds) are the words at 44 and 52, `tcpi_rtt` (microseconds) that at 68. The
#: structure only ever grew at its end.
_INFO: Final = struct.Struct("=2xB41xI4xI12xI")
#: `tcpi_total_retrans`: packets sent again since the socket was made, so after a connect SYNs.
_RESENT: Final = struct.Struct("=100xI")


def resent(sock: Any) -> int | None:
    """How often the kernel has sent something again on *sock*, since it was made; None if it does not say.

    Args:
        sock: a socket, or what has its methods.

    Raises:
        OSError: the socket was closed meanwhile.
    """
    if sys.platform != "linux" or sock is None or sock.family not in (socket.AF_INET, socket.AF_INET6):
        return None
    info = sock.getsockopt(socket.IPPROTO_TCP, _TCP_INFO, _RESENT.size)
    return int(_RESENT.unpack(info)[0]) if len(info) == _RESENT.size else None


def ask(stream: Any) -> Socket | None:
    """What the kernel says of the socket under a network stream; None if it has nothing to say.

    Args:
        stream: a network stream of the client library: its ``get_extra_info("socket")`` is asked.

    Raises:
        OSError: the socket was closed meanwhile.
    """
    if sys.platform != "linux" or stream is None:
        return None
    sock = stream.get_extra_info("socket")
    if sock is None or sock.family not in (socket.AF_INET, socket.AF_INET6) or sock.fileno() < 0:
        return None
    info = sock.getsockopt(socket.IPPROTO_TCP, _TCP_INFO, _INFO.size)
    unacked, unread = array.array("i", [0]), array.array("i", [0])
    fcntl.ioctl(sock.fileno(), _SIOCOUTQ, unacked)
    fcntl.ioctl(sock.fileno(), termios.FIONREAD, unread)
    if len(info) < _INFO.size:
        return Socket(unacked=unacked[0])
    retransmits, sent, quiet, rtt = _INFO.unpack(info)
    return Socket(unacked[0], retransmits, rtt * 1000 or None, quiet * 1_000_000, unread[0], sent * 1_000_000)
