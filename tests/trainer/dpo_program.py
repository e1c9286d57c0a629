"""What python -m mindrlhf_lite.dpo does, as a script that a warm process can run."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from mindrlhf_lite.launch.program import DPO
from mindrlhf_lite.launch.stage import main

if __name__ == "__main__":
    main(DPO)
