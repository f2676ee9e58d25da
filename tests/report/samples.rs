//! Evidence folders of realistic releases, written through the evidence types themselves.

use std::path::{Path, PathBuf};

use jiff::{SignedDuration, Timestamp};
use trapkey::evidence::*;
use trapkey::severity::Severity;

use crate::support;

/// How a sample ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    Promoted,
    RolledBack,
    Stopped,
    InProgress,
    Frozen,
}

pub(super) const ENDS: &[(End, &str)] = &[
    (End::Promoted, "promoted"),
    (End::RolledBack, "rolled_back"),
    (End::Stopped, "stopped"),
    (End::InProgress, "in_progress"),
    (End::Frozen, "frozen"),
];

/// A folder with a plan and the evidence of one release.
pub(super) struct Sample {
    pub(super) folder: tempfile::TempDir,
    plan: PlanRef,
    release: Release,
    /// The moment of the first document.
    from: Timestamp,
}

const PLAN: &str = r##"version: 1
service: shop
environments:
  production: {url: "https://shop.example.com"}
release: {version: "1.4.2", previous: "1.4.1", commit: 3f9c2e1a77d0c3f95aa1be07e1b80d429f3c21ab, artifacts: [shop.tar.gz]}
preflight: {checks: []}
snapshot: {store: snapshots/, sources: []}
promote:
  router: {kind: haproxy, target: /run/haproxy/admin.sock}
  sides: {blue: {url: "http://10.0.0.11:8080"}, green: {url: "http://10.0.0.12:8080"}}
  steps: [{weight: 5%, bake: 2h}, {weight: 25%, bake: 6h}, {weight: 50%, bake: 12h}, {weight: 100%}]
  rollback_when: [{metric: error_rate, is: "> 0.1%"}]
verify: {checks: []}
report:
  contingency:
    - when: Orders fail although the error rate is fine
      do: [Stop the release with `promote abort`, Ask the payments team for the provider's status, Restore the snapshot only if orders are missing]
    - when: The router does not answer
      do: [Look at the HAProxy service on both load balancers, Set the weights by hand as shown above]
  contacts:
    - {role: Release, reach: "#shop-releases, +49 30 1234567"}
    - {role: Database, reach: dba@shop.example.com}
"##;

impl Sample {
    /// An empty evidence folder beside a plan.
    pub(super) fn new() -> Self {
        let folder = support::folder();
        std::fs::write(folder.path().join("release.yaml"), PLAN).unwrap();
        std::fs::write(folder.path().join("shop.tar.gz"), b"the shop").unwrap();
        std::fs::create_dir(folder.path().join("evidence")).unwrap();
        let release = Release {
            service: "shop".into(),
            version: "1.4.2".into(),
            previous: Some("1.4.1".into()),
            environment: "production".into(),
            commit: Some("3f9c2e1a77d0c3f95aa1be07e1b80d429f3c21ab".into()),
            artifacts: vec![Artifact { name: "shop.tar.gz".into(), sha256: sha256_hex(b"the shop") }],
        };
        let plan = PlanRef { path: "release.yaml".into(), sha256: sha256_hex(PLAN.as_bytes()) };
        let from = Timestamp::now() - SignedDuration::from_hours(22);
        Self { folder, plan, release, from }
    }

    /// A whole release that ended so.
    pub(super) fn of(end: End) -> Self {
        let sample = Self::new();
        sample.write_all(end);
        sample
    }

    pub(super) fn evidence(&self) -> PathBuf {
        self.folder.path().join("evidence")
    }

    pub(super) fn file(&self, name: &str) -> PathBuf {
        self.evidence().join(name)
    }

    pub(super) fn text(&self, name: &str) -> String {
        std::fs::read_to_string(self.file(name)).unwrap()
    }

    /// Renders it with the binary.
    pub(super) fn render(&self) -> support::Ended {
        let ended = support::call("report", self.folder.path(), &["--color", "never"]);
        // To look at the pages with one's own eyes.
        if let Some(keep) = std::env::var_os("TRAPKEY_KEEP_REPORTS") {
            let name = support::json(&self.file("report.json"))["outcome"].as_str().unwrap().to_owned();
            copy(&self.evidence(), &Path::new(&keep).join(name));
        }
        ended
    }

    pub(super) fn at(&self, seconds: f64) -> Timestamp {
        self.from + SignedDuration::from_secs_f64(seconds)
    }

    fn head<B: Body>(&self, from: f64, to: f64, findings: Vec<Finding>, summary: &str) -> Head {
        let verdict = verdict_of(&findings);
        Head {
            schema: B::schema(),
            tool: ToolRef { name: B::TOOL.into(), version: VERSION.into() },
            release: Some(self.release.clone()),
            plan: Some(self.plan.clone()),
            variables: Used::default(),
            needs: Vec::new(),
            run: Run {
                started_at: self.at(from),
                finished_at: self.at(to),
                host: "runner-7".into(),
                ci: Some(Ci {
                    provider: "github".into(),
                    url: Some("https://ci.example.com/acme/shop/actions/runs/812".into()),
                    actor: Some("mira".into()),
                }),
            },
            verdict,
            summary: summary.into(),
            findings,
            signature: None,
        }
    }

    /// Writes a document that names these parents as they stand in the folder.
    pub(super) fn write<B: Body>(&self, mut head: Head, body: B, parents: &[&str]) {
        head.needs = parents.iter().map(|p| self.need(p)).collect();
        let bytes = to_bytes(&Document { head, body }, None).unwrap();
        std::fs::write(self.file(B::FILE), bytes).unwrap();
    }

    fn need(&self, name: &str) -> Need {
        let bytes = std::fs::read(self.file(name)).unwrap();
        let schema = format!("trapkey/{}/v1", name.trim_end_matches(".json"));
        Need { path: name.into(), schema, sha256: sha256_hex(&bytes) }
    }

    fn write_all(&self, end: End) {
        self.baseline();
        if end == End::Stopped {
            let mut findings = self.checks();
            findings[1].verdict = Verdict::Fail;
            findings[1].observed = Some("6 days, TLS 1.3".into());
            findings[1].message = "the certificate of shop.example.com:443 ends in 6 days".into();
            findings[3].verdict = Verdict::NoData;
            findings[3].observed = None;
            findings[3].message = "eval.json has no value at /accuracy".into();
            self.preflight(findings);
            return;
        }
        self.preflight(self.checks());
        self.snapshot();
        self.promote(end);
        match end {
            End::Promoted => self.verify(false),
            End::RolledBack => self.verify(true),
            _ => {}
        }
    }

    pub(super) fn preflight(&self, findings: Vec<Finding>) {
        let counts = Counts::of(&findings);
        let head = self.head::<PreflightBody>(0.0, 4.1, findings, &counts.sentence());
        self.write(head, PreflightBody { counts }, &[]);
    }

    pub(super) fn finding(&self, name: &str, kind: &str, observed: &str, expected: &str) -> Finding {
        let mut finding = Finding::new(name, kind, Verdict::Pass, self.at(1.0));
        finding.observed = Some(observed.into());
        finding.expected = Some(expected.into());
        finding.duration_ms = 12.4;
        finding.message = format!("{observed}, as expected");
        finding
    }

    pub(super) fn checks(&self) -> Vec<Finding> {
        let mut database = self.finding("database answers", "postgres", "3.1 ms", "<= 100 ms");
        (database.baseline, database.samples) = (Some("3.0 ms".into()), Some(20));
        database.controls = vec!["soc2:A1.2".into()];
        let certificate = self.finding("certificate", "tls", "61 days, TLS 1.3", ">= 14 d, >= 1.2");
        let prerequisites = self.finding("prerequisites closed", "github_issues", "0 open of 3", "0 open");
        let mut model =
            self.finding("model quality", "metrics_file", "accuracy 0.912, bias 0.04", ">= 0.85, <= 0.1");
        (model.baseline, model.samples) = (Some("0.907, 0.05".into()), Some(12_000));
        let mut disk = self.finding("disk", "disk", "81 %", "<= 80 %");
        (disk.severity, disk.verdict) = (Severity::Warning, Verdict::Fail);
        disk.message = "81 % of /var/lib/shop is used".into();
        let mut flaky = self.finding("search answers", "http", "200 in 41 ms", "200, <= 250 ms");
        (flaky.flaky, flaky.attempts) = (true, 2);
        let artifact = self.finding("artifact is the built one", "artifact", "sha256 equal", "sha256 equal");
        vec![database, certificate, prerequisites, model, disk, flaky, artifact]
    }

    pub(super) fn baseline(&self) {
        let latencies: Vec<f64> = (0..200).map(|i| 40.0 + wave(i) * 8.0).collect();
        let probe = ProbeRecord {
            name: "front page".into(),
            url: "https://shop.example.com/".into(),
            requests: 200,
            errors: 0,
            window_s: 10.0,
            p50: Some(44.0),
            p95: Some(84.0),
            p99: Some(96.0),
            latencies,
        };
        let finding = self.finding("front page", "baseline", "median 44 ms", "200 samples");
        let head = self.head::<BaselineBody>(-60.0, -50.0, vec![finding], "1 probe recorded");
        self.write(head, BaselineBody { probes: vec![probe] }, &[]);
    }

    pub(super) fn snapshot(&self) {
        let source = |name: &str, kind: &str, target: &str, bytes: u64, proof: &str| SourceRecord {
            name: name.into(),
            kind: kind.into(),
            target: target.into(),
            files: 18,
            bytes,
            sha256: sha256_hex(name.as_bytes()),
            proven: true,
            proof: proof.into(),
            ..SourceRecord::default()
        };
        let mut database = source(
            "database",
            "postgres",
            "postgres://shop:***@db/shop",
            2_684_354_560,
            "listed and compared",
        );
        database.tables = vec![TableRecord {
            table: "orders".into(),
            rows: 18_204,
            sum_of: Some("amount".into()),
            sum: Some("912044.50".into()),
            key: Some("id".into()),
            up_to: Some("18204".into()),
        }];
        let record = SnapshotRecord {
            id: sha256_hex(b"snapshot"),
            store: "snapshots".into(),
            sources: vec![source("config", "files", "deploy/", 18_400, "read back and compared"), database],
            files: 36,
            bytes: 2_684_372_960,
            added_bytes: 41_000_000,
            proven_at: Some(self.at(120.0)),
            backup_ms: 9_800.0,
            proof_ms: 4_400.0,
            restore_command: format!(
                "snapshot restore {} --to restored/ --plan release.yaml",
                &sha256_hex(b"snapshot")[..12]
            ),
            ..SnapshotRecord::default()
        };
        let findings = vec![
            self.finding("config", "files", "18 files, 18 KiB", "read back equal"),
            self.finding("database", "postgres", "2.5 GiB, 18 204 orders", "read back equal"),
        ];
        let head = self.head::<SnapshotBody>(106.0, 120.2, findings, "2 of 2 sources proven, 2.5 GiB");
        self.write(head, SnapshotBody { snapshot: Some(record) }, &["preflight.json"]);
    }

    pub(super) fn promote(&self, end: End) {
        let promotion = self.promotion(end);
        let (verdict, summary) = match end {
            End::Promoted => (DocumentVerdict::Pass, "green has all traffic".to_owned()),
            End::RolledBack => {
                (DocumentVerdict::Fail, format!("rolled back: {}", promotion.reason.clone().unwrap()))
            }
            _ => (DocumentVerdict::Undecided, "under way".to_owned()),
        };
        let last = promotion.series.last().map_or(self.at(200.0), |i| i.at);
        let mut findings: Vec<_> = (promotion.steps.iter().enumerate())
            .filter_map(|(at, step)| step.verdict.map(|v| (at + 1, step, v)))
            .map(|(number, step, verdict)| {
                let share = format!("{} %", step.weight * 100.0);
                let mut finding = self.finding(&format!("step {number}: {share}"), "step", &share, &share);
                finding.verdict = verdict;
                finding
            })
            .collect();
        let came_of_it = match verdict {
            DocumentVerdict::Pass => Verdict::Pass,
            DocumentVerdict::Fail => Verdict::Fail,
            _ => Verdict::NoData,
        };
        findings.push(Finding::new("promotion", "promote", came_of_it, self.at(139.0)).says(&summary));
        let mut head = self.head::<PromoteBody>(130.0, 200.0, findings, &summary);
        head.verdict = verdict;
        head.run.finished_at = last + SignedDuration::from_secs(2);
        std::fs::write(self.file(SAMPLES), packed_looks()).unwrap();
        self.write(head, PromoteBody { promotion: Some(promotion) }, &["preflight.json", "snapshot.json"]);
    }

    #[expect(clippy::too_many_lines, reason = "one sample, told from beginning to end")]
    fn promotion(&self, end: End) -> Promotion {
        // In hours for the long ones; the bad release is noticed within seconds.
        let (scale, bad) = if end == End::RolledBack { (1.0, true) } else { (3600.0, false) };
        let plan: &[(f64, f64)] = if bad {
            &[(0.05, 20.0), (0.25, 20.0), (0.5, 20.0), (1.0, 0.0)]
        } else {
            &[(0.05, 2.0), (0.25, 6.0), (0.5, 12.0), (1.0, 0.0)]
        };
        let reached = match end {
            End::Promoted => 4,
            End::RolledBack => 1,
            _ => 2,
        };
        let mut steps = Vec::new();
        let (mut shifts, mut judgements, mut series) = (Vec::new(), Vec::new(), Vec::new());
        let mut at = 140.0;
        for (index, (weight, bake)) in plan.iter().enumerate() {
            let (number, bake) = (index + 1, bake * scale);
            let mut step =
                StepRecord { weight: *weight, bake_s: bake, began_at: None, ended_at: None, verdict: None };
            if number <= reached {
                let under_way = number == reached && matches!(end, End::InProgress | End::Frozen);
                let watched = if under_way {
                    bake * 0.4
                } else if bad {
                    10.0
                } else {
                    bake
                };
                step.began_at = Some(self.at(at));
                shifts.push(self.shift(format!("step {number}"), at, *weight));
                let every = if bad { 1.0 } else { 600.0 };
                let mut t = every;
                while t <= watched {
                    series.push(self.interval(at + t, *weight, bad, every));
                    t += every;
                }
                at += watched;
                if !under_way {
                    let verdict = if bad { Verdict::Fail } else { Verdict::Pass };
                    (step.ended_at, step.verdict) = (Some(self.at(at)), Some(verdict));
                    if bake > 0.0 {
                        judgements.push(self.judgement(at, number, verdict));
                    }
                }
            }
            steps.push(step);
        }
        let mut decisions = vec![Decision {
            at: self.at(139.0),
            who: "mira".into(),
            what: "began the release with 5 %".into(),
        }];
        decisions.extend(judgements.iter().map(|j: &Judgement| Decision {
            at: j.at,
            who: "trapkey".into(),
            what: format!("step {}: {}", j.step, j.summary),
        }));
        let mut rollback = None;
        let mut reason = None;
        let outcome = match end {
            End::Promoted => {
                decisions.push(Decision {
                    at: self.at(at + 1.0),
                    who: "trapkey".into(),
                    what: "green has all traffic; blue drained".into(),
                });
                Outcome::Promoted
            }
            End::RolledBack => {
                shifts.push(self.shift("rollback".into(), at + 0.1, 0.0));
                reason = Some(
                    "error rate on green 7.5 %, rolls back at > 0.1%; p95 412 ms, rolls back at > 120ms"
                        .into(),
                );
                rollback = Some(RollbackRecord {
                    decided_at: self.at(at),
                    read_back_at: Some(self.at(at + 0.14)),
                    drained_at: Some(self.at(at + 0.9)),
                    took_ms: Some(138.0),
                });
                decisions.push(Decision {
                    at: self.at(at),
                    who: "trapkey".into(),
                    what: "rolled back: all traffic to blue".into(),
                });
                for t in 1..=8 {
                    let mut after = self.interval(at + f64::from(t), 0.0, false, 1.0);
                    after.green = SideInterval::default();
                    series.push(after);
                }
                Outcome::RolledBack
            }
            End::Frozen => {
                reason = Some("both sides fail their probes: blue 4.8 %, green 5.1 %".into());
                Outcome::Frozen
            }
            _ => Outcome::InProgress,
        };
        let weight = shifts.last().map_or(0.0, |s| s.asked);
        let hook = HookRecord {
            hook: "deploy".into(),
            command: "./deploy.sh green".into(),
            exit: Some(0),
            duration_ms: 8_400.0,
            output: "green 1.4.2 started on 10.0.0.12:8080".into(),
        };
        Promotion {
            id: None,
            samples: Some(SamplesRecord {
                file: SAMPLES.into(),
                sha256: sha256_hex(&packed_looks()),
                looks: 2160,
                incomplete: None,
            }),
            epoch: 42,
            strategy: "canary".into(),
            router: RouterRecord {
                split: Some("users by cookie uid".into()),
                kind: "haproxy".into(),
                target: "/run/haproxy/admin.sock".into(),
                identity: vec!["haproxy at /run/haproxy/admin.sock".into(), "backend shop".into()],
                by_hand: vec![
                    "echo 'set server shop/green weight 0' | socat stdio /run/haproxy/admin.sock".into(),
                    "echo 'set server shop/blue weight 256' | socat stdio /run/haproxy/admin.sock".into(),
                ],
            },
            blue: SideRecord { url: "http://10.0.0.11:8080".into(), version: Some("1.4.1".into()) },
            green: SideRecord { url: "http://10.0.0.12:8080".into(), version: Some("1.4.2".into()) },
            outcome,
            reason,
            steps,
            shifts,
            judgements,
            series,
            decisions,
            hooks: vec![hook],
            rollback,
            weight,
            waits_for: None,
            preview: Vec::new(),
            approvals: Vec::new(),
            next_at: None,
            after_reload: None,
            other_ways: Vec::new(),
        }
    }

    fn shift(&self, why: String, at: f64, weight: f64) -> Shift {
        let green = (weight * 40.0).round();
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "between 0 and 40")]
        let green = green as u64;
        Shift {
            why,
            at: self.at(at),
            asked: weight,
            read_back: weight,
            set_ms: 3.2,
            probed: Some(Probed { requests: 40, green, blue: 40 - green, unknown: 0, took_ms: 180.0 }),
            not_seen: None,
        }
    }

    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "small counts")]
    fn interval(&self, at: f64, weight: f64, bad: bool, every: f64) -> Interval {
        let step = (at / every) as u64;
        let requests = (every * 20.0) as u64;
        let side = |p95: f64, errors: u64| SideInterval {
            requests,
            errors,
            p50: Some(p95 * 0.55),
            p95: Some(p95),
            p99: Some(p95 * 1.2),
            mean: Some(p95 * 0.6),
            max: Some(p95 * 1.6),
        };
        let blue =
            side(wave(step).mul_add(9.0, 84.0), u64::from(step.is_multiple_of(9) && !bad && every > 60.0));
        let green = if bad {
            side(wave(step).mul_add(70.0, 390.0), 1 + step % 2)
        } else {
            side(wave(step + 3).mul_add(8.0, 79.0), u64::from(step.is_multiple_of(7)))
        };
        Interval {
            at: self.at(at),
            weight,
            observed: Some(wave(step).mul_add(0.006, weight).clamp(0.0, 1.0)),
            source: "probe".into(),
            blue,
            green,
        }
    }

    fn judgement(&self, at: f64, step: usize, verdict: Verdict) -> Judgement {
        let bad = verdict == Verdict::Fail;
        let metric = |name: &str, unit: &str, green: f64, blue: f64, threshold: &str| MetricRecord {
            metric: name.into(),
            source: "probe".into(),
            verdict,
            green: Some(green),
            blue: Some(blue),
            unit: unit.into(),
            threshold: threshold.into(),
            green_samples: if bad { 200 } else { 144_000 },
            blue_samples: if bad { 200 } else { 144_000 },
            message: if bad {
                "green is beyond the limit".into()
            } else {
                "green is within the limit".into()
            },
            outcome: if bad { "fires".into() } else { "pass".into() },
            query: None,
            test: None,
        };
        let compared = |green: f64, blue: f64| MetricRecord {
            test: Some(TestRecord {
                name: "mann_whitney".into(),
                statistic: Some(if bad { 400.0 } else { 189.0 }),
                p_value: Some(if bad { 0.000_000_02 } else { 0.62 }),
                level: Some(0.000_41),
                effect: Some(green - blue),
                effect_low: Some((green - blue) * 0.8),
                effect_high: Some((green - blue) * 1.2),
                confidence: 0.98,
                tolerance: Some(blue * 0.3),
                windows: Some(20),
                spread: Some(1.1),
            }),
            ..metric("latency_p99", "ms", green, blue, "worse than blue by 30 %")
        };
        let metrics = if bad {
            vec![
                metric("error_rate", "%", 0.075, 0.0, "> 0.1%"),
                metric("latency_p95", "ms", 412.0, 84.0, "> 120ms"),
                compared(633.0, 121.0),
            ]
        } else {
            vec![
                metric("error_rate", "%", 0.000_21, 0.000_22, "> 0.1%"),
                metric("latency_p95", "ms", 79.0, 84.0, "> 120ms"),
                compared(117.0, 121.0),
            ]
        };
        let summary = if bad { "3 of 3 metrics failed" } else { "3 of 3 metrics passed" };
        Judgement {
            at: self.at(at),
            step,
            window_from: self.at(at - 600.0),
            verdict,
            summary: summary.into(),
            metrics,
            score: None,
            servers: None,
            front_door: None,
        }
    }

    pub(super) fn verify(&self, after_rollback: bool) {
        let mut data = self.finding("orders intact", "data", "18 204 rows, sums equal", "equal");
        data.baseline = Some("18 204".into());
        let mut load = self.finding("front page", "baseline", "median 45 ms (+1 ms)", "at most +25 %");
        (load.baseline, load.samples) = (Some("44 ms".into()), Some(200));
        let findings = vec![data, load, self.finding("front page answers", "http", "200 in 44 ms", "200")];
        let counts = Counts::of(&findings);
        let comparison = Comparison {
            probe: "front page".into(),
            verdict: Verdict::Pass,
            before: ProbeSummary {
                requests: 200,
                errors: 0,
                p50: Some(44.0),
                p95: Some(84.0),
                p99: Some(96.0),
            },
            now: ProbeSummary { requests: 200, errors: 0, p50: Some(45.0), p95: Some(79.0), p99: Some(91.0) },
            u: Some(20_114.0),
            p_value: Some(0.46),
            effect: Some(0.503),
            shift_ms: Some(1.0),
            tolerance_ms: Some(11.0),
            message: "no slower than before".into(),
        };
        let body = VerifyBody {
            live: Some(if after_rollback { "blue" } else { "green" }.into()),
            after_rollback,
            comparisons: vec![comparison],
            metrics: Vec::new(),
            counts,
        };
        let head = self.head::<VerifyBody>(75_000.0, 75_061.0, findings, &counts.sentence());
        self.write(head, body, &["promote.json", "snapshot.json", "baseline.json"]);
    }
}

/// Some movement between -1 and 1, the same at every run.
#[expect(clippy::cast_precision_loss, reason = "small numbers")]
fn wave(step: u64) -> f64 {
    let x = step as f64;
    ((x * 0.7).sin() + (x * 1.9).sin() + (x * 0.23).cos()) / 3.0
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap().flatten() {
        std::fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}

/// The file with the samples behind the judgements.
pub(crate) const SAMPLES: &str = "promote.samples.jsonl.gz";

/// One look, packed.
fn packed_looks() -> Vec<u8> {
    use std::io::Write;
    let mut packer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    packer
        .write_all(
            b"{\"step\":1,\"counting\":1,\"since_ms\":0,\"bake_ms\":10000,\"bin_ms\":50,\"at_ms\":5000,\"given\":[]}\n",
        )
        .unwrap();
    packer.finish().unwrap()
}
