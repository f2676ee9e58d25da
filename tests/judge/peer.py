"""What scipy needs for the rank test of two files of little-endian numbers, and numpy for sorting them.

Prints one JSON line: medians in ms, the peak of the process in MB, and the figures.
"""

import json
import resource
import sys
import time

import numpy
from scipy import stats

before, now = (numpy.fromfile(path, dtype="<f8") for path in sys.argv[1:3])
runs = int(sys.argv[3])


def median_ms(work):
    took = []
    for _ in range(runs):
        began = time.perf_counter()
        result = work()
        took.append((time.perf_counter() - began) * 1e3)
    return sorted(took)[len(took) // 2], result


sort_ms, _ = median_ms(lambda: numpy.sort(numpy.concatenate([before, now])))
test_ms, test = median_ms(lambda: stats.mannwhitneyu(now, before, alternative="two-sided"))
print(
    json.dumps(
        {
            "sort_ms": sort_ms,
            "test_ms": test_ms,
            "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3,
            "u": float(test.statistic),
            "p_value": float(test.pvalue),
        }
    )
)
