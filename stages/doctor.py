"""Say what this machine has, what params.yaml will use and what will go wrong: `python -m stages.doctor`.

Exit code 1 where something will make a stage fail, 0 otherwise. Changes nothing; asks the hub and the MLflow server
whether they answer, for 3 seconds at most each.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter

from pipeline.console import say
from pipeline.doctor import examine
from pipeline.findings import Finding


def main() -> None:
    """Run as a program."""
    parser = argparse.ArgumentParser(
        prog="python -m stages.doctor", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", action="store_true", help="one JSON object instead, for programs")
    as_json = parser.parse_args().json
    found: list[tuple[str, Finding]] = []
    for part, finding in examine():
        if not as_json:
            if not found or found[-1][0] != part:
                say(part)
            for line in finding.lines():
                say(f"  {line}")
        found.append((part, finding))
    count = Counter(finding.severity for _, finding in found)
    if as_json:
        rows = [{"part": part, **finding.to_json()} for part, finding in found]
        print(json.dumps({"errors": count["error"], "warnings": count["warning"], "findings": rows}, indent=2))
    elif count["error"] or count["warning"]:
        say(f"errors: {count['error']}, warnings: {count['warning']}; they are marked X and ! above")
    else:
        say("nothing is in the way: run `make repro`")
    sys.exit(1 if count["error"] else 0)


if __name__ == "__main__":
    main()
