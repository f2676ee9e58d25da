//! Sources of figures that ask nobody over the network: access logs, files and commands.

use std::path::Path;
use std::time::Duration;

use jiff::Timestamp;
use trapkey::fault::Fault;
use trapkey::metrics::{self, Ask, SideOf, Source, Trouble, UserRequest};
use trapkey::plan::Loaded;

mod contract;
mod field;
mod logs;
mod series;
mod servers;

/// Opens a source as a plan in a folder names it.
pub(crate) fn open(folder: &Path, metric: &str) -> Result<Box<dyn Source>, Fault> {
    let plan = folder.join("release.yaml");
    let text = format!(
        "version: 1\nservice: shop\nrelease: {{version: 1.1}}\npromote:\n  \
         router: {{kind: command, target: edge, with: {{set: [\"true\", \"{{green}}\"], get: [echo, \"0\"]}}}}\n  \
         sides: {{blue: {{url: \"http://127.0.0.1:1\"}}, green: {{url: \"http://127.0.0.1:2\"}}}}\n  \
         strategy: blue_green\n  metrics:\n    - {metric}\n"
    );
    std::fs::write(&plan, text).unwrap();
    let loaded = Loaded::read(&plan, std::collections::BTreeMap::new())?;
    let spec = &loaded.plan.promote.as_ref().unwrap().metrics[0];
    metrics::open(spec, &loaded).map(|(_, source)| source)
}

/// The two sides at their addresses.
pub(crate) fn sides(blue: &str, green: &str) -> [SideOf; 2] {
    let side = |word, address: &str| SideOf { word, url: format!("http://{address}"), release: None };
    [side("blue", blue), side("green", green)]
}

/// A window of one side, in ms since 1970.
pub(crate) fn window(side: &SideOf, from_ms: i64, to_ms: i64) -> Ask<'_> {
    Ask {
        side,
        from: Timestamp::from_millisecond(from_ms).unwrap(),
        to: Timestamp::from_millisecond(to_ms).unwrap(),
        step: Duration::from_secs(15),
        covers: Duration::from_secs(15),
        limit: Duration::from_secs(300),
    }
}

/// Moments and values of one side.
pub(crate) fn points(
    source: &mut dyn Source,
    word: &'static str,
    from_ms: i64,
    to_ms: i64,
) -> Result<Vec<(i64, f64)>, Trouble> {
    let side = SideOf { word, url: "http://10.0.0.1:80".into(), release: None };
    let found = source.points(&window(&side, from_ms, to_ms))?;
    Ok(found.into_iter().map(|point| (point.at_ms, point.value)).collect())
}

/// All requests of a window.
pub(crate) fn requests(
    source: &mut dyn Source,
    sides: &[SideOf; 2],
    from_ms: i64,
    to_ms: i64,
) -> Result<Vec<UserRequest>, Trouble> {
    let mut found = Vec::new();
    source.requests(sides, &window(&sides[0], from_ms, to_ms), &mut |request| found.push(request))?;
    Ok(found)
}

/// Now, in ms since 1970.
pub(crate) fn now_ms() -> i64 {
    Timestamp::now().as_millisecond()
}
