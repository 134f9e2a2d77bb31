"""Start a stage in one or several processes: `python -m stages.launch <flags of accelerate launch> -m stages.train`.

`accelerate launch -m stages.train` does the same, with torch's own report where a process fails.
"""

import sys

from pipeline.errors import SeqtrackError
from pipeline.launching import launch

if __name__ == "__main__":
    try:
        sys.exit(launch(sys.argv[1:]))
    except SeqtrackError as error:
        sys.exit(f"error: {error}")
