//! A Compose project: its resolved configuration and the digests of its images, and what stops it.

use std::process::Command;

use super::Place;
use crate::support::docker::{Container, Docker};
use crate::support::{Ended, run};

const PROJECT: &str = "version: '3.8'\nservices:\n  web:\n    image: \"acme/shop:${SHOP:-1.4.1}\"\n    environment:\n      \
                       DB_PASSWORD: ${DB_PASSWORD}\n      PRICE: cost $$5\n  worker:\n    image: acme/shop:1.4.1\n";

/// The Compose of Debian, which needs no daemon to resolve a configuration.
const V1: &str = "compose: [docker-compose]";

struct Project {
    place: Place,
    docker: Docker,
}

impl Project {
    fn new(containers: &[Container]) -> Self {
        let project = Self { place: Place::new(""), docker: Docker::start(containers) };
        project.place.write("deploy/docker-compose.yml", PROJECT.as_bytes());
        project.place.write("deploy/.env", b"DB_PASSWORD='s3cr3t-heron'\n");
        project.with(V1);
        project
    }

    fn with(&self, settings: &str) {
        let source = format!("{{name: stack, kind: docker_compose, target: deploy, with: {{{settings}}}}}");
        self.place.plan(&source, "");
    }

    fn create(&self) -> Ended {
        run(self.place.command().arg("create").env("DOCKER_HOST", self.docker.host()))
    }

    fn good(&self) -> serde_json::Value {
        let ended = self.create();
        assert_eq!(ended.code, 0, "{}", ended.stderr);
        self.place.document()["snapshot"]["sources"][0].clone()
    }

    fn fails(&self, words: &[&str]) {
        let ended = self.create();
        assert_eq!(ended.code, 4, "{words:?}: {}", ended.stderr);
        for word in words {
            assert!(ended.stderr.contains(word), "{word}: {}", ended.stderr);
        }
        assert!(!ended.stderr.contains("heron"), "{}", ended.stderr);
    }

    /// All containers, and another one of that number.
    fn change(&self, number: usize, change: fn(&mut Container)) {
        *self.docker.containers.lock().unwrap() = both();
        change(&mut self.docker.containers.lock().unwrap()[number]);
    }

    fn restored(&self) -> std::path::PathBuf {
        let _ = std::fs::remove_dir_all(self.place.path("restored"));
        self.place.good(&["restore", "--to", "restored"]);
        self.place.path("restored/stack")
    }
}

fn both() -> Vec<Container> {
    vec![Container::of("web"), Container::of("worker"), Container::of("web")]
}

#[test]
fn what_runs_is_kept_resolved_and_by_digest_and_comes_up_again() {
    let project = Project::new(&both());
    let record = project.good();
    let digest = format!("acme/shop@sha256:{}", "1".repeat(64));
    let images = &record["details"]["images"];
    assert_eq!((&images[0]["service"], &images[0]["running"]), (&"web".into(), &2.into()));
    assert_eq!((&images[1]["service"], &images[1]["digest"]), (&"worker".into(), &digest.as_str().into()));
    assert_eq!(record["details"]["project"], "demo");
    assert!(record["proof"].as_str().unwrap().contains("2 services parsed, 2 of 2 images named by digest"));
    let folder = project.restored();
    let config = std::fs::read_to_string(folder.join("compose.yaml")).unwrap();
    assert!(
        config.contains("DB_PASSWORD: s3cr3t-heron") && config.contains("image: acme/shop:1.4.1"),
        "{config}"
    );
    // The value is in the snapshot, and nowhere else.
    assert!(!project.place.document().to_string().contains("heron"));
    // The real Compose puts the two files together: the same configuration, images by digest.
    let line = record["details"]["bring_up"]
        .as_str()
        .unwrap()
        .replace("RESTORED", "restored")
        .replace("up --detach", "config");
    let ended = run(Command::new("sh").args(["-c", &line]).current_dir(project.place.folder.path()));
    assert_eq!(ended.code, 0, "{line}: {}", ended.stderr);
    assert_eq!(ended.stdout.matches(&format!("image: {digest}")).count(), 2, "{}", ended.stdout);
    assert!(
        ended.stdout.contains("PRICE: cost $$5") && ended.stdout.contains("s3cr3t-heron"),
        "{}",
        ended.stdout
    );
}

#[test]
fn files_profiles_and_variables_are_taken_as_the_plan_says() {
    let project = Project::new(&[Container::of("web")]);
    project.place.write(
        "deploy/a.yaml",
        b"version: '3.8'\nservices: {web: {image: acme/shop}, extra: {image: acme/shop, profiles: [more]}}\n",
    );
    project.place.write("deploy/b.yaml", b"version: '3.8'\nservices: {web: {environment: [\"A=${A}\"]}}\n");
    project.place.write("deploy/vars", b"A=from the file\n");
    let files = format!("{V1}, files: [a.yaml, b.yaml], env_file: vars, project: demo");
    project.with(&files);
    project.good();
    let config = std::fs::read_to_string(project.restored().join("compose.yaml")).unwrap();
    assert!(config.contains("A: from the file"), "{config}");
    project.with(&format!("{files}, profiles: [more]"));
    project.fails(&["the service `extra` does not run"]);
    project.with(&format!("{files}, profiles: [more], may_be_stopped: [extra]"));
    project.good();
}

#[test]
fn what_does_not_run_as_configured_stops_it() {
    let project = Project::new(&both());
    project.change(1, |worker| worker.running = false);
    project.fails(&["the service `worker` does not run", "may_be_stopped"]);
    project.place.assert_nothing_kept();
    project.with(&format!("{V1}, may_be_stopped: [worker]"));
    assert_eq!(project.good()["details"]["images"][1]["running"], 0);
}

#[test]
fn what_runs_otherwise_than_configured_stops_it() {
    let project = Project::new(&both());
    project.change(1, |worker| worker.one_off = true);
    project.fails(&["the service `worker` does not run"]);
    project.change(2, |web| web.image = '2');
    project.fails(&["`web` runs several images at once"]);
}

#[test]
fn an_image_of_nobodys_registry_stops_it() {
    let project = Project::new(&both());
    *project.docker.containers.lock().unwrap() = both();
    project.docker.containers.lock().unwrap().iter_mut().for_each(|c| c.digests.clear());
    project.fails(&["the image of `web` cannot be pulled again", "allow_local"]);
    project.with(&format!("{V1}, allow_local: true"));
    let record = project.good();
    assert!(record["details"]["images"][0]["digest"].is_null());
    assert_eq!(
        std::fs::read_to_string(project.restored().join("digests.yaml")).unwrap(),
        "version: \"3.8\"\nservices: {}\n"
    );
}

#[test]
fn what_cannot_be_resolved_or_asked_stops_it() {
    let project = Project::new(&both());
    std::fs::remove_file(project.place.path("deploy/.env")).unwrap();
    project.fails(&["the configuration is not what runs", "DB_PASSWORD variable is not set", "allow_unset"]);
    project.with(&format!("{V1}, allow_unset: true"));
    project.good();
    project.with(V1);
    project.place.write("deploy/.env", b"DB_PASSWORD=s3cr3t-heron\n");
    project.place.write(
        "deploy/docker-compose.yml",
        b"version: '3.8'\nservices: {web: {image: x, ports: ['${DB_PASSWORD}']}}\n",
    );
    project.fails(&["the configuration could not be resolved"]);
    project.place.write("deploy/docker-compose.yml", b"version: '3.8'\nservices: {}\n");
    project.fails(&["source `stack`"]);
    std::fs::remove_file(project.place.path("deploy/docker-compose.yml")).unwrap();
    project.fails(&["the configuration could not be resolved"]);
    project.with("compose: [./no-such-compose]");
    project.fails(&["is it installed, and in PATH?"]);
    project.place.write("deploy/docker-compose.yml", PROJECT.as_bytes());
    project.with(&format!("{V1}, docker: ./no-such-docker"));
    project.fails(&["no-such-docker"]);
    project.with(V1);
    let Project { place, docker } = project;
    let host = docker.host();
    drop(docker);
    let ended = run(place.command().arg("create").env("DOCKER_HOST", host));
    assert_eq!(ended.code, 4, "{}", ended.stderr);
    assert!(ended.stderr.contains("the containers could not be listed"), "{}", ended.stderr);
}

/// The plugin itself needs Docker's own packages; this script prints what it is documented to print.
#[test]
fn the_output_of_the_compose_plugin_is_understood() {
    let project = Project::new(&both());
    project.place.script(
        "bin/docker",
        "[ \"$1\" = compose ] || exec docker-for-the-rest \"$@\"\nshift\ncase \"$*\" in\n\
         version) echo 'Docker Compose version v2.39.1' ;;\n\
         config) printf 'name: demo\\nservices:\\n  web:\\n    command: null\\n    image: acme/shop:1.4.1\\n  worker:\\n    build:\\n      context: /srv\\nnetworks:\\n  default:\\n    name: demo_default\\n' ;;\n\
         'ps --all --quiet') for n in 1 2 3; do printf \"$n%.0s\" $(seq 64); echo; done ;;\n\
         *) echo \"unknown: $*\" >&2; exit 16 ;;\nesac",
    );
    let real = run(Command::new("sh").args(["-c", "command -v docker"]));
    std::os::unix::fs::symlink(real.stdout.trim(), project.place.path("bin/docker-for-the-rest")).unwrap();
    project.with("");
    let path = format!("{}:{}", project.place.path("bin").display(), std::env::var("PATH").unwrap());
    let mut command = project.place.command();
    let ended = run(command.arg("create").env("DOCKER_HOST", project.docker.host()).env("PATH", path));
    assert_eq!(ended.code, 0, "{}", ended.stderr);
    let details = &project.place.document()["snapshot"]["sources"][0]["details"];
    assert_eq!(
        (&details["compose"], &details["images"][1]["image"]),
        (&"docker compose".into(), &"acme/shop:1.4.1".into())
    );
    let digests = std::fs::read_to_string(project.restored().join("digests.yaml")).unwrap();
    let digest = "1".repeat(64);
    assert_eq!(
        digests,
        format!(
            "services:\n  \"web\":\n    image: \"acme/shop@sha256:{digest}\"\n  \"worker\":\n    image: \"acme/shop@sha256:{digest}\"\n"
        )
    );
}
