"""`hilbert-ray evaluate` as a job: turns a feature store into cross-validated scores.

ray job submit --working-dir . -- python jobs/evaluate.py --help
"""

import sys

from hilbert_ray.__main__ import main

if __name__ == "__main__":
    sys.exit(main(["evaluate", *sys.argv[1:]]))
