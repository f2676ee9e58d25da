//! A Docker daemon that answers as its API is documented; `docker` and `docker-compose` are real.

use std::sync::{Arc, Mutex};

use serde_json::{Value, json};

use super::answering::{Answering, Asked, Reply};

/// A container of the project and its image.
#[derive(Clone, Debug)]
pub(crate) struct Container {
    pub service: &'static str,
    pub running: bool,
    pub one_off: bool,
    /// One digit that tells images apart.
    pub image: char,
    pub digests: Vec<String>,
}

impl Container {
    /// One that runs, its image from the registry `acme/shop`.
    pub(crate) fn of(service: &'static str) -> Self {
        let digests =
            vec![format!("acme/shop@sha256:{}", "1".repeat(64)), "mirror.example.com/x@sha256:00".into()];
        Self { service, running: true, one_off: false, image: '1', digests }
    }

    fn image_id(&self) -> String {
        format!("sha256:{}", self.image.to_string().repeat(64))
    }
}

/// A running daemon; it stops with the test.
pub(crate) struct Docker {
    pub api: Answering,
    pub containers: Arc<Mutex<Vec<Container>>>,
}

impl Docker {
    pub(crate) fn start(containers: &[Container]) -> Self {
        let containers = Arc::new(Mutex::new(containers.to_vec()));
        let inside = Arc::clone(&containers);
        Self { api: Answering::start(move |asked| answer(&inside.lock().unwrap(), asked)), containers }
    }

    /// For `DOCKER_HOST`.
    pub(crate) fn host(&self) -> String {
        format!("tcp://127.0.0.1:{}", self.api.port)
    }
}

fn id(number: usize) -> String {
    format!("{number:x}").repeat(64)[..64].to_owned()
}

fn answer(containers: &[Container], asked: &Asked) -> Reply {
    let parts: Vec<&str> =
        asked.path.trim_matches('/').split('/').filter(|part| !part.starts_with("v1.")).collect();
    let found = |wanted: &str| containers.iter().enumerate().find(|(number, _)| id(number + 1) == wanted);
    match parts[..] {
        ["_ping"] => Reply::SaysWith(200, "text/plain", "api-version: 1.41", String::new()),
        ["version"] => Reply::json(
            json!({"Version": "20.10.24", "ApiVersion": "1.41", "MinAPIVersion": "1.12", "Os": "linux", "Arch": "amd64"}),
        ),
        ["containers", "json"] => {
            let all = containers.iter().enumerate().map(|(number, container)| listed(number + 1, container));
            Reply::json(all.collect::<Vec<Value>>())
        }
        ["containers", wanted, "json"] => match found(wanted) {
            Some((number, container)) => Reply::json(inspected(number + 1, container)),
            None => missing("No such container"),
        },
        ["images", wanted, "json"] => match containers.iter().find(|c| c.image_id() == wanted) {
            Some(container) => Reply::json(json!({"Id": wanted, "RepoDigests": container.digests})),
            None => missing("No such image"),
        },
        _ => missing("page not found"),
    }
}

fn missing(message: &str) -> Reply {
    Reply::Says(404, "application/json", json!({ "message": message }).to_string())
}

fn labels(number: usize, container: &Container) -> Value {
    json!({
        "com.docker.compose.project": "demo",
        "com.docker.compose.service": container.service,
        "com.docker.compose.oneoff": if container.one_off { "True" } else { "False" },
        "com.docker.compose.container-number": number.to_string(),
        "com.docker.compose.version": "1.29.2",
    })
}

fn listed(number: usize, container: &Container) -> Value {
    let state = if container.running { "running" } else { "exited" };
    json!({"Id": id(number), "Names": [format!("/demo_{}_{number}", container.service)], "Image": "acme/shop:1.4.1",
        "ImageID": container.image_id(), "Command": "x", "Created": 1, "Ports": [], "State": state, "Status": state,
        "Labels": labels(number, container)})
}

fn inspected(number: usize, container: &Container) -> Value {
    json!({"Id": id(number), "Name": format!("/demo_{}_{number}", container.service), "Image": container.image_id(),
        "State": {"Running": container.running},
        "Config": {"Image": "acme/shop:1.4.1", "Env": ["DB_PASSWORD=s3cr3t-heron"], "Labels": labels(number, container)}})
}
