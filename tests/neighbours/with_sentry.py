"""sentry-sdk, which wraps httpx's clients and sends what it records."""

import sys

import sentry_sdk

sentry_sdk.init(sys.argv[1].replace("://", "://key@") + "/1", traces_sample_rate=1.0)

from exchange import play  # noqa: E402 - as its users do: first sentry

with sentry_sdk.start_transaction(name="play"):
    play()
