"""Most of the tests' time is compiling: they run programs compiled with little optimisation.

`JAX_DISABLE_MOST_OPTIMIZATIONS=0 pytest` runs them as users run them.
"""

import os

os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
