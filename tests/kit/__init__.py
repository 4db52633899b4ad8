"""What the tests are written with: scripted servers, one client for all flavours, and what was emitted."""
