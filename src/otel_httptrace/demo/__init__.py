"""The founding story on real sockets: ``python -m otel_httptrace.demo``."""
