"""`hilbert-ray tune` as a job: a feature store into searched settings.

ray job submit --working-dir . -- python jobs/tune.py --help
"""

import sys

from hilbert_ray.cli import main

if __name__ == "__main__":
    sys.exit(main(["tune", *sys.argv[1:]]))
