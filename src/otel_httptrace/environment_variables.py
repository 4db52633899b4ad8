"""The environment variables this package reads, for ``opentelemetry-instrument --help``.

Each is the counterpart of a keyword of `HTTPTraceInstrumentor.instrument`; the
keyword wins.
"""

OTEL_PYTHON_HTTPTRACE_SPANS = "OTEL_PYTHON_HTTPTRACE_SPANS"
"""Which child spans are made: ``none``, ``connection`` (default) or ``all``."""

OTEL_PYTHON_HTTPTRACE_SPAN_END = "OTEL_PYTHON_HTTPTRACE_SPAN_END"
"""The request span's end timestamp: end of the ``body`` (default) or of the ``headers``."""

OTEL_PYTHON_HTTPTRACE_CODE_LOCATION = "OTEL_PYTHON_HTTPTRACE_CODE_LOCATION"
"""Whether the application's line is recorded for early closes and leaks: ``true`` (default) or ``false``."""

OTEL_PYTHON_HTTPTRACE_MAX_ORIGINS = "OTEL_PYTHON_HTTPTRACE_MAX_ORIGINS"
"""How many origins are kept apart in metrics, a positive integer (default 1000)."""

OTEL_PYTHON_HTTPTRACE_APP_PACKAGES = "OTEL_PYTHON_HTTPTRACE_APP_PACKAGES"
"""Installed packages that are the application itself, comma-separated import names (default none)."""

OTEL_PYTHON_HTTPTRACE_LIBRARIES = "OTEL_PYTHON_HTTPTRACE_LIBRARIES"
"""Which client libraries are observed, comma-separated: ``httpx``, ``httpx2``, ``urllib3`` (default: all installed)."""
