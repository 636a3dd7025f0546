"""`python -m huterox_bench.cold.fresh_worker DESCRIPTOR BEGUN_S`: a worker without a zygote.

The same code as in a forked one, but for the process's set-up: what it imports, this interpreter imports anew.
"""

import sys

from huterox_kernel.worker.main import serve

if __name__ == "__main__":
    sys.exit(serve(int(sys.argv[1]), float(sys.argv[2])))
