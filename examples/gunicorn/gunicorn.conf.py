"""Settings of gunicorn: it forks two workers from a process in which opentelemetry-instrument has set up everything."""

workers = 2
worker_class = "sync"
loglevel = "warning"
