"""The incident stories, as data: in each file those about one thing."""

from ..story import Story
from .connections import CONNECTIONS
from .dialling import DIALLING
from .exchanges import EXCHANGES
from .protocol import PROTOCOL

STORIES: tuple[Story, ...] = tuple(
    sorted((*CONNECTIONS, *DIALLING, *EXCHANGES, *PROTOCOL), key=lambda story: story.number)
)
