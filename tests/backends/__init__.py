"""Tests on the real programs that `make backends` makes."""
