"""`hilbert-ray predict` as a job: a published model and a manifest into predictions.

ray job submit --working-dir . -- python jobs/predict.py --help
"""

import sys

from hilbert_ray.cli import main

if __name__ == "__main__":
    sys.exit(main(["predict", *sys.argv[1:]]))
