"""Evaluate a checkpoint on a corpus: R@1/5/10, mAP and mINP, captions searching images and images searching captions.

    python evaluate_hf.py CHECKPOINT --corpus cuhk-pedes --corpus_root data/CUHK-PEDES --output metrics.json
    python evaluate_hf.py ivt/checkpoints/ivt-tiny-synthetic --corpus synthetic --split val

This is `ivt evaluate`, as a script; read on in `ivt/retrieval/report.py`, and in `evaluation.py` and `ranking.py`
beside it. Definitions of the metrics: `ivt/metric/person_retrieval/README.md`.
"""

import sys

from ivt.cli import main

if __name__ == "__main__":
    main(["evaluate", *sys.argv[1:]])
