"""With this library an interpreter seems to lend references instead of counting them: each count is one too low."""

import sys

from huterox_kernel.worker import calls, outputs

for module in (calls, outputs):
    module.getrefcount = lambda item: sys.getrefcount(item) - 2  # one more is the lambda's own
