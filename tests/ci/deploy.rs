//! The reusable workflow, job by job, with the real tools: every job has a temporary folder of its own, and the
//! evidence travels as an artifact.

use std::collections::BTreeMap;

use super::*;
use crate::chain::Chain;
use crate::snapshot::walk;

/// The jobs, and the step of each that runs a tool.
const JOBS: [(&str, &str); 5] = [
    ("preflight", "Run the preflight checks"),
    ("snapshot", "Make the way back"),
    ("promote", "Move the traffic"),
    ("verify", "Did it hold?"),
    ("report", "Write the report"),
];

/// A release by the workflow: what each job left for the next one.
struct Release {
    chain: Chain,
    scripts: BTreeMap<String, String>,
    temporary: tempfile::TempDir,
}

impl Release {
    fn new(name: &str) -> Self {
        let chain = Chain::new(name);
        // A busy machine may not measure a baseline in time, and it has its own tests.
        let plan = std::fs::read_to_string(chain.path("release.yaml")).unwrap();
        let (plan, _) = plan.split_once("  baseline:\n").unwrap();
        std::fs::write(chain.path("release.yaml"), plan).unwrap();
        let release = Self {
            chain,
            scripts: scripts(&read(".github/workflows/deploy.yml")).into_iter().collect(),
            temporary: folder(),
        };
        for name in ["ci", "stranger"] {
            let trust = if name == "ci" { "trust" } else { "elsewhere" };
            std::fs::create_dir_all(release.at(trust)).unwrap();
            let (key, public) =
                (release.at(&format!("{name}.key")), release.at(&format!("{trust}/{name}.pem")));
            for arguments in [
                vec!["genpkey", "-algorithm", "ed25519", "-out", key.to_str().unwrap()],
                vec!["pkey", "-in", key.to_str().unwrap(), "-pubout", "-out", public.to_str().unwrap()],
            ] {
                assert_eq!(run(Command::new("openssl").args(arguments)).code, 0);
            }
        }
        release
    }

    fn at(&self, path: &str) -> PathBuf {
        self.temporary.path().join(path)
    }

    fn evidence_of(&self, job: usize) -> PathBuf {
        self.at(JOBS[job].0).join("evidence")
    }

    /// A job: takes over what the one before it handed on, and runs its tool.
    fn job(&self, number: usize, key: &str) -> Ended {
        let (_, step) = JOBS[number];
        let evidence = self.evidence_of(number);
        std::fs::create_dir_all(&evidence).unwrap();
        if number > 0 {
            let before = self.evidence_of(number - 1);
            for file in walk(&before).into_iter().filter(|file| file.is_file()) {
                let to = evidence.join(file.strip_prefix(&before).unwrap());
                std::fs::create_dir_all(to.parent().unwrap()).unwrap();
                std::fs::copy(file, to).unwrap();
            }
        }
        let script = self.at("step.sh");
        write(&script, &self.scripts[step]);
        let mut order = as_a_step(&script);
        order
            .current_dir(self.chain.folder.path())
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap())
            .env("GITHUB_ACTIONS", "true")
            .env("GITHUB_WORKSPACE", self.chain.folder.path())
            .env("GITHUB_OUTPUT", self.at("output"))
            .env("BIN_DIR", binary("promote").parent().unwrap())
            .env("VARIABLES", "\r\nVERSION=1.1\r\n")
            .env("TRAPKEY_PLAN", "release.yaml")
            .env("TRAPKEY_ENVIRONMENT", "production")
            .env("TRAPKEY_STATE", self.at("state"))
            .env("TRAPKEY_TRUST", self.at("trust"))
            .env("TRAPKEY_EVIDENCE", &evidence)
            .envs(self.chain.environment.iter().map(|(name, value)| (name, value)));
        if !key.is_empty() {
            let pem = std::fs::read_to_string(self.at(&format!("{key}.key"))).unwrap();
            order.env("TRAPKEY_SIGN_KEY_PEM", pem);
        }
        run(&mut order)
    }
}

#[test]
fn the_reusable_workflow_takes_a_signed_release_through_its_jobs() {
    let release = Release::new("deploy_workflow");
    for (number, (job, _)) in JOBS.iter().enumerate() {
        let ended = release.job(number, "ci");
        assert_eq!(ended.code, 0, "{job}: {}", ended.stderr);
        let document = release.evidence_of(number).join(format!("{job}.json"));
        assert!(json(&document)["signature"].is_object(), "{job} is not signed");
    }
    assert!(release.evidence_of(4).join("report.html").exists());
    let outputs = std::fs::read_to_string(release.at("output")).unwrap();
    let verdicts: Vec<&str> = outputs.lines().filter(|line| line.starts_with("verdict=")).collect();
    assert_eq!(verdicts, ["verdict=pass"; 5]);
    // Nothing of it lies in the checkout.
    assert!(!release.chain.path("evidence").exists() && !release.chain.path(".trapkey").exists());
}

#[test]
fn what_was_changed_between_two_jobs_or_signed_by_a_stranger_moves_nothing() {
    let release = Release::new("deploy_tampered");
    assert_eq!(release.job(0, "ci").code, 0);
    let document = release.evidence_of(0).join("preflight.json");
    let whole = std::fs::read_to_string(&document).unwrap();
    std::fs::write(&document, whole.replacen("blue is healthy", "blue is quite healthy", 1)).unwrap();
    let ended = release.job(1, "ci");
    assert_eq!(ended.code, 5, "a changed document: {}", ended.stderr);
    for key in ["stranger", ""] {
        assert_eq!(release.job(0, key).code, 0);
        let ended = release.job(1, "ci");
        assert_eq!(ended.code, 5, "signed by {key:?}: {}", ended.stderr);
    }
    assert!(!release.at("state").exists(), "something was begun");
}
