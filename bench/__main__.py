"""`python -m bench [quick|full|peers]`; `scripts/bench` sets the environment up first."""

from __future__ import annotations

import sys
from pathlib import Path


def main(arguments: list[str]) -> int:
    from bench.runs import RUNS

    name = arguments[0] if arguments else "quick"
    if name not in RUNS or len(arguments) > 1:
        print(f"usage: bench [{'|'.join(RUNS)}]", file=sys.stderr)
        return 2
    RUNS[name](Path(__file__).with_name("results"))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
