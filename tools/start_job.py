#!/usr/bin/env python3
"""`python -m mindrlhf_lite.job`, for scripts that run in a user's folder.

`-m` would look for Python's own modules there first, and find a random.py or yaml.py of the user's. --help has the
options.

Example:
  python tools/start_job.py --ranks 2 --log_dir msrun_log examples/qwen_grpo/main.py --config grpo_config.yaml
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from mindrlhf_lite.job.__main__ import main

if __name__ == "__main__":
    main()
