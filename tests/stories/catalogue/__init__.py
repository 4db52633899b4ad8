"""The incident stories, as data: in each file those about one thing."""

from ..story import Story
from .connections import CONNECTIONS
from .dialling import DIALLING
from .exchanges import EXCHANGES

STORIES: tuple[Story, ...] = tuple(sorted((*CONNECTIONS, *DIALLING, *EXCHANGES), key=lambda story: story.number))
