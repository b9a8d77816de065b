"""Parse seeds from text."""

import re

MAX_SEED = 2**63 - 1
MAX_SEEDS = 1_000_000
_DASHES = "\\-\u2010-\u2015\u2212"  # hyphens, dashes and the minus sign


def parse_seeds(text: str) -> list[int]:
    """Parse seeds and ranges: ``"0-15, 42"`` gives 0 to 15 and 42.

    Blanks separate as well as commas, and a range may have the dash that text programs make of a hyphen.

    Raises:
        ValueError: A part is neither a number nor an ascending range, a seed is above `MAX_SEED`, or there are more
            than `MAX_SEEDS`.
    """
    seeds: list[int] = []
    plain = re.sub(f" ?[{_DASHES}] ?", "-", " ".join(text.split()))
    for part in re.split(" ?, ?| ", plain):
        match = re.fullmatch(r"(\d+)(?:-(\d+))?", part, flags=re.ASCII)
        first, last = (int(match[1]), int(match[2] or match[1])) if match else (1, 0)
        if last < first:
            culprit = f", but {part!r} is not a seed or range" if part != text else ""
            raise ValueError(f"seeds are {text!r}{culprit}; write them like '0-15, 42'")
        if last > MAX_SEED:
            raise ValueError(f"seed is {last}; it must be at most {MAX_SEED}")
        if len(seeds) + last - first + 1 > MAX_SEEDS:
            raise ValueError(f"seeds are {text!r}: more than {MAX_SEEDS:,}; ask for fewer at a time")
        seeds += range(first, last + 1)
    return seeds
