//! What is rendered: every outcome, the limits, the templates, the outputs of the step.

use super::samples::{ENDS, End, Sample};
use crate::support;

#[test]
fn every_outcome_is_rendered_with_its_own_opening() {
    for (end, outcome) in ENDS {
        let sample = Sample::of(*end);
        let ended = sample.render();
        assert_eq!(ended.code, 0, "{end:?}: {}", ended.stderr);
        let report = support::json(&sample.file("report.json"));
        assert_eq!(report["outcome"], *outcome);
        assert_eq!(report["verdict"], "pass");
        assert_eq!(report["outputs"].as_array().unwrap().len(), 5);
    }
}
