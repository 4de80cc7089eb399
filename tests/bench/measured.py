"""``python -m tests.bench.measured OUT COMMAND…``: runs it, then writes what it used to OUT as JSON.

cpu: seconds of user and system time of the program and all its children; rss: bytes, the largest of them (some
12 MB at least: before exec they are this interpreter). ended: CLOCK_MONOTONIC seconds.
"""

import json
import resource
import subprocess
import sys
import time
from pathlib import Path

if __name__ == "__main__":
    began = time.monotonic()
    code = subprocess.run(sys.argv[2:]).returncode
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    record = {
        "code": code,
        "began": began,
        "ended": time.monotonic(),
        "cpu": used.ru_utime + used.ru_stime,
        "rss": used.ru_maxrss * 1024,
    }
    Path(sys.argv[1]).write_text(json.dumps(record))
    sys.exit(code if code >= 0 else 1)
