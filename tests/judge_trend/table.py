"""What scipy says of generated series: one JSON array of cases on standard output."""

import json
import math

import numpy as np
import scipy
from scipy import stats

assert scipy.__version__ == "1.17.1", f"scipy is {scipy.__version__}, not 1.17.1"

dice = np.random.default_rng(20240229)


def number(x):
    x = float(x)
    return x if math.isfinite(x) else None


def series():
    for size in list(range(2, 40)) * 4 + [60, 100, 150, 240, 400] * 6 + [2200, 2300]:
        kind = dice.integers(0, 9)
        x = np.sort(dice.uniform(0, 1000, size))
        if kind == 1:
            x = np.arange(size) * 60.0 + 1.7e9
        if kind == 2:
            x = dice.integers(0, max(2, size // 3), size).astype(float)
        if kind == 3:
            x = dice.uniform(-5, 5, size)
        y = dice.normal(0, 1, size) + x * dice.choice([0, 0.001, -0.2, 30])
        if kind == 4:
            y = dice.integers(0, 3, size).astype(float)
        if kind == 5:
            y = np.round(y, 1) * 1e-9
        if kind == 6:
            y = np.full(size, float(dice.integers(-3, 3)))
        if kind == 7:
            y[dice.integers(0, size, max(1, size // 5))] += 1e6
        if kind == 8:
            x, y = np.round(x / 300), np.round(y / 1e5)
        if len(set(x)) > 1:
            yield x, y


cases = []
for x, y in series():
    confidence = float(dice.choice([0.95, 0.9, 0.99, 0.5, 0.05]))
    case = {"x": x.tolist(), "y": y.tolist(), "confidence": confidence}
    for method in ["joint", "separate"]:
        of = stats.theilslopes(y, x, alpha=confidence, method=method)
        case[method] = [number(n) for n in of]
    case["median"] = number(np.median(y))
    case["mad"] = number(stats.median_abs_deviation(y, scale="normal"))
    cases.append(case)

print(json.dumps(cases))
