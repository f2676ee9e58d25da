//! PURE: what a webhook of Alertmanager asks for, alert by alert.

use std::collections::BTreeMap;

use serde::Deserialize;

use crate::evidence::{Release, sha256_hex};

/// A webhook of Alertmanager, version 4; what is not read here may stand in it all the same.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Payload {
    /// The version of its shape.
    pub version: String,
    /// The alerts of one group, those that are over among them.
    pub alerts: Vec<Alert>,
    /// How many more there were.
    #[serde(default, rename = "truncatedAlerts")]
    pub left_out: u64,
}

/// One alert.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Alert {
    /// `firing` or `resolved`.
    pub status: String,
    /// What names it.
    pub labels: BTreeMap<String, String>,
    /// What it says.
    #[serde(default)]
    pub annotations: BTreeMap<String, String>,
    /// Since when it fires.
    #[serde(default)]
    pub starts_at: String,
    /// The same for the same labels.
    #[serde(default)]
    pub fingerprint: String,
}

/// What one alert asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Wish {
    /// To call the release off.
    Abort,
    /// To hold it before its next step.
    Pause,
    /// To hold it no longer.
    Over,
    /// Nothing; why not.
    Nothing(String),
}

/// The label that says what an alert asks for.
const LABEL: &str = "trapkey";

impl Payload {
    /// The payload, where it is one that is understood.
    ///
    /// Errors: why it is not, in one sentence.
    pub(super) fn read(body: &[u8]) -> Result<Self, String> {
        let payload: Self =
            serde_json::from_slice(body).map_err(|e| format!("this is no webhook of Alertmanager: {e}"))?;
        if payload.version == "4" {
            Ok(payload)
        } else {
            Err("this webhook has another version than 4".into())
        }
    }
}

impl Alert {
    /// Its name, on one line.
    pub(super) fn name(&self) -> String {
        plain(self.labels.get("alertname").map_or("an alert without a name", String::as_str), 100)
    }

    /// What it says of itself, on one line.
    pub(super) fn says(&self) -> Option<String> {
        let said = ["summary", "description"].iter().find_map(|key| self.annotations.get(*key));
        said.map(|text| plain(text, 300)).filter(|text| !text.is_empty())
    }

    /// What tells it from others: its fingerprint, or its labels where it has none.
    pub(super) fn fingerprint(&self) -> String {
        if self.fingerprint.is_empty() {
            sha256_hex(format!("{:?}", self.labels).as_bytes())
        } else {
            plain(&self.fingerprint, 64)
        }
    }

    /// Since when it fires, as it says.
    pub(super) fn since(&self) -> String {
        plain(&self.starts_at, 64)
    }

    /// What it asks for, of this release.
    pub(super) fn wish(&self, release: &Release) -> Wish {
        let Some(word) = self.labels.get(LABEL) else {
            return Wish::Nothing(format!("it has no label `{LABEL}`"));
        };
        for (label, own) in [("environment", &release.environment), ("service", &release.service)] {
            if let Some(named) = self.labels.get(label).filter(|named| *named != own) {
                return Wish::Nothing(format!("its {label} is {}, not {own}", plain(named, 100)));
            }
        }
        match (word.as_str(), self.status.as_str()) {
            ("abort", "firing") => Wish::Abort,
            ("pause", "firing") => Wish::Pause,
            ("pause", "resolved") => Wish::Over,
            ("abort", "resolved") => Wish::Nothing("it is over, and an abort is final".into()),
            ("abort" | "pause", _) => Wish::Nothing("it neither fires nor is it resolved".into()),
            _ => Wish::Nothing(format!("its label `{LABEL}` is neither `abort` nor `pause`")),
        }
    }
}

/// A text of strangers on one line, at most that long.
pub(super) fn plain(text: &str, longest: usize) -> String {
    let line: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    crate::units::clipped(line.trim(), longest)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn release() -> Release {
        Release {
            service: "shop".into(),
            version: "1.1".into(),
            previous: None,
            environment: "production".into(),
            commit: None,
            artifacts: Vec::new(),
        }
    }

    fn alert(status: &str, labels: &[(&str, &str)]) -> Alert {
        let labels = labels.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        Alert {
            status: status.into(),
            labels,
            annotations: BTreeMap::new(),
            starts_at: String::new(),
            fingerprint: String::new(),
        }
    }

    #[test]
    fn only_a_labelled_alert_about_this_release_acts() {
        let wish = |status: &str, labels: &[(&str, &str)]| alert(status, labels).wish(&release());
        let acts = [
            ("firing", vec![("trapkey", "abort")], Wish::Abort),
            ("firing", vec![("trapkey", "abort"), ("environment", "production")], Wish::Abort),
            ("firing", vec![("trapkey", "pause"), ("service", "shop"), ("instance", "x")], Wish::Pause),
            ("resolved", vec![("trapkey", "pause")], Wish::Over),
        ];
        for (status, labels, expected) in acts {
            assert_eq!(wish(status, &labels), expected, "{status} {labels:?}");
        }
        for (status, labels) in [
            ("firing", vec![]),
            ("firing", vec![("alertname", "abort")]),
            ("firing", vec![("trapkey", "Abort")]),
            ("firing", vec![("trapkey", "")]),
            ("firing", vec![("trapkey", "abort"), ("environment", "staging")]),
            ("firing", vec![("trapkey", "abort"), ("service", "other"), ("environment", "production")]),
            ("resolved", vec![("trapkey", "abort")]),
            ("resolved", vec![("trapkey", "pause"), ("environment", "staging")]),
            ("pending", vec![("trapkey", "abort")]),
            ("", vec![("trapkey", "pause")]),
        ] {
            assert!(matches!(wish(status, &labels), Wish::Nothing(_)), "{status} {labels:?}");
        }
    }

    #[test]
    fn another_version_and_garbage_are_refused() {
        for wrong in [
            "",
            "[]",
            "{}",
            "{\"version\":\"4\"}",
            "{\"version\":\"5\",\"alerts\":[]}",
            "{\"version\":4,\"alerts\":[]}",
        ] {
            assert!(Payload::read(wrong.as_bytes()).is_err(), "{wrong}");
        }
        let right =
            Payload::read(b"{\"version\":\"4\",\"alerts\":[{\"status\":\"firing\",\"labels\":{}}],\"x\":1}");
        assert_eq!(right.unwrap().alerts.len(), 1);
    }

    #[test]
    fn what_strangers_say_is_one_short_line() {
        assert_eq!(plain("a\nb\u{1b}[31m\tc ", 100), "a b [31m c");
        assert_eq!(plain("ääääää", 3), "äää… (3 more characters)");
    }
}
