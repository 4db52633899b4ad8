"""Whatever is read of others, read with what nobody would send."""
