"""`hilbert-ray train` as a job: turns a feature store into a published model.

ray job submit --working-dir . -- python jobs/train.py --help
"""

import sys

from hilbert_ray.__main__ import main

if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]]))
