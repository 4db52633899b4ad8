"""The torture suite: whatever may go wrong within our code goes wrong, everywhere, and the application cannot tell.

In the short form, which is part of `make test`, a sample of it; all of it by `make torture`. The sample is drawn with
HTTPTRACE_TORTURE_SEED, which each failure names.
"""

import os

#: Everything, in an hour or so, instead of a sample.
LONG = os.environ.get("HTTPTRACE_TORTURE", "short") == "long"
#: What is drawn at random is drawn with it.
SEED = int(os.environ.get("HTTPTRACE_TORTURE_SEED", "12"))
