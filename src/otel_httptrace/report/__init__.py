"""From received spans to what an engineer wants to know: receive, rows, summary, text.

Nothing here is imported by the instrumentation.
"""
