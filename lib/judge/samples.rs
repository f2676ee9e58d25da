//! What a judgement is made from: the samples of one look, as they are kept for the record.
//!
//! A judge sees nothing else. Whoever has all batches of a bake reaches every verdict again.

use serde::{Deserialize, Serialize};

/// What came in since the look before. One line of the file of samples.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Batch {
    /// The moment of the look, in ms since 1970.
    pub at_ms: i64,
    /// What each source gave.
    pub given: Vec<Given>,
}

/// What one source gave.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Given {
    /// `probe`, the router's kind, or the name of one of the plan's metrics.
    pub source: String,
    /// Up to when it was asked, in ms since 1970, where it is asked for windows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until_ms: Option<i64>,
    /// The query, where there was one, secrets left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub query: Option<String>,
    /// Single requests, or counts of them: blue's and green's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub requests: Option<[Requests; 2]>,
    /// Values of a series: blue's and green's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub points: Option<[Vec<Point>; 2]>,
    /// Why it gave nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trouble: Option<String>,
    /// Why what it gave proves nothing good, although it may prove something bad.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub doubt: Option<String>,
}

/// What one side did since the look before.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Requests {
    /// By bin of time, ascending.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub bins: Vec<Bin>,
    /// The mean latency of the newest requests in ms, where the source only counts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mean: Option<f64>,
    /// The greatest latency in ms, where the source only counts, or not every latency was kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max: Option<f64>,
    /// The ages in ms of requests that have no answer yet, at this look alone.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub open: Vec<f64>,
}

/// What one side did in one bin of time.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Bin {
    /// The number of the bin, from 0 when the bake began.
    #[serde(rename = "w")]
    pub window: u32,
    /// Requests.
    #[serde(rename = "n")]
    pub requests: u64,
    /// The failed ones among them.
    #[serde(rename = "e", default, skip_serializing_if = "is_zero")]
    pub errors: u64,
    /// Latencies of those that went well, in ms; evenly thinned out where there are very many.
    #[serde(rename = "l", default, skip_serializing_if = "Vec::is_empty")]
    pub latencies: Vec<f64>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands over a reference")]
fn is_zero(n: &u64) -> bool {
    *n == 0
}

/// A value of a series: its moment in ms since 1970, and the value (ms, a share, or as it is). JSON
/// has no word for NaN and infinite; they are written as texts.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Point(pub i64, #[serde(with = "any_number")] pub f64);

mod any_number {
    use serde::de::{Error, Unexpected};
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    #[derive(Serialize, Deserialize)]
    #[serde(untagged)]
    enum Written {
        Number(f64),
        Word(String),
    }

    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands over a reference")]
    pub(super) fn serialize<S: Serializer>(value: &f64, serializer: S) -> Result<S::Ok, S::Error> {
        if value.is_finite() {
            serializer.serialize_f64(*value)
        } else {
            value.to_string().serialize(serializer)
        }
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
        match Written::deserialize(deserializer)? {
            Written::Number(value) => Ok(value),
            Written::Word(word) => {
                word.parse::<f64>().ok().filter(|value| !value.is_finite()).ok_or_else(|| {
                    Error::invalid_value(Unexpected::Str(&word), &"a number, NaN, inf or -inf")
                })
            }
        }
    }
}

/// Puts requests into their bins. Latencies beyond `keep` are evenly thinned out; requests and
/// errors are all counted, and the greatest latency is never lost.
#[derive(Clone, Debug)]
pub struct Sorter {
    since_ms: i64,
    bin_ms: i64,
    keep: usize,
    stride: u64,
    good: u64,
    kept: usize,
    bins: std::collections::BTreeMap<u32, Bin>,
    max: Option<f64>,
}

impl Sorter {
    /// For bins of `bin_ms` since `since_ms`, with about `keep` latencies at most.
    pub fn new(since_ms: i64, bin_ms: i64, keep: usize) -> Self {
        Self {
            since_ms,
            bin_ms: bin_ms.max(1),
            keep: keep.max(16),
            stride: 1,
            good: 0,
            kept: 0,
            bins: std::collections::BTreeMap::new(),
            max: None,
        }
    }

    /// Takes one request in: its moment, its latency in ms where it is known, and how it went. One
    /// from before the beginning is left out.
    pub fn add(&mut self, at_ms: i64, latency_ms: Option<f64>, ok: bool) {
        let Ok(window) = u32::try_from((at_ms - self.since_ms).div_euclid(self.bin_ms)) else { return };
        let bin = self.bins.entry(window).or_insert_with(|| Bin { window, ..Bin::default() });
        bin.requests += 1;
        if !ok {
            bin.errors += 1;
            return;
        }
        let Some(latency) = latency_ms else { return };
        self.max = Some(self.max.map_or(latency, |max| max.max(latency)));
        if self.good.is_multiple_of(self.stride) {
            bin.latencies.push((latency * 1e3).round() / 1e3);
            self.kept += 1;
        }
        self.good += 1;
        if self.kept >= 2 * self.keep {
            self.thin_out();
        }
    }

    /// Every other latency is dropped.
    fn thin_out(&mut self) {
        self.kept = 0;
        let mut keep = false;
        for bin in self.bins.values_mut() {
            bin.latencies.retain(|_| {
                keep = !keep;
                keep
            });
            self.kept += bin.latencies.len();
        }
        self.stride *= 2;
    }

    /// What was taken in.
    pub fn finish(self) -> Requests {
        let thinned = self.stride > 1;
        let max = self.max.filter(|_| thinned);
        Requests { bins: self.bins.into_values().collect(), max, ..Requests::default() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_fall_into_their_windows_and_no_error_is_left_out() {
        let mut sorter = Sorter::new(1_000, 500, 1_000);
        for n in 0..100_000_i64 {
            sorter.add(1_000 + n, Some(if n == 77_777 { 9_000.0 } else { 5.0 }), n % 100 != 7);
        }
        sorter.add(999, Some(1.0), false);
        let requests = sorter.finish();
        assert_eq!(requests.bins.len(), 200);
        assert_eq!(requests.bins.iter().map(|b| b.requests).sum::<u64>(), 100_000);
        assert_eq!(requests.bins.iter().map(|b| b.errors).sum::<u64>(), 1_000);
        let kept: usize = requests.bins.iter().map(|b| b.latencies.len()).sum();
        assert!((1_000..=2_000).contains(&kept), "{kept}");
        assert_eq!(requests.max, Some(9_000.0));
    }

    #[test]
    fn no_number_survives_being_written_down() {
        let batch = Batch {
            at_ms: 5,
            given: vec![Given {
                source: "orders".into(),
                points: Some([vec![Point(1, f64::NAN), Point(2, f64::NEG_INFINITY)], vec![Point(3, 0.1)]]),
                ..Given::default()
            }],
        };
        let text = serde_json::to_string(&batch).unwrap();
        assert_eq!(
            text,
            r#"{"at_ms":5,"given":[{"source":"orders","points":[[[1,"NaN"],[2,"-inf"]],[[3,0.1]]]}]}"#
        );
        let back: Batch = serde_json::from_str(&text).unwrap();
        let [blue, green] = back.given[0].points.as_ref().unwrap();
        assert!(blue[0].1.is_nan() && blue[1].1 == f64::NEG_INFINITY && (green[0].1 - 0.1).abs() < 1e-12);
        assert!(serde_json::from_str::<Point>(r#"[1,"5"]"#).is_err());
    }
}
