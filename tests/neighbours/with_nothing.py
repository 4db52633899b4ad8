"""No neighbour: what the others are like."""

from exchange import play

play()
