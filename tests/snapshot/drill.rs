//! Drills through the binary: a real server is started, filled, checked and gone afterwards.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;

use super::{Place, walk};
use crate::support::postgres::{PASSWORD, Postgres, program};
use crate::support::{Ended, call, folder, json, run, tool, wait_until};

const SHOP: &str =
    "CREATE ROLE drill_reader; CREATE TABLE orders (id bigserial PRIMARY KEY, cents bigint NOT NULL);
    INSERT INTO orders (cents) SELECT n * 7 FROM generate_series(1, 50) n;
    GRANT SELECT ON orders TO drill_reader";

/// A place with a database and files, a snapshot of them, and a scratch folder of its own.
struct Stage {
    place: Place,
    scratch: tempfile::TempDir,
    url: String,
    _server: std::sync::Arc<Postgres>,
}

impl Stage {
    fn new(database: &str) -> Self {
        let server = Postgres::shared();
        let url = server.database(database);
        Postgres::execute(&url, &SHOP.replace("drill_reader", &format!("reader_{database}")));
        let place = Place::new("{name: config, kind: files, target: deploy}");
        let scratch = folder();
        // Whoever runs the scratch server passes through.
        std::fs::set_permissions(scratch.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755))
            .unwrap();
        let stage = Self { place, scratch, url, _server: server };
        stage.place.write("deploy/app.yaml", b"replicas: 3\n");
        stage.plan("{rto: 5m, rpo: 24h}");
        let ended = stage.call(&["create"]);
        assert_eq!(ended.code, 0, "{}", ended.stderr);
        stage
    }

    fn plan(&self, drill: &str) {
        let text = format!(
            "version: 1\nservice: shop\nrelease: {{version: 1.4.2}}\nsnapshot:\n  store: store\n  encryption: {{none_needed_because: a test}}\n  drill: {drill}\n  sources:\n    - {{name: config, kind: files, target: deploy}}\n    - {{name: shop-data, kind: postgres, target: \"${{SHOP_URL}}\", with: {{tables: [{{name: orders, sum: cents}}]}}}}\n"
        );
        self.place.write("release.yaml", text.as_bytes());
    }

    fn command(&self) -> Command {
        let mut command = self.place.command();
        command.env("SHOP_URL", &self.url).env("TRAPKEY_SCRATCH", self.scratch.path());
        command
    }

    fn call(&self, arguments: &[&str]) -> Ended {
        run(self.command().args(arguments))
    }

    /// Drills; nothing may be left of it.
    fn drill(&self, code: i32) -> Value {
        let ended = self.call(&["drill"]);
        assert_eq!(ended.code, code, "{}", ended.stderr);
        self.assert_gone();
        assert!(!ended.stderr.contains(PASSWORD));
        self.document()
    }

    fn document(&self) -> Value {
        json(&self.place.path("evidence/drill.json"))
    }

    fn left(&self) -> Vec<PathBuf> {
        std::fs::read_dir(self.scratch.path()).unwrap().flatten().map(|entry| entry.path()).collect()
    }

    fn assert_gone(&self) {
        assert_eq!(self.left(), Vec::<PathBuf>::new());
        assert_eq!(workers(self.scratch.path()), Vec::<PathBuf>::new());
    }
}

/// Processes that work in a folder.
fn workers(folder: &Path) -> Vec<PathBuf> {
    let works =
        |entry: &PathBuf| std::fs::read_link(entry.join("cwd")).is_ok_and(|cwd| cwd.starts_with(folder));
    std::fs::read_dir("/proc").unwrap().flatten().map(|entry| entry.path()).filter(works).collect()
}

fn verdicts(document: &Value) -> Vec<(String, String)> {
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    document["findings"].as_array().unwrap().iter().map(|f| (text(&f["name"]), text(&f["verdict"]))).collect()
}

fn finding<'a>(document: &'a Value, name: &str) -> &'a Value {
    let all = document["findings"].as_array().unwrap();
    all.iter().find(|f| f["name"] == name).unwrap_or_else(|| panic!("no finding `{name}` in {all:#?}"))
}

const CHECKS: &str = "{rto: 5m, rpo: 24h, checks: [\
    {name: orders are there, kind: postgres, target: '${DRILL_SHOP_DATA}', with: {query: 'SELECT count(*) FROM orders'}, expect: {value: 50}},\
    {name: configuration is there, kind: file, target: '${DRILL_CONFIG}/app.yaml', expect: {exists: true}},\
    {name: the shop starts, kind: command, target: [grep, -q, replicas, '${DRILL_FOLDER}/config/app.yaml'], expect: {exit: 0}}]}";

#[test]
fn a_drill_restores_starts_checks_measures_and_cleans_up() {
    let stage = Stage::new("drilled");
    stage.plan(CHECKS);
    assert_eq!(stage.call(&["create"]).code, 0);
    let document = stage.drill(0);
    assert_eq!(document["verdict"], "pass");
    let all = verdicts(&document);
    assert!(all.iter().all(|(_, verdict)| verdict == "pass"), "{all:?}");
    let names: Vec<&str> = all.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(
        names,
        [
            "every file is restored",
            "shop-data runs again",
            "data intact: orders",
            "orders are there",
            "configuration is there",
            "the shop starts",
            "recovery time",
            "recovery point"
        ]
    );
    let drill = &document["drill"];
    let (recovery, parts) = (
        drill["recovery_ms"].as_f64().unwrap(),
        ["restore_ms", "databases_ms", "checks_ms"].map(|key| drill[key].as_f64().unwrap()),
    );
    assert!(parts.iter().all(|part| *part > 0.0) && recovery >= parts.iter().sum(), "{drill}");
    assert_eq!((drill["rto_s"].as_f64(), drill["rpo_s"].as_f64()), (Some(300.0), Some(86_400.0)));
    assert!(drill["age_s"].as_f64().unwrap() > 0.0);
    assert_eq!((&drill["sources"][1]["started"], &drill["version"]), (&true.into(), &"1.4.2".into()));
    assert_eq!(drill["checks"]["passed"], 3);
    assert_eq!(finding(&document, "recovery time")["expected"], "<= 5 min");
    assert!(!document.to_string().contains("trapkey_drill:"), "the scratch password is in the document");
    let schema = json(&Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/schemas/drill.v1.json"));
    let validator = jsonschema::draft202012::new(&schema).unwrap();
    let errors: Vec<String> = validator.iter_errors(&document).map(|e| e.to_string()).collect();
    assert!(errors.is_empty(), "{errors:?}");

    // The report of a release that was drilled on its way tells of it.
    let mut report = tool("report", stage.place.folder.path());
    let ended = run(report.env("SHOP_URL", &stage.url));
    assert_eq!(ended.code, 0, "{}", ended.stderr);
    let text = |file: &str| std::fs::read_to_string(stage.place.path("evidence").join(file)).unwrap();
    assert!(text("report.html").contains("The way back, rehearsed"));
    assert!(text("junit.xml").contains("drill.postgres") && text("summary.md").contains("recovery time"));
}

#[test]
fn what_misses_an_objective_or_a_check_closes_the_gate() {
    let stage = Stage::new("missed");
    stage.plan("{rto: 1ms}");
    let document = stage.drill(1);
    let time = finding(&document, "recovery time");
    assert_eq!((&time["verdict"], &time["expected"]), (&"fail".into(), &"<= 1 ms".into()));
    assert_eq!(finding(&document, "recovery point")["severity"], "info");

    std::thread::sleep(std::time::Duration::from_millis(1100));
    stage.plan("{rpo: 1s}");
    let document = stage.drill(1);
    assert_eq!(finding(&document, "recovery point")["verdict"], "fail");
    assert_eq!(finding(&document, "recovery time")["verdict"], "pass");

    stage.plan(&CHECKS.replace("{value: 50}", "{value: 51}"));
    let document = stage.drill(1);
    assert_eq!(finding(&document, "orders are there")["verdict"], "fail");
    // What is not fit for use was not recovered, however long that took.
    assert_eq!(finding(&document, "recovery time")["verdict"], "no_data");
    assert_eq!(document["drill"]["recovery_ms"], Value::Null);
}

#[test]
fn rows_that_are_not_those_of_the_snapshot_are_found() {
    let stage = Stage::new("other_rows");
    // A dump that went well, with figures that another moment had.
    let real = program("pg_dump").display().to_string();
    stage.place.script("bin/pg_dump", &format!("{real} \"$@\" --exclude-table-data=orders"));
    std::os::unix::fs::symlink(program("pg_restore"), stage.place.path("bin/pg_restore")).unwrap();
    let plan = std::fs::read_to_string(stage.place.path("release.yaml")).unwrap();
    stage.place.write("release.yaml", plan.replace("with: {tables", "with: {bin: bin, tables").as_bytes());
    let ended = stage.call(&["create"]);
    assert_eq!(ended.code, 0, "{}", ended.stderr);
    let document = stage.drill(1);
    let orders = finding(&document, "data intact: orders");
    assert_eq!(orders["verdict"], "fail");
    assert_eq!(orders["observed"], "0 rows, sum of cents 0");
    assert_eq!(orders["expected"], "50 rows, sum of cents 8925");
    assert_eq!(finding(&document, "recovery time")["verdict"], "no_data");
}

#[test]
fn without_a_snapshot_or_a_server_nothing_passes() {
    let place = Place::new("{name: config, kind: files, target: deploy}");
    place.write("deploy/a", b"a");
    assert_eq!(place.call(&["drill"]).code, 4, "there is no store");
    place.create();
    let plan = std::fs::read_to_string(place.path("release.yaml")).unwrap();
    place.write("release.yaml", plan.replace("service: shop", "service: other").as_bytes());
    let ended = place.call(&["drill"]);
    assert_eq!(ended.code, 3, "{}", ended.stderr);
    assert!(ended.stderr.contains("no snapshot of other.production"), "{}", ended.stderr);
    assert_eq!(json(&place.path("evidence/drill.json"))["verdict"], "undecided");

    let stage = Stage::new("no_server");
    // Programs of the client alone, as most runners have them.
    for name in ["pg_dump", "pg_restore"] {
        std::fs::create_dir_all(stage.place.path("bin")).unwrap();
        std::os::unix::fs::symlink(program(name), stage.place.path("bin").join(name)).unwrap();
    }
    let mut command = Command::new("unshare");
    let script = "mount -t tmpfs none /usr/lib/postgresql || exit 77; exec \"$0\" drill";
    command
        .args(if super::is_root() { &["-m"][..] } else { &["-rm"][..] })
        .args(["sh", "-c", script])
        .arg(crate::support::binary("snapshot"))
        .current_dir(stage.place.folder.path())
        .env("SHOP_URL", &stage.url)
        .env("TRAPKEY_SCRATCH", stage.scratch.path());
    let ended = run(&mut command);
    assert_eq!(ended.code, 4, "{}", ended.stderr);
    assert!(ended.stderr.contains("no PostgreSQL server is installed"), "{}", ended.stderr);
    stage.assert_gone();
    let document = stage.document();
    assert_eq!(finding(&document, "shop-data runs again")["verdict"], "error");
    assert_eq!(finding(&document, "recovery time")["verdict"], "no_data");
}

#[test]
fn damaged_data_is_an_error_and_leaves_nothing() {
    let stage = Stage::new("damaged");
    let packs = walk(&stage.place.path("store/data"));
    for pack in &packs {
        let mut bytes = std::fs::read(pack).unwrap();
        let middle = bytes.len() / 3;
        bytes[middle] ^= 1;
        std::fs::remove_file(pack).unwrap();
        std::fs::write(pack, bytes).unwrap();
    }
    let ended = stage.call(&["drill"]);
    assert_eq!(ended.code, 4, "{}", ended.stderr);
    stage.assert_gone();
    assert_eq!(stage.document()["verdict"], "error");
}

/// A check that waits, so that the drill can be stopped while its server runs.
const WAITING: &str = "{checks: [{name: waits, kind: command, target: [sh, -c, 'while [ -e release.yaml ]; do sleep 0.2; done'], timeout: 10m, expect: {exit: 0}}]}";

/// Begins a drill and waits until its check waits.
fn begun(stage: &Stage) -> std::process::Child {
    stage.plan(WAITING);
    let child = stage.command().arg("drill").stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    wait_until("the scratch server", || {
        workers(stage.scratch.path()).len() >= 2
            && stage.left().iter().any(|path| path.join("files/config").exists())
    });
    child
}

#[test]
fn a_signal_ends_the_drill_and_leaves_nothing() {
    let stage = Stage::new("signalled");
    for signal in ["-TERM", "-INT"] {
        let child = begun(&stage);
        assert!(Command::new("kill").args([signal, &child.id().to_string()]).status().unwrap().success());
        let ended = child.wait_with_output().unwrap();
        let stderr = String::from_utf8_lossy(&ended.stderr);
        assert_eq!(ended.status.code(), Some(4), "{stderr}");
        assert!(stderr.contains("interrupted"), "{stderr}");
        stage.assert_gone();
        assert_eq!(stage.document()["verdict"], "error");
    }
}

#[test]
fn the_next_drill_removes_what_a_killed_one_left() {
    let stage = Stage::new("killed");
    let mut child = begun(&stage);
    let foreign = stage.scratch.path().join("trapkey-drill-of-somebody");
    std::fs::create_dir(&foreign).unwrap();
    // Another drill at the same time leaves the living one alone.
    stage.plan("{rto: 5m}");
    let ended = stage.call(&["drill"]);
    assert_eq!(ended.code, 0, "{}", ended.stderr);
    assert_eq!(stage.left().len(), 2);
    child.kill().unwrap();
    child.wait().unwrap();
    // The server ends with its drill, without anybody else.
    wait_until("the end of the server", || workers(stage.scratch.path()).is_empty());
    assert_eq!(stage.left().len(), 2);
    let ended = stage.call(&["drill"]);
    assert_eq!(ended.code, 0, "{}", ended.stderr);
    assert!(ended.stderr.contains("which a killed drill had left"), "{}", ended.stderr);
    assert_eq!(stage.left(), [foreign], "what is not ours stays");
}

#[test]
fn wrong_checks_of_a_drill_are_found_by_every_tool_that_reads_the_plan() {
    let stage = Stage::new("wrong_plans");
    for (drill, words) in [
        ("{checks: [{name: a, kind: fille, target: x, expect: {exists: true}}]}", "did you mean `file`?"),
        (
            "{checks: [{name: a, kind: file, target: '${DRILL_CONFG}', expect: {exists: true}}]}",
            "DRILL_CONFG",
        ),
        ("{checks: [{name: a, kind: file, target: x, expect: {exsts: true}}]}", "did you mean `exists`?"),
        (
            "{checks: [{name: a, kind: file, target: x}, {name: a, kind: file, target: y}]}",
            "two checks are named `a`",
        ),
        ("{rto: 0s}", "`rto` of nothing"),
        ("{rta: 5m}", "did you mean `rt"),
    ] {
        stage.plan(drill);
        let ended = stage.call(&["drill"]);
        assert_eq!(ended.code, 2, "{drill}: {}", ended.stderr);
        assert!(
            ended.stderr.contains(words) && ended.stderr.contains("release.yaml:7:"),
            "{drill}: {}",
            ended.stderr
        );
    }
    stage.assert_gone();
    // Two sources that the checks could not tell apart.
    let place = Place::new("{name: a-b, kind: files, target: x}\n{name: a_b, kind: files, target: y}");
    let plan = std::fs::read_to_string(place.path("release.yaml")).unwrap();
    place.write("release.yaml", plan.replace("  sources:", "  drill: {rto: 1m}\n  sources:").as_bytes());
    let ended = place.call(&["list"]);
    assert!(ended.code == 2 && ended.stderr.contains("${DRILL_A_B}"), "{}", ended.stderr);
}

/// The script of a step of the shipped workflow, as the runner would get it.
fn script(step: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("templates/workflows/drill.yml");
    let text = std::fs::read_to_string(path).unwrap();
    let mut lines = text.lines().skip_while(|line| line.trim() != format!("- name: {step}"));
    assert!(lines.next().is_some(), "no step `{step}`");
    let mut lines = lines.skip_while(|line| line.trim() != "run: |").skip(1).peekable();
    let depth = lines.peek().map_or(0, |line| line.len() - line.trim_start().len());
    let inside = |line: &&str| line.trim().is_empty() || line.len() - line.trim_start().len() >= depth;
    let script: String =
        lines.take_while(inside).map(|line| format!("{}\n", line.get(depth..).unwrap_or_default())).collect();
    assert!(!script.contains("${{"), "an expression stands inside a script: {script}");
    script
}

fn step(stage: &Stage, script: &str, variables: &[(&str, &str)]) -> (Ended, String) {
    let place = &stage.place;
    place.write("script.sh", script.as_bytes());
    place.write("output", b"");
    place.write("summary", b"");
    let ended = run(Command::new("bash")
        .args(["-e", "script.sh"])
        .current_dir(place.folder.path())
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap())
        .env("BIN_DIR", crate::support::binary("snapshot").parent().unwrap())
        .env("GITHUB_OUTPUT", place.path("output"))
        .env("GITHUB_STEP_SUMMARY", place.path("summary"))
        .env("TRAPKEY_SCRATCH", stage.scratch.path())
        .envs(variables.iter().copied()));
    assert!(!place.path("pwned").exists(), "a value was run as code");
    let outputs = std::fs::read_to_string(place.path("output")).unwrap();
    (ended, outputs)
}

#[test]
fn the_monthly_workflow_drills_with_the_real_tool_and_without_the_live_database() {
    let stage = Stage::new("workflow");
    stage.plan(CHECKS);
    let plan = std::fs::read_to_string(stage.place.path("release.yaml")).unwrap();
    // As plans are: the version and what the release brings come with the release, not with the drill.
    let plan = plan.replace("{version: 1.4.2}", "{version: \"${VERSION}\", artifacts: [dist/shop.tar.gz]}");
    stage.place.write("release.yaml", plan.replace("SHOP_URL", "DATABASE_URL").as_bytes());
    let rehearse = script("Rehearse the way back");
    let nobody = ("DATABASE_URL", "postgres://nobody@127.0.0.1:1/none");
    let (ended, outputs) = step(&stage, &rehearse, &[nobody, ("VERSION", "drill"), ("SNAPSHOT", "latest")]);
    assert_eq!(ended.code, 0, "{}", ended.stderr);
    stage.assert_gone();
    assert!(outputs.contains("verdict=pass") && outputs.contains("recovery_seconds="), "{outputs}");
    let hostile = "$(touch pwned) `touch pwned`; touch pwned";
    let (ended, _) = step(&stage, &rehearse, &[nobody, ("VERSION", "drill"), ("SNAPSHOT", hostile)]);
    assert_eq!(ended.code, 2, "{}", ended.stderr);
    let said = [("VERDICT", "pass"), ("SUMMARY", hostile), ("RECOVERY", "1.5"), ("AGE", "")];
    let (ended, _) = step(&stage, &script("Say what came of it"), &said);
    assert_eq!(ended.code, 0, "{}", ended.stderr);
    let summary = std::fs::read_to_string(stage.place.path("summary")).unwrap();
    assert_eq!(summary, format!("Drill: pass\n\n{hostile}\n\n- recovered in 1.5 s\n"));
}

#[test]
fn a_whole_server_comes_up_again_with_its_roles() {
    let server = Postgres::of_its_own();
    let url = server.database("shop");
    Postgres::execute(&url, SHOP);
    let place = Place::new(
        "{name: server, kind: postgres, target: \"${SHOP_URL}\", with: {whole_server: true, tables: [{name: orders, sum: cents}]}}",
    );
    let plan = std::fs::read_to_string(place.path("release.yaml")).unwrap();
    let drill = "  drill: {checks: [{name: reads, kind: postgres, target: '${DRILL_SERVER}', \
                 with: {query: \"SELECT has_table_privilege('drill_reader', 'orders', 'SELECT')::int\"}, expect: {value: 1}}]}\n  sources:";
    place.write("release.yaml", plan.replace("  sources:", drill).as_bytes());
    let scratch = folder();
    std::fs::set_permissions(scratch.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    for command in ["create", "drill"] {
        let mut order = place.command();
        order.arg(command).env("SHOP_URL", &url).env("TRAPKEY_SCRATCH", scratch.path());
        let ended = run(&mut order);
        assert_eq!(ended.code, 0, "{command}: {}", ended.stderr);
    }
    let document = json(&place.path("evidence/drill.json"));
    assert_eq!(finding(&document, "data intact: orders")["verdict"], "pass");
    assert_eq!(finding(&document, "reads")["verdict"], "pass");
    assert_eq!(std::fs::read_dir(scratch.path()).unwrap().count(), 0);
}

/// Runs SQL in a file of SQLite; gives what it prints.
fn sqlite(file: &Path, sql: &str) -> String {
    let ended = run(Command::new("sqlite3").args(["-batch", "-init", "/dev/null"]).arg(file).arg(sql));
    assert_eq!(ended.code, 0, "{sql}: {}", ended.stderr);
    ended.stdout.trim().to_owned()
}

#[test]
fn sqlite_comes_up_again_in_a_drill_and_goes_back_in_place_from_any_folder() {
    let place = Place::new(
        "{name: shop, kind: sqlite, target: data/shop.db, with: {tables: [{name: orders, sum: cents}]}}",
    );
    let plan = std::fs::read_to_string(place.path("release.yaml")).unwrap();
    let drill = "  drill: {checks: [{name: reads, kind: command, target: [sqlite3, '${DRILL_SHOP}', 'SELECT count(*) FROM orders'], \
                 expect: {stdout: '2'}}]}\n  sources:";
    place.write("release.yaml", plan.replace("  sources:", drill).as_bytes());
    std::fs::create_dir(place.path("data")).unwrap();
    let file = place.path("data/shop.db");
    sqlite(&file, "CREATE TABLE orders (cents INTEGER); INSERT INTO orders VALUES (7), (14)");
    place.create();
    sqlite(&file, "DELETE FROM orders");
    place.good(&["drill"]);
    let document = json(&place.path("evidence/drill.json"));
    assert_eq!(finding(&document, "data intact: orders")["observed"], "2 rows, sum of cents 21");
    assert_eq!(finding(&document, "reads")["verdict"], "pass");
    assert_eq!(sqlite(&file, "SELECT count(*) FROM orders"), "0", "the drill touched the live database");
    // Called from elsewhere: the target is relative to the plan.
    let elsewhere = folder();
    let plan = place.path("release.yaml").display().to_string();
    let ended = call("snapshot", elsewhere.path(), &["restore", "--in-place", "--plan", &plan, "--json"]);
    assert_eq!(ended.code, 0, "{}", ended.stderr);
    assert_eq!(sqlite(&file, "SELECT sum(cents) FROM orders"), "21");
    assert!(ended.stdout.contains("\"before\": \""), "{}", ended.stdout);
}

#[test]
fn a_database_that_is_not_started_is_a_warning_and_never_a_pass_of_its_own() {
    let server = crate::support::redis::Redis::start();
    server.call(&["SET", "greeting", "hello"]);
    let place = Place::new("{name: cache, kind: redis, target: \"${CACHE_URL}\"}");
    let order = |arguments: &[&str]| run(place.command().args(arguments).env("CACHE_URL", server.url()));
    assert_eq!(order(&["create"]).code, 0);
    let ended = order(&["drill"]);
    assert_eq!(ended.code, 0, "{}", ended.stderr);
    let document = json(&place.path("evidence/drill.json"));
    let skipped = finding(&document, "cache runs again");
    assert_eq!((&skipped["verdict"], &skipped["severity"]), (&"skipped".into(), &"warning".into()));
    assert!(skipped["message"].as_str().unwrap().contains("starts no Redis"), "{skipped}");
    assert_eq!(document["drill"]["sources"][0]["started"], false);
    let ended = order(&["restore", "--in-place"]);
    assert!(ended.code == 2 && ended.stderr.contains("only when it starts"), "{}", ended.stderr);
}
