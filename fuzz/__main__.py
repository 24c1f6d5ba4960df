"""`python -m fuzz --seconds 30 [target …]`: runs each target for so long, one after the other.

What is found is written to `.fuzz/findings`, and the exit code is 1; corpora grow in `.fuzz`.
"""

from __future__ import annotations

import argparse
import importlib
import re
import subprocess
import sys
from pathlib import Path

TARGETS = (
    "alertmanager",
    "claude",
    "claude_squad",
    "git",
    "prices",
    "prometheus",
    "reflog",
    "screens",
    "settings",
    "spool",
    "tmux",
)
FOLDER = Path(".fuzz")
_LONGEST_INPUT = 16_384  # bytes


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m fuzz", description=__doc__)
    parser.add_argument("--seconds", type=int, default=30, help="for each target")
    parser.add_argument("targets", nargs="*", metavar="target", help=", ".join(TARGETS))
    chosen = parser.parse_args()
    unknown = set(chosen.targets) - set(TARGETS)
    if unknown:
        parser.error(f"no target {', '.join(sorted(unknown))}; there are {', '.join(TARGETS)}")
    print(f"{'target':<14}{'executions':>12}{'a second':>10}{'coverage':>10}{'findings':>10}")
    findings = [run(target, chosen.seconds) for target in chosen.targets or TARGETS]
    return 1 if any(findings) else 0


def run(target: str, seconds: int) -> int:
    """Fuzz one target in a process of its own; prints its line, returns how much was found."""
    corpus, findings = FOLDER / target, FOLDER / "findings"
    corpus.mkdir(parents=True, exist_ok=True)
    findings.mkdir(exist_ok=True)
    module = importlib.import_module(f"fuzz.{target}")
    for number, seed in enumerate(module.seeds()):
        (corpus / f"seed-{number}").write_bytes(seed)
    before = set(findings.iterdir())
    done = subprocess.run(
        [
            *(sys.executable, "-m", "fuzz.instrumented", target),
            *(f"-max_total_time={seconds}", f"-max_len={_LONGEST_INPUT}", "-timeout=20"),
            *("-print_final_stats=1", f"-artifact_prefix={findings}/{target}-", str(corpus)),
        ],
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    )
    found = len(set(findings.iterdir()) - before)
    said = done.stdout + done.stderr
    executed = re.search(r"number_of_executed_units: (\d+)", said)
    speed = re.search(r"average_exec_per_sec: +(\d+)", said)
    covered = re.findall(r"cov: (\d+)", said)
    figures = [m[1] if m else "?" for m in (executed, speed)] + covered[-1:]
    print(f"{target:<14}{figures[0]:>12}{figures[1]:>10}{figures[-1]:>10}{found:>10}", flush=True)
    if found or done.returncode:
        print(said[-6000:], file=sys.stderr)
    return found or done.returncode


if __name__ == "__main__":
    sys.exit(main())
