"""`hilbert-ray transcribe` as a job: turns recordings without text into transcripts.

ray job submit --working-dir . -- python jobs/transcribe.py --help
"""

import sys

from hilbert_ray.__main__ import main

if __name__ == "__main__":
    sys.exit(main(["transcribe", *sys.argv[1:]]))
