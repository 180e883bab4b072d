#!/usr/bin/env python3
"""Run the commands of Markdown documents and compare what they print with what the documents say.

Usage: documents.py FILE...

A ```sh block is a script; the ``` block right after it, if there is one, holds lines that its output must contain
(leading and trailing blanks aside). Commands that start, build or test the suite are the make targets' own
business and are left out: they are named, so that nothing is skipped silently.
"""
import re
import subprocess
import sys

BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LEFT_OUT = ("make ", "docker compose ")


def scripts(text):
    """Yield (script, expected lines) for each sh block."""
    blocks = list(BLOCK.finditer(text))
    for index, block in enumerate(blocks):
        if block.group(1) != "sh":
            continue
        expected = []
        if index + 1 < len(blocks) and blocks[index + 1].group(1) == "":
            between = text[block.end():blocks[index + 1].start()]
            if not between.strip():
                expected = [line.strip() for line in blocks[index + 1].group(2).splitlines() if line.strip()]
        yield block.group(2), expected


def main(paths):
    failed = 0
    for path in paths:
        with open(path, encoding="utf-8") as file:
            text = file.read()
        for script, expected in scripts(text):
            first = script.strip().splitlines()[0]
            if script.startswith(LEFT_OUT):
                print(f"{path}: left to its own check: {first}")
                continue
            ran = subprocess.run(["bash", "-euo", "pipefail", "-c", script], capture_output=True, text=True,
                                 timeout=60, check=False)
            missing = [line for line in expected if line not in ran.stdout]
            if ran.returncode != 0 or missing:
                failed += 1
                print(f"{path}: FAILED: {first}\nexit code {ran.returncode}, not printed: {missing}\n{ran.stdout}{ran.stderr}")
            else:
                print(f"{path}: ran, {len(expected)} lines as promised: {first}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
