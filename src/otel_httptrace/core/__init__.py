"""What happened to requests and connections: plain facts in, records out.

Sans-IO: standard library only, no clock, no socket, no span. Times come in as
monotonic nanoseconds. Another client library is one more adapter in front of
this, another kind of telemetry one more reader behind it.
"""
