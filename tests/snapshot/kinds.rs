//! What every kind of source has to keep to. A kind without a fixture here fails.

use std::collections::BTreeMap;
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use serde_json::{Value, json};
use trapkey::fault::Fault;
use trapkey::plan::Loaded;
use trapkey::sources::{self, ALL, Choice, Context, Keep, Kept, Order, Pour, ReadBack, Terms, Wanted};

use super::Place;
use crate::support::cluster::Cluster;
use crate::support::docker::{Container, Docker};
use crate::support::mariadb::Mariadb;
use crate::support::postgres::Postgres;
use crate::support::redis::Redis;

/// One source that works and one that breaks, as lines of a plan; and what the plan needs besides.
struct Fixture {
    works: String,
    breaks: String,
    more: &'static str,
    /// What has to run meanwhile.
    _running: Option<Box<dyn std::any::Any>>,
}

const ROUTER: &str = "promote: {strategy: blue_green, router: {kind: haproxy, target: /run/x.sock}, sides: {blue: {url: \
                      'http://127.0.0.1:1'}, green: {url: 'http://127.0.0.1:2'}}}\n";

fn fixture(kind: &str, place: &Place, server: &Postgres) -> Fixture {
    let mut running: Option<Box<dyn std::any::Any>> = None;
    let (works, breaks, more) = match kind {
        "docker_compose" => {
            place.write("docker-compose.yml", b"version: '3.8'\nservices: {web: {image: acme/shop}}\n");
            let docker = Docker::start(&[Container::of("web")]);
            for program in ["docker", "docker-compose"] {
                let script = format!("export DOCKER_HOST={}\nexec {program} \"$@\"", docker.host());
                place.script(program, &script);
            }
            running = Some(Box::new(docker));
            let with = "with: {compose: [docker-compose, --host, unix:///no/such/socket], docker: ./docker}";
            let works = with.replace("docker-compose, --host, unix:///no/such/socket", "./docker-compose");
            (
                format!("{{name: s, kind: docker_compose, {works}}}"),
                format!("{{name: s, kind: docker_compose, {with}}}"),
                "",
            )
        }
        "kubernetes" => {
            let cluster = Cluster::start(super::kubernetes::shop());
            cluster.kubeconfig(place.folder.path());
            running = Some(Box::new(cluster));
            let source = "{name: s, kind: kubernetes, target: shop, with: {kubeconfig: kubeconfig}}";
            (source.into(), source.replace("target: shop", "target: nothing-there"), "")
        }
        "versions" => (
            "{name: s, kind: versions, with: {of: [{name: os, command: [uname, -r]}]}}".into(),
            "{name: s, kind: versions, with: {of: [{name: os, command: ['false']}]}}".into(),
            "",
        ),
        "files" => {
            place.write("deploy/a", b"1");
            (
                "{name: s, kind: files, target: deploy}".into(),
                "{name: s, kind: files, target: gone}".into(),
                "",
            )
        }
        "command" => (
            "{name: s, kind: command, target: [echo, hello]}".into(),
            "{name: s, kind: command, target: [sh, -c, 'echo half; exit 1']}".into(),
            "",
        ),
        "postgres" => (
            format!("{{name: s, kind: postgres, target: \"{}\"}}", server.url("postgres")),
            format!("{{name: s, kind: postgres, target: \"{}\"}}", server.url("no_such_database")),
            "",
        ),
        "mysql" => {
            let server = Mariadb::shared();
            let url = server.database("contract");
            server.execute("contract", "CREATE TABLE t (id INT PRIMARY KEY)");
            running = Some(Box::new(server));
            (
                format!("{{name: s, kind: mysql, target: \"{url}\"}}"),
                format!("{{name: s, kind: mysql, target: \"{url}_not_there\"}}"),
                "",
            )
        }
        "redis" => {
            let server = Redis::start();
            let url = server.url();
            running = Some(Box::new(server));
            (
                format!("{{name: s, kind: redis, target: \"{url}\"}}"),
                "{name: s, kind: redis, target: \"redis://127.0.0.1:1\"}".into(),
                "",
            )
        }
        "sqlite" => {
            place.write(
                "other.db",
                b"this is no database, though it is long enough to be taken for one by a file's size",
            );
            let made = std::process::Command::new("sqlite3")
                .args(["shop.db", "CREATE TABLE t (id)"])
                .current_dir(place.folder.path())
                .status();
            assert!(made.unwrap().success());
            (
                "{name: s, kind: sqlite, target: shop.db}".into(),
                "{name: s, kind: sqlite, target: other.db}".into(),
                "",
            )
        }
        "router_state" => ("{name: s, kind: router_state}".into(), String::new(), ROUTER),
        other => {
            panic!("the kind of source `{other}` has no fixture: add one, it is held to the same contract")
        }
    };
    Fixture { works, breaks, more, _running: running }
}

/// Keeps everything in memory.
#[derive(Default)]
struct Memory(BTreeMap<Vec<u8>, Vec<u8>>);

impl Keep for Memory {
    fn tree(&mut self, _: &[u8], from: &Path, choice: &Choice<'_>, _: Terms) -> Result<Kept, Fault> {
        let mut kept = Kept::default();
        for file in super::walk(from) {
            if choice(file.strip_prefix(from).unwrap(), false) == Wanted::Yes {
                self.0.insert(file.as_os_str().as_bytes().to_vec(), std::fs::read(&file).unwrap());
                kept.entries += 1;
            }
        }
        Ok(kept)
    }
    fn file(&mut self, path: &[u8], pour: Pour<'_>) -> Result<(), Fault> {
        let mut bytes = Vec::new();
        pour(&mut bytes)?;
        assert!(self.0.insert(path.to_vec(), bytes).is_none(), "the same path twice");
        Ok(())
    }
}

impl ReadBack for Memory {
    fn read(&self, path: &[u8], out: &mut dyn Write) -> Result<(), Fault> {
        out.write_all(&self.0[path]).map_err(|e| Fault::infrastructure("pipe").cause(e))
    }
}

fn back_up(place: &Place, live: &dyn Fn() -> Result<Value, Fault>) -> Result<Memory, Fault> {
    let loaded = Loaded::read(&place.path("release.yaml"), BTreeMap::new())?;
    let spec = &loaded.plan.snapshot.as_ref().unwrap().sources[0];
    let source = sources::prepare(&Order { spec, loaded: &loaded }).map_err(|p| loaded.fault(p))?;
    let context = Context { store: Some(Path::new("/nowhere")), live_weights: Some(live) };
    let mut memory = Memory::default();
    source.back_up(&context, &mut memory)?;
    source.prove(&memory)?;
    Ok(memory)
}

#[test]
fn every_kind_gives_something_and_fails_as_a_whole() {
    let server = Postgres::shared();
    for kind in ALL {
        let place = Place::new("");
        let fixture = fixture(kind.name, &place, &server);
        place.plan(&fixture.works, fixture.more);
        let kept = back_up(&place, &|| Ok(json!({"blue": 100, "green": 0})))
            .unwrap_or_else(|e| panic!("{}: {e}", kind.name));
        assert!(kept.0.values().any(|bytes| !bytes.is_empty()), "{}", kind.name);
        let failed = if fixture.breaks.is_empty() {
            back_up(&place, &|| Err(Fault::infrastructure("the router does not answer")))
        } else {
            place.plan(&fixture.breaks, fixture.more);
            back_up(&place, &|| Ok(Value::Null))
        };
        let fault = failed.err().unwrap_or_else(|| panic!("{} took what is broken for whole", kind.name));
        assert_eq!(fault.exit.code(), 4, "{}: {fault}", kind.name);
    }
}

#[test]
fn every_kind_refuses_unknown_settings_and_has_a_schema_and_a_true_example() {
    for kind in ALL {
        let schema = (kind.settings)(&mut schemars::SchemaGenerator::default());
        assert!(schema.as_object().is_some(), "{}", kind.name);
        assert!(kind.example.contains(&format!("kind: {}", kind.name)), "{}", kind.name);
        assert!(!kind.about.is_empty() && !kind.target.is_empty());
        let set: BTreeMap<String, String> =
            [("DATABASE_URL".into(), "postgres://shop@db/shop".into())].into();
        let prepare = |source: &str| {
            let place = Place::new("");
            place.plan(source, ROUTER);
            let loaded = Loaded::read(&place.path("release.yaml"), set.clone()).unwrap();
            let spec = &loaded.plan.snapshot.as_ref().unwrap().sources[0];
            sources::prepare(&Order { spec, loaded: &loaded })
                .map(drop)
                .map_err(|p| (p.place.is_some(), p.message))
        };
        assert_eq!(prepare(kind.example), Ok(()), "{}", kind.name);
        let wrong = format!("{{name: s, kind: {}, target: x, with: {{nonsense: 1}}}}", kind.name);
        let (placed, message) = prepare(&wrong).unwrap_err();
        assert!(placed && message.contains("nonsense"), "{}: {message}", kind.name);
    }
}

#[test]
fn the_kinds_have_names_of_their_own() {
    let names: std::collections::BTreeSet<_> = ALL.iter().map(|kind| kind.name).collect();
    assert_eq!(names.len(), ALL.len());
}

#[test]
fn a_kind_that_cannot_be_restored_into_a_live_place_says_so() {
    let place = Place::new("{name: s, kind: command, target: [echo, hello]}");
    place.create();
    let fault = super::live::restore_into(&place, "", "anywhere", true).unwrap_err();
    assert!(fault.exit.code() == 2 && fault.to_string().contains("--to"), "{fault}");
}

#[test]
fn the_output_of_a_command_without_its_end_marker_is_not_kept() {
    for (marker, output, code) in [
        ("-- done", "printf 'rows\\n-- done\\n'", 0),
        ("-- done", "printf 'rows\\n-- do'", 4),
        // Far from the end it does not count.
        ("-- done", "echo '-- done'; head -c 70000 /dev/zero", 4),
        ("~(?m)^[0-9]+ rows$", "head -c 70000 /dev/zero; printf '\\n12 rows\\n'", 0),
        ("~(?m)^[0-9]+ rows$", "echo 'many rows'", 4),
    ] {
        let place = Place::new("");
        place.script("dump.sh", output);
        place.plan(
            &format!("{{name: s, kind: command, target: [./dump.sh], with: {{end_marker: '{marker}'}}}}"),
            "",
        );
        let ended = place.call(&["create"]);
        assert_eq!(ended.code, code, "{output}: {}", ended.stderr);
        if code != 0 {
            assert!(
                ended.stderr.contains("is cut") && ended.stderr.contains("end_marker"),
                "{}",
                ended.stderr
            );
            place.assert_nothing_kept();
        }
    }
    let place = Place::new("{name: s, kind: command, target: [echo, hello], with: {end_marker: '~('}}");
    let ended = place.call(&["create"]);
    assert!(ended.code == 2 && ended.stderr.contains("not a regular expression"), "{}", ended.stderr);
}
