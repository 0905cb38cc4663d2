"""The figures, each beside what it is to be compared with."""

import statistics
import time


class Table:
    def __init__(self):
        print("| what | figure | beside | ratio |\n| --- | --- | --- | --- |", flush=True)

    def row(self, what, figure, beside="", ratio=None):
        shown = "" if ratio is None else f"{ratio:.2f}"
        print(f"| {what} | {figure} | {beside} | {shown} |", flush=True)


def spread(values, unit="", digits=0):
    """The median, and the least and the most."""
    low, middle, high = min(values), statistics.median(values), max(values)
    if len(values) == 1:
        return f"{middle:,.{digits}f}{unit}"
    return f"{middle:,.{digits}f}{unit} [{low:,.{digits}f}..{high:,.{digits}f}]"


class Clock:
    """Time by the clock, and the node's CPU time, of what stands below it."""

    def __init__(self, node):
        self.node = node

    def __enter__(self):
        self.cpu = self.node.cpu()
        self.seconds = time.monotonic()
        return self

    def __exit__(self, *_):
        self.seconds = time.monotonic() - self.seconds
        self.cpu = self.node.cpu() - self.cpu
