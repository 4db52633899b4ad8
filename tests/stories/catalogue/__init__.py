"""The incident stories, as data: in each file those about one thing."""

from ..story import Story
from .connections import CONNECTIONS
from .dialling import DIALLING
from .exchanges import EXCHANGES
from .process import PROCESS
from .protocol import PROTOCOL

STORIES: tuple[Story, ...] = tuple(
    sorted((*CONNECTIONS, *DIALLING, *EXCHANGES, *PROTOCOL, *PROCESS), key=lambda story: story.number)
)
