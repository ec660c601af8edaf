"""`hilbert-ray predict` as a job: applies a published model to a manifest.

ray job submit --working-dir . -- python jobs/predict.py --help
"""

import sys

from hilbert_ray.__main__ import main

if __name__ == "__main__":
    sys.exit(main(["predict", *sys.argv[1:]]))
