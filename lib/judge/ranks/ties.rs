//! The exact rank test in the presence of ties: every way of dealing these very ranks.

use super::Alternative;
use super::sample::{Sample, walk};

/// The most additions for a table: well below a second.
const WORK: u64 = 200_000_000;
/// The most values on both sides: all ways of dealing them stay within a floating-point number.
const VALUES: u64 = 1000;

/// The share of all ways to deal the pooled values to the two samples that are as extreme as this
/// one or more. None where there are too many to count; 30 values on each side are always few enough.
///
/// Source: Streitberg & Röhmel, Statistical Software Newsletter 12 (1986), the shift algorithm.
pub(super) fn p_value(a: &Sample, b: &Sample, alternative: Alternative) -> Option<f64> {
    let swapped = a.len() < b.len();
    let few = a.len().min(b.len());
    let all = (a.len() + b.len()) as u64;
    if all > VALUES {
        return None;
    }
    let (ranks, seen) = twice_ranks(a, b, swapped);
    let most = ranks.iter().rev().take(few).sum::<usize>();
    if all * few as u64 * most as u64 > WORK {
        return None;
    }
    let ways = ways_to_deal(&ranks, few, most);
    let total: f64 = ways.iter().sum();
    let (less, greater) =
        (ways[..=seen].iter().sum::<f64>() / total, ways[seen..].iter().rev().sum::<f64>() / total);
    let (less, greater) = if swapped { (greater, less) } else { (less, greater) };
    Some(match alternative {
        Alternative::Greater => greater,
        Alternative::Less => less,
        Alternative::TwoSided => (2.0 * greater.min(less)).min(1.0),
    })
}

/// The rank of each pooled value in ascending order, ties sharing theirs, and the sum of those of the
/// smaller sample: `a` if so, else `b`. Only differences count, so that the first rank is 0, and they
/// are divided by what all have in common.
fn twice_ranks(a: &Sample, b: &Sample, of_a: bool) -> (Vec<usize>, usize) {
    let (mut ranks, mut seen, mut before, mut first) = (Vec::new(), 0, 0, None);
    let to_size = |count: u64| usize::try_from(count).unwrap_or(usize::MAX);
    walk(a, b, |in_a, in_b| {
        let count = to_size(in_a + in_b);
        let twice = 2 * before + count;
        let rank = twice - *first.get_or_insert(twice);
        ranks.extend(std::iter::repeat_n(rank, count));
        seen += rank * to_size(if of_a { in_a } else { in_b });
        before += count;
    });
    let common = ranks.iter().fold(0, |common, rank| common_divisor(common, *rank)).max(1);
    (ranks.iter().map(|rank| rank / common).collect(), seen / common)
}

fn common_divisor(a: usize, b: usize) -> usize {
    if b == 0 { a } else { common_divisor(b, a % b) }
}

/// How many ways there are to take `few` of the ranks with each sum, up to `most`.
fn ways_to_deal(ranks: &[usize], few: usize, most: usize) -> Vec<f64> {
    // Numbers of ways are only ever added, so they keep their digits.
    let mut ways = vec![vec![0.0; most + 1]; few + 1];
    ways[0][0] = 1.0;
    for (dealt, rank) in ranks.iter().copied().enumerate() {
        for taken in (1..=few.min(dealt + 1)).rev() {
            let (less, more) = ways.split_at_mut(taken);
            // No rank dealt so far is greater than this one.
            let reach = ((taken - 1) * rank).min(most - rank);
            let from = &less[taken - 1][..=reach];
            for (to, from) in more[0].iter_mut().skip(rank).zip(from) {
                *to += from;
            }
        }
    }
    ways.pop().unwrap_or_default()
}
