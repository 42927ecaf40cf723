"""Scripts of the stages, a few lines each."""

import signal
import sys

# While `python -m experiments.<stage>` imports what it needs, Ctrl-C ends it without a traceback.
if sys.argv[:1] == ["-m"] and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.SIG_DFL)
