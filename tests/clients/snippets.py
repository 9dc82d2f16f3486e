"""snippets.py DOCUMENT PROGRAM...: every Python and TypeScript block of the document stands in one of the programs, line
for line, so that what the document shows is what was run."""

import re
import sys

document, *programs = (open(name, encoding="utf-8").read() for name in sys.argv[1:])
blocks = re.findall(r"^```(?:python|ts)\n(.*?)^```$", document, re.MULTILINE | re.DOTALL)
missing = [block for block in blocks if not any(f"\n{block}" in f"\n{program}" for program in programs)]
for block in missing:
    print(f"in no program:\n{block}", file=sys.stderr)
print(f"{len(blocks)} snippets, {len(missing)} of them in no program")
sys.exit(1 if missing or not blocks else 0)
