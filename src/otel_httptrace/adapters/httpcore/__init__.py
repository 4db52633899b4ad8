"""Hooks on httpcore and httpcore2 that turn what happens into facts for the core."""
