"""`hilbert-ray embed` as a job: turns a manifest into a feature store.

ray job submit --working-dir . -- python jobs/embed.py --help
"""

import sys

from hilbert_ray.__main__ import main

if __name__ == "__main__":
    sys.exit(main(["embed", *sys.argv[1:]]))
