"""`hilbert-ray tune` as a job: searches settings on a feature store.

ray job submit --working-dir . -- python jobs/tune.py --help
"""

import sys

from hilbert_ray.__main__ import main

if __name__ == "__main__":
    sys.exit(main(["tune", *sys.argv[1:]]))
