"""The incident stories, as data: in each file those about one thing."""

from ..servers import ServerStory
from ..story import Story
from .connections import CONNECTIONS
from .dialling import DIALLING
from .exchanges import EXCHANGES
from .process import PROCESS
from .protocol import PROTOCOL
from .servers import SERVERS

STORIES: tuple[Story, ...] = tuple(
    sorted((*CONNECTIONS, *DIALLING, *EXCHANGES, *PROTOCOL, *PROCESS), key=lambda story: story.number)
)

#: Those that a server tells.
SERVER_STORIES: tuple[ServerStory, ...] = SERVERS
