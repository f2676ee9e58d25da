"""Prints what lib/judge must compute, one JSON object a line, computed by scipy and numpy.

Each statistic is a function that yields rows; its name is the row's `is`, and tests/judge.rs has a
function for it. What scipy does not have is counted here in whole numbers.
"""

import collections
import decimal
import functools
import itertools
import json
import math
import statistics
import sys

import numpy
from scipy import stats

ALTERNATIVES = ["greater", "less", "two-sided"]
rng = numpy.random.default_rng(1947)


def untied(n, m):
    """Two samples of different values."""
    values = rng.permutation(4 * (n + m))[: n + m] / 8 - 30.0
    return values[:n].tolist(), numpy.sort(values[n:] + 0.0).tolist()


def tied(n, m, kinds=9):
    """Two samples of few different values."""
    a, b = rng.integers(0, kinds, n), rng.integers(0, kinds, m) + rng.integers(0, 3)
    return (a / 4).tolist(), (b / 4).tolist()


def apart(n, m):
    """The least p-value there is."""
    return list(range(n)), list(range(n, n + m))


def test_of(a, b, alternative, method):
    result = stats.mannwhitneyu(b, a, alternative=alternative, method=method)
    return {
        "alternative": alternative,
        "method": method,
        "u": float(result.statistic),
        "p_value": float(result.pvalue),
    }


def mann_whitney():
    combinations = list(itertools.product(ALTERNATIVES, ["exact", "asymptotic", "auto"]))
    turn = 0
    for n, m in itertools.product(range(1, 61), repeat=2):
        # A different one for each neighbour, and all over the whole table.
        alternative, method = combinations[turn % 9]
        turn += 1 if m < 60 else 2
        a, b = tied(n, m) if (n + m) % 3 == 0 else untied(n, m)
        yield {"a": a, "b": b, "tests": [test_of(a, b, alternative, method)]}
    for n, m in [(1, 1), (1, 2), (2, 1), (3, 3), (1, 60), (8, 8), (8, 9), (9, 8), (9, 9), (8, 60), (60, 8), (60, 60)]:
        for make in [tied, untied, apart]:
            a, b = make(n, m)
            for first, second in [(a, b), (b, a)]:
                yield {"a": first, "b": second, "tests": [test_of(first, second, *which) for which in combinations]}
    for n in range(1, 61):
        a, b = apart(n, 61 - n)
        yield {"a": a, "b": b, "tests": [test_of(a, b, *combinations[n % 9])]}
        yield {"a": b, "b": a, "tests": [test_of(b, a, *combinations[n % 9])]}
    for n, m in [(1, 1), (5, 7), (20, 30)]:
        a, b = [2.5] * n, [2.5] * m
        yield {"a": a, "b": b, "tests": [test_of(a, b, alternative, "auto") for alternative in ALTERNATIVES]}
    for n, m in [(1000, 800), (700, 3), (5000, 5000)]:
        for make in [untied, lambda n, m: tied(n, m, 400), lambda n, m: tied(n, m, 2)]:
            a, b = make(n, m)
            methods = ["auto"] if n == 700 else ["asymptotic", "auto"]
            yield {"a": a, "b": b, "tests": [test_of(a, b, *w) for w in itertools.product(ALTERNATIVES, methods)]}


def permutation():
    """Every way of dealing the values, enumerated by scipy for small samples, else counted."""
    for n, m in itertools.product(range(2, 6), repeat=2):
        a, b = tied(n, m, 3)
        method = stats.PermutationMethod(n_resamples=math.inf)
        for alternative in ALTERNATIVES:
            p = stats.mannwhitneyu(b, a, alternative=alternative, method=method).pvalue
            yield {"a": a, "b": b, "alternative": alternative, "p_value": float(p)}
    for n, m in [(1, 12), (12, 1), (8, 8), (10, 14), (14, 10), (20, 20), (30, 30), (25, 35)]:
        for kinds in [2, 5, 30]:
            a, b = tied(n, m, kinds)
            for alternative in ALTERNATIVES:
                yield {"a": a, "b": b, "alternative": alternative, "p_value": dealt(a, b, alternative)}
    a, b = apart(30, 30)
    yield {"a": a, "b": b, "alternative": "greater", "p_value": 1 / math.comb(60, 30)}


def dealt(a, b, alternative):
    ranks = [round(2 * rank) for rank in stats.rankdata(b + a)]
    seen = sum(ranks[: len(b)])
    ways = [collections.Counter() for _ in range(len(b) + 1)]
    ways[0][0] = 1
    for rank in ranks:
        for taken in range(len(b), 0, -1):
            for total, count in ways[taken - 1].items():
                ways[taken][total + rank] += count
    last = ways[len(b)]
    everything = math.comb(len(ranks), len(b))
    greater = sum(count for total, count in last.items() if total >= seen) / everything
    less = sum(count for total, count in last.items() if total <= seen) / everything
    return {"greater": greater, "less": less, "two-sided": min(1, 2 * min(greater, less))}[alternative]


def hodges_lehmann():
    sizes = [(n, (n * 37) % 60 + 1) for n in range(1, 61)] + [(1, 1), (2, 2), (49, 49), (50, 49), (60, 60)]
    for n, m in sizes + [(500, 400), (3000, 1)]:
        for make in [untied, tied, apart]:
            a, b = make(n, m)
            differences = numpy.sort(numpy.subtract.outer(b, a).ravel())
            for confidence in [0.95, 0.99] if n % 2 else [0.9]:
                rank = lower_rank(a, b, confidence)
                yield {
                    "a": a,
                    "b": b,
                    "confidence": confidence,
                    "estimate": statistics.median(differences.tolist()),
                    "low": float(differences[rank - 1]) if rank >= 1 else None,
                    "high": float(differences[len(differences) - rank]) if rank >= 1 else None,
                }


def lower_rank(a, b, confidence):
    """Of the difference at the lower end, from 1, as R's wilcox.test finds it; 0 if there is none."""
    n, m = len(a), len(b)
    beyond = (1 - confidence) / 2
    times = collections.Counter(a + b).values()
    if n < 50 and m < 50 and max(times) == 1:
        total, sum_up_to = math.comb(n + m, n), 0
        for u, count in enumerate(arrangements(n, m)):
            sum_up_to += count
            if sum_up_to / total >= beyond - 10 * 2.0**-52:
                return u
    everything = n + m
    tie_term = sum(t**3 - t for t in times) / (everything * (everything - 1))
    deviation = math.sqrt(n * m / 12 * ((everything + 1) - tie_term))
    rank = math.ceil(n * m / 2 - 0.5 - stats.norm.isf(beyond) * deviation)
    return max(0, min(rank, (n * m + 1) // 2))


@functools.cache
def arrangements(n, m):
    """How many arrangements of n and m ranks have each U: subsets by their sum."""
    least = n * (n + 1) // 2
    ways = [[1]] + [[] for _ in range(n)]
    for rank in range(1, n + m + 1):
        for taken in range(min(n, rank), 0, -1):
            target, source = ways[taken], ways[taken - 1]
            target.extend([0] * (len(source) + rank - len(target)))
            for total, count in enumerate(source):
                target[total + rank] += count
    return ways[n][least:]


def quantile():
    sizes = list(range(1, 60)) + [100, 250, 299, 300, 458, 459, 1000, 9999, 100_000, 1_000_000]
    for n in sizes:
        # The sample is 0, 1, 2, …: the ends of an interval are its places.
        sample = numpy.arange(n)
        for q, confidence in itertools.product([0.5, 0.95, 0.99], [0.9, 0.95, 0.99]):
            if n < 60 and (n + round(100 * confidence)) % 3:
                continue
            low, high = stats.quantile_test(sample, p=q).confidence_interval(confidence)
            yield {
                "n": n,
                "q": q,
                "confidence": confidence,
                "value": float(numpy.quantile(sample, q)),
                "low": None if math.isnan(low) else float(low),
                "high": None if math.isnan(high) else float(high),
            }


def quantile_difference():
    for n, m in [(5, 9), (60, 40), (200, 300), (600, 1000), (1000, 1000)]:
        for q, confidence in itertools.product([0.5, 0.95, 0.99], [0.9, 0.95]):
            a, b = (numpy.sort(rng.lognormal(1, 0.5, size)) for size in (n, m))
            one_sided = math.sqrt(1 - (1 - confidence) / 2)
            low_a, high_a, low_b, high_b = (
                stats.quantile_test(sample, p=q, alternative=side).confidence_interval(one_sided)[end]
                for sample in (a, b)
                for side, end in (("greater", 0), ("less", 1))
            )
            at_a, at_b = numpy.quantile(a, q), numpy.quantile(b, q)
            yield {
                "a": a.tolist(),
                "b": b.tolist(),
                "q": q,
                "confidence": confidence,
                "difference": [at_b - at_a, low_b - high_a, high_b - low_a],
                "ratio": [at_b / at_a, low_b / high_a, high_b / low_a],
            }


REQUESTS = [1, 2, 3, 7, 10, 20, 50, 100, 333, 1000, 10_000, 123_456, 1_000_000, 10**9]


def error_rate():
    for n in REQUESTS:
        for k in sorted({0, 1, 2, n // 1000, n // 100, n // 10, n // 2, n - n // 10, n - 1, n}):
            if not 0 <= k <= n:
                continue
            for confidence in [0.9, 0.99, 0.999_999]:
                beyond = 1 - confidence
                row = {"errors": k, "requests": n, "confidence": confidence}
                row["lower"], row["upper"] = lower(k, n, beyond), 1 - lower(n - k, n, beyond)
                row["low"], row["high"] = lower(k, n, beyond / 2), 1 - lower(n - k, n, beyond / 2)
                if k < n // 2:
                    row["upper"], row["high"] = upper(k, n, beyond), upper(k, n, beyond / 2)
                # Searched for by scipy to 2e-12.
                for name, alternative in [("less", "less"), ("greater", "greater"), ("both", "two-sided")]:
                    test = stats.binomtest(k, n, alternative=alternative) if n < 10**6 else None
                    row[name] = list(test.proportion_ci(confidence, "exact")) if test else None
                yield row


def lower(k, n, beyond):
    return float(stats.beta.ppf(beyond, k, n - k + 1)) if k else 0.0


def upper(k, n, beyond):
    if n < 10**6 or k > 2:
        return float(stats.beta.isf(beyond, k + 1, n - k))
    # scipy is off in the ninth digit here.
    with decimal.localcontext() as context:
        context.prec = 40
        low, high = decimal.Decimal(0), decimal.Decimal(100) / n
        for _ in range(80):
            p = (low + high) / 2
            odds = p / (1 - p)
            tail = (1 - p) ** n * sum(math.comb(n, hits) * odds**hits for hits in range(k + 1))
            low, high = (p, high) if tail > decimal.Decimal(beyond) else (low, p)
        return float(low)


def fisher():
    sides = [(1, 1), (3, 4), (5, 5), (7, 30), (30, 7), (50, 50), (100, 300), (1000, 1000), (20_000, 1000)]
    for of_a, of_b in sides:
        for share_a, share_b in itertools.product([0, 0.01, 0.1, 0.5, 0.9, 1], repeat=2):
            yield table((round(of_a * share_a), of_a), (round(of_b * share_b), of_b))
    for _ in range(150):
        of_a, of_b = (int(n) for n in rng.integers(1, 40, 2))
        yield table((int(rng.integers(0, of_a + 1)), of_a), (int(rng.integers(0, of_b + 1)), of_b))


def table(a, b):
    """Counted in whole numbers where scipy's own error is too great for a comparison."""
    (hits_a, of_a), (hits_b, of_b) = a, b
    row = {"a": a, "b": b}
    both = [[hits_b, of_b - hits_b], [hits_a, of_a - hits_a]]
    for alternative in ALTERNATIVES:
        row[alternative] = float(stats.fisher_exact(both, alternative=alternative).pvalue)
    if of_a + of_b <= 400:
        hits = hits_a + hits_b
        ways = {
            k: math.comb(of_b, k) * math.comb(of_a, hits - k)
            for k in range(max(0, hits - of_a), min(hits, of_b) + 1)
        }
        total = sum(ways.values())
        row["counted"] = {
            "greater": sum(w for k, w in ways.items() if k >= hits_b) / total,
            "less": sum(w for k, w in ways.items() if k <= hits_b) / total,
            "two-sided": sum(w for w in ways.values() if w <= ways[hits_b]) / total,
        }
    return row


def rate_difference():
    for of_a, of_b in [(1, 1), (10, 7), (56, 48), (100, 1000), (10**6, 10**5), (10**9, 10**9)]:
        for share_a, share_b in itertools.product([0, 0.001, 0.03, 0.5, 1], repeat=2):
            a, b = (round(of_a * share_a), of_a), (round(of_b * share_b), of_b)
            for confidence in [0.9, 0.99]:
                (rate_a, low_a, high_a), (rate_b, low_b, high_b) = (
                    (k / n, *stats.binomtest(k, n).proportion_ci(confidence, "wilson")) for k, n in (a, b)
                )
                yield {
                    "a": a,
                    "b": b,
                    "confidence": confidence,
                    "difference": rate_b - rate_a,
                    "low": rate_b - rate_a - math.hypot(rate_b - low_b, high_a - rate_a),
                    "high": rate_b - rate_a + math.hypot(high_b - rate_b, rate_a - low_a),
                }


def normal():
    for z in numpy.concatenate([numpy.linspace(-9, 9, 181), numpy.linspace(9, 37, 57)]).tolist():
        yield {"z": z, "tail": float(stats.norm.sf(z))}
    tails = [10.0**-e for e in range(1, 301)] + [0.5, 0.25, 0.49, 0.075, 0.0750001, 0.02425, 1e-305]
    for p in tails + numpy.linspace(0.01, 0.49, 49).tolist():
        yield {"p": p, "above": float(stats.norm.isf(p)), "below": float(stats.norm.ppf(p))}
    for p in numpy.linspace(0.5, 0.999, 50).tolist():
        yield {"p": p, "above": float(stats.norm.isf(p)), "below": float(stats.norm.ppf(p))}


STATISTICS = [
    mann_whitney,
    permutation,
    hodges_lehmann,
    quantile,
    quantile_difference,
    error_rate,
    fisher,
    rate_difference,
    normal,
]


def finite(value):
    """JSON knows no NaN: null stands for what is not there."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {key: finite(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(each) for each in value]
    return value


for statistic in STATISTICS:
    for row in statistic():
        sys.stdout.write(json.dumps({"is": statistic.__name__, **finite(row)}) + "\n")
