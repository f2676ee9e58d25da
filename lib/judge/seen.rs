//! Everything that was seen since a bake began: its batches, folded up.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::samples::{Batch, Bin, Given, Point, Requests};
use super::{SideFigures, quantile};

/// What every source has given so far.
#[derive(Clone, Debug, Default)]
pub(super) struct Seen {
    pub(super) at_ms: i64,
    pub(super) sources: BTreeMap<String, Source>,
}

/// What one source has given so far.
#[derive(Clone, Debug, Default)]
pub(super) struct Source {
    pub(super) query: Option<String>,
    /// Blue and green.
    pub(super) sides: Option<[Side; 2]>,
    /// Blue and green.
    pub(super) points: Option<[Vec<Point>; 2]>,
    /// Why it gave nothing at this look.
    pub(super) trouble: Option<String>,
    /// Why it proves nothing good at this look.
    pub(super) doubt: Option<String>,
}

/// What one side did so far.
#[derive(Clone, Debug, Default)]
pub(super) struct Side {
    pub(super) bins: BTreeMap<u32, Bin>,
    /// All of it summed up, but for the latencies that are still `fresh`; they are ascending.
    whole: Arc<SideFigures>,
    fresh: Vec<f64>,
    /// The sum of all latencies.
    sum: f64,
    counted_mean: Option<f64>,
    open: Vec<f64>,
}

impl Seen {
    /// Takes a look's batch in.
    pub(super) fn take(&mut self, batch: &Batch) {
        self.at_ms = batch.at_ms;
        for source in self.sources.values_mut() {
            source.begin_look();
        }
        for given in &batch.given {
            self.sources.entry(given.source.clone()).or_default().take(given);
        }
    }
}

impl Source {
    fn begin_look(&mut self) {
        self.trouble = Some("it gave no answer at this look".into());
        self.doubt = None;
        for side in self.sides.iter_mut().flatten() {
            side.open.clear();
        }
    }

    fn take(&mut self, given: &Given) {
        self.trouble.clone_from(&given.trouble);
        self.doubt.clone_from(&given.doubt);
        if given.query.is_some() {
            self.query.clone_from(&given.query);
        }
        if let Some(requests) = &given.requests {
            let sides = self.sides.get_or_insert_default();
            for (side, more) in sides.iter_mut().zip(requests) {
                side.take(more);
            }
        }
        if let Some(points) = &given.points {
            let all = self.points.get_or_insert_default();
            for (all, more) in all.iter_mut().zip(points) {
                // A moment that was seen already stands as it was seen.
                let newest = all.last().map(|p| p.0);
                all.extend(more.iter().filter(|p| newest.is_none_or(|newest| p.0 > newest)));
            }
        }
    }
}

impl Side {
    fn take(&mut self, more: &Requests) {
        let whole = Arc::make_mut(&mut self.whole);
        for bin in &more.bins {
            let own =
                self.bins.entry(bin.window).or_insert_with(|| Bin { window: bin.window, ..Bin::default() });
            own.requests += bin.requests;
            own.errors += bin.errors;
            own.latencies.extend(&bin.latencies);
            whole.requests += bin.requests;
            whole.errors += bin.errors;
            self.sum += bin.latencies.iter().sum::<f64>();
            self.fresh.extend(&bin.latencies);
        }
        if more.mean.is_some() {
            self.counted_mean = more.mean;
        }
        let greatest = more.bins.iter().flat_map(|bin| &bin.latencies).copied().max_by(f64::total_cmp);
        whole.max = [whole.max, more.max, greatest].into_iter().flatten().max_by(f64::total_cmp);
        self.open.clone_from(&more.open);
    }

    /// Puts what is fresh into its place: once for a look, and not at all where nobody looks.
    pub(super) fn settle(&mut self) {
        let whole = Arc::make_mut(&mut self.whole);
        merge(&mut whole.latencies_ms, std::mem::take(&mut self.fresh));
        let latencies = whole.latencies_ms.len();
        whole.mean = if latencies > 0 { Some(self.sum / latencies as f64) } else { self.counted_mean };
    }

    /// How many requests were seen, and how many of them failed.
    pub(super) fn counts(&self) -> (u64, u64) {
        (self.whole.requests, self.whole.errors)
    }

    /// The figures of all that was seen.
    pub(super) fn figures(&self) -> Arc<SideFigures> {
        Arc::clone(&self.whole)
    }

    /// The figures of the windows from one on.
    pub(super) fn figures_from(&self, window: u32) -> SideFigures {
        let mut figures = SideFigures::default();
        for bin in self.bins.range(window..).map(|(_, bin)| bin) {
            figures.requests += bin.requests;
            figures.errors += bin.errors;
            figures.latencies_ms.extend(&bin.latencies);
        }
        figures.latencies_ms.sort_by(f64::total_cmp);
        figures.mean = mean(&figures.latencies_ms);
        figures.max = figures.latencies_ms.last().copied();
        figures
    }

    /// Requests without an answer that are due for `within_ms` at most, by their age.
    pub(super) fn open(&self, within_ms: f64) -> impl Iterator<Item = f64> + '_ {
        self.open.iter().copied().filter(move |age| *age <= within_ms)
    }

    /// A quantile (or the mean) of the latencies of each window of so many bins that is over before bin
    /// `end` and has at least `least` of them, in their order.
    pub(super) fn by_window(&self, end: u32, bins: u32, least: usize, q: Option<f64>) -> Vec<f64> {
        let mut values = Vec::new();
        for window in self.windows(end, bins) {
            let mut latencies: Vec<f64> = window.iter().flat_map(|bin| &bin.latencies).copied().collect();
            if latencies.len() < least.max(1) {
                continue;
            }
            let value = match q {
                None => mean(&latencies),
                Some(q) => {
                    latencies.sort_by(f64::total_cmp);
                    quantile(&latencies, q)
                }
            };
            values.extend(value);
        }
        values
    }

    /// Events and requests of each window of so many bins that is over before bin `end`.
    pub(super) fn events(&self, end: u32, bins: u32, of: impl Fn(&Bin) -> (u64, u64)) -> Vec<(f64, f64)> {
        let sum = |window: Vec<&Bin>| {
            window.into_iter().fold((0.0, 0.0), |(events, all), bin| {
                let (more, of_all) = of(bin);
                (events + more as f64, all + of_all as f64)
            })
        };
        self.windows(end, bins).into_iter().map(sum).filter(|(_, all)| *all > 0.0).collect()
    }

    /// Events and requests of each bin from one on to before bin `end`.
    pub(super) fn events_since(
        &self,
        since: u32,
        end: u32,
        of: impl Fn(&Bin) -> (u64, u64),
    ) -> Vec<(f64, f64)> {
        let bins = self.bins.range(since..end.max(since)).map(|(_, bin)| of(bin));
        bins.filter(|(_, all)| *all > 0).map(|(events, all)| (events as f64, all as f64)).collect()
    }

    /// The latencies of the bins from one on to before bin `end`, ascending.
    pub(super) fn latencies(&self, since: u32, end: u32) -> Vec<f64> {
        let bins = self.bins.range(since..end.max(since)).map(|(_, bin)| bin);
        let mut all: Vec<f64> = bins.flat_map(|bin| &bin.latencies).copied().collect();
        all.sort_by(f64::total_cmp);
        all
    }

    /// The bins of each window that is over before bin `end`.
    fn windows(&self, end: u32, bins: u32) -> Vec<Vec<&Bin>> {
        let bins = bins.max(1);
        let whole: Vec<&Bin> = self.bins.range(..end - end % bins).map(|(_, bin)| bin).collect();
        whole.chunk_by(|a, b| a.window / bins == b.window / bins).map(<[&Bin]>::to_vec).collect()
    }
}

fn mean(values: &[f64]) -> Option<f64> {
    (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
}

/// Puts new values into an ascending list.
fn merge(sorted: &mut Vec<f64>, mut fresh: Vec<f64>) {
    if fresh.is_empty() {
        return;
    }
    fresh.sort_by(f64::total_cmp);
    if sorted.last().is_none_or(|last| last <= &fresh[0]) {
        sorted.append(&mut fresh);
        return;
    }
    let old = std::mem::take(sorted);
    sorted.reserve_exact(old.len() + fresh.len());
    let (mut old, mut fresh) = (old.into_iter().peekable(), fresh.into_iter().peekable());
    while let (Some(a), Some(b)) = (old.peek(), fresh.peek()) {
        sorted.extend(if a.total_cmp(b).is_le() { old.next() } else { fresh.next() });
    }
    sorted.extend(old);
    sorted.extend(fresh);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn looks_add_up_and_a_moment_is_seen_once() {
        let given = |windows: &[(u32, &[f64])], points: &[(i64, f64)]| Given {
            source: "a".into(),
            requests: Some([
                Requests::default(),
                Requests {
                    bins: windows
                        .iter()
                        .map(|(window, latencies)| Bin {
                            window: *window,
                            requests: latencies.len() as u64 + 1,
                            errors: 1,
                            latencies: latencies.to_vec(),
                        })
                        .collect(),
                    ..Requests::default()
                },
            ]),
            points: Some([vec![], points.iter().map(|(at, value)| Point(*at, *value)).collect()]),
            ..Given::default()
        };
        let mut seen = Seen::default();
        seen.take(&Batch { at_ms: 1, given: vec![given(&[(0, &[5.0, 1.0])], &[(10, 1.0)])] });
        seen.take(&Batch {
            at_ms: 2,
            given: vec![given(&[(0, &[3.0]), (1, &[9.0])], &[(10, 7.0), (11, 2.0)])],
        });
        let source = &seen.sources["a"];
        let mut green = source.sides.as_ref().unwrap()[1].clone();
        green.settle();
        let figures = green.figures();
        assert_eq!(figures.latencies_ms, [1.0, 3.0, 5.0, 9.0]);
        assert_eq!((figures.requests, figures.errors, figures.max), (7, 3, Some(9.0)));
        assert_eq!(green.figures_from(1).latencies_ms, [9.0]);
        assert_eq!(green.by_window(2, 1, 1, Some(0.5)), [3.0, 9.0]);
        assert_eq!(green.by_window(1, 1, 1, Some(0.5)), [3.0]);
        assert_eq!(green.by_window(3, 2, 1, Some(1.0)), [9.0], "two bins are a window");
        assert_eq!(source.points.as_ref().unwrap()[1], [Point(10, 1.0), Point(11, 2.0)]);
        seen.take(&Batch { at_ms: 3, given: vec![] });
        assert!(seen.sources["a"].trouble.is_some(), "silence is no answer");
    }
}
