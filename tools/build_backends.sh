#!/bin/sh
# Builds a real Jaeger for the tests that want one, with Go, in one to three minutes:
#
#     tools/build_backends.sh
#     HTTPTRACE_JAEGER=build/backends/jaeger .venv/bin/python -m pytest tests/report/test_jaeger.py
#
# It is this version because later ones are not one program any more (2.x), and this
# is the API that they all have.
set -eu
JAEGER=v1.62.0

mkdir -p "$(dirname "$0")/../build/backends"
cd "$(dirname "$0")/../build/backends"
printf 'module backends\n\ngo 1.22\n' > go.mod
go get "github.com/jaegertracing/jaeger/cmd/all-in-one@$JAEGER"
go build -o jaeger github.com/jaegertracing/jaeger/cmd/all-in-one
echo "HTTPTRACE_JAEGER=$(pwd)/jaeger"
