//! `docker_compose`: the resolved configuration of a Compose project and the digests of the images that
//! run, as two Compose files that bring it up again by hand.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{Context, Extra, Keep, Kind, Order, ReadBack, Source, stop_if_asked};
use crate::fault::Fault;
use crate::redact::learn_variable;
use crate::units::Text;
use crate::world::files;
use crate::world::shell::{self, Ran};
use crate::yaml::{self, Node, Problem};

pub(super) static KIND: Kind = Kind {
    name: "docker_compose",
    about: "A Compose project: its resolved configuration and the digests of the images that run, which together bring \
            it up again. It runs `docker compose`, or `docker-compose` where that is missing, and `docker`.",
    target: "the project's folder; the plan's own when absent",
    example: "{name: compose, kind: docker_compose, target: deploy/, with: {files: [compose.yaml, production.yaml]}}",
    settings: super::schema::<Settings>,
    prepare,
};

/// The resolved configuration, the image of each service by digest as a second file, and the same with ids.
const CONFIG: &[u8] = b"compose.yaml";
const DIGESTS: &[u8] = b"digests.yaml";
const IMAGES: &[u8] = b"images.json";

/// How much a command may print, in bytes.
const MOST: usize = 16 * 1024 * 1024;

/// Settings of `docker_compose`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "ComposeSource")]
struct Settings {
    /// The Compose files, relative to the project's folder; those that Compose finds when absent.
    #[serde(default)]
    files: Vec<Text>,
    /// The project's name, where it is not that of its folder.
    #[serde(default)]
    project: Option<Text>,
    /// Profiles that are active.
    #[serde(default)]
    profiles: Vec<String>,
    /// The file of variables, relative to the project's folder; `.env` when absent.
    #[serde(default)]
    env_file: Option<Text>,
    /// Compose as a list of words; `docker compose`, or `docker-compose`, when absent.
    #[serde(default)]
    compose: Vec<String>,
    /// The program that tells of containers and images; `docker` when absent.
    #[serde(default)]
    docker: Option<String>,
    /// Services that need not run, such as a migration that has ended.
    #[serde(default)]
    may_be_stopped: Vec<String>,
    /// Whether images without a digest are fine: they were built here, and cannot be pulled again.
    #[serde(default)]
    allow_local: bool,
    /// Whether variables that are not set are fine: Compose takes them for empty.
    #[serde(default)]
    allow_unset: bool,
}

struct Compose {
    name: String,
    folder: PathBuf,
    settings: Settings,
    timeout: Duration,
}

/// The image of one service.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Image {
    /// The service.
    service: String,
    /// As the configuration names it.
    #[serde(rename = "image")]
    named: String,
    /// Its id on this machine.
    id: String,
    /// Where it can be pulled again, as `REPOSITORY@sha256:…`; null for one that was built here.
    digest: Option<String>,
    /// Containers that run it.
    running: u64,
}

/// A container as `docker inspect` tells of it. Its environment is not asked for.
#[derive(Debug)]
struct Container {
    running: bool,
    id: String,
    image: String,
    service: String,
    project: String,
}

fn prepare(order: &Order<'_>) -> Result<Box<dyn Source>, Problem> {
    let settings: Settings = order.spec.with.read(&order.loaded.variables)?;
    let folder = match &order.spec.target {
        Some(target) => order.loaded.at(&target.one().map_err(|message| order.problem(message))?.value),
        None => order.loaded.folder.clone(),
    };
    if settings.compose.first().is_some_and(String::is_empty) {
        return Err(order.problem("`with.compose` names no command"));
    }
    Ok(Box::new(Compose { name: order.spec.name.clone(), folder, settings, timeout: order.timeout() }))
}

impl Source for Compose {
    fn back_up(&self, _: &Context<'_>, keep: &mut dyn Keep) -> Result<Extra, Fault> {
        self.learn_secrets_of_the_environment_file();
        let compose = self.compose()?;
        let config = self.config(&compose)?;
        let root = self.parsed(&config)?;
        let services = services(&root);
        if services.is_empty() {
            return Err(self.failed("the configuration has no services").help("is this the right folder?"));
        }
        let containers = self.containers(&compose)?;
        let images = self.images(&services, &containers)?;
        let listed = serde_json::to_string_pretty(&images)
            .map_err(|e| self.failed("the images cannot be recorded").cause(e))?;
        for (path, text) in
            [(CONFIG, config), (DIGESTS, pinned(&root, &images)), (IMAGES, format!("{listed}\n"))]
        {
            keep.file(path, &mut |sink| {
                sink.write_all(text.as_bytes())
                    .map_err(|e| Fault::infrastructure("the store refused").cause(e))
            })?;
        }
        Ok(Extra { tables: Vec::new(), details: self.details(&compose, &containers, &images) })
    }

    fn prove(&self, back: &dyn ReadBack) -> Result<Option<String>, Fault> {
        let read = |path: &[u8]| -> Result<String, Fault> {
            let mut bytes = Vec::new();
            back.read(path, &mut bytes)?;
            String::from_utf8(bytes).map_err(|_| self.failed("a file reads back as no text"))
        };
        let services = services(&self.parsed(&read(CONFIG)?)?);
        let images: Vec<Image> = serde_json::from_str(&read(IMAGES)?)
            .map_err(|e| self.failed("the images read back otherwise").cause(e))?;
        let pinned = self.parsed(&read(DIGESTS)?)?;
        let digest = |image: &Image| text_at(&pinned, &["services", &image.service, "image"]);
        if images.iter().any(|image| !services.contains_key(&image.service) || digest(image) != image.digest)
        {
            return Err(self.failed("the images read back are not those of the configuration"));
        }
        let by_digest = images.iter().filter(|image| image.digest.is_some()).count();
        Ok(Some(format!(
            "{} services parsed, {by_digest} of {} images named by digest",
            services.len(),
            images.len()
        )))
    }
}

impl Compose {
    fn order(&self, argv: Vec<String>) -> shell::Order {
        let mut order = shell::Order::new(argv, &self.folder);
        order.timeout = self.timeout;
        order.keep = MOST;
        order
    }

    /// Runs a command to a good end and returns what it printed.
    fn ask(&self, what: &str, argv: Vec<String>) -> Result<(String, Ran), Fault> {
        let shown = argv.join(" ");
        let ran = self.order(argv).run().map_err(|e| {
            self.failed(what)
                .place(&shown)
                .cause(e)
                .help("is it installed, and in PATH? `with.compose` and `with.docker` name others")
        })?;
        stop_if_asked()?;
        let fault = |cause: String| self.failed(what).place(&shown).cause(cause);
        if ran.exit != Some(0) {
            let help =
                "run it by hand in the project's folder; is the Docker daemon within reach (DOCKER_HOST)?";
            return Err(fault(format!("{}: {}", ran.how(), ran.last_words())).help(help));
        }
        if ran.cut {
            return Err(fault("it printed more than 16 MiB".into()));
        }
        let text = String::from_utf8(ran.stdout.clone()).map_err(|_| fault("it printed no text".into()))?;
        Ok((text, ran))
    }

    /// Compose as this machine has it, with what the plan says of the project.
    fn compose(&self) -> Result<Vec<String>, Fault> {
        let mut words = self.settings.compose.clone();
        if words.is_empty() {
            let plugin = vec!["docker".to_owned(), "compose".into(), "version".into()];
            let there = self.order(plugin).run().is_ok_and(|ran| ran.exit == Some(0));
            stop_if_asked()?;
            words =
                if there { vec!["docker".into(), "compose".into()] } else { vec!["docker-compose".into()] };
        }
        let settings = &self.settings;
        let mut flag = |name: &str, value: &str| words.extend([name.to_owned(), value.to_owned()]);
        settings.files.iter().for_each(|file| flag("--file", &file.value));
        settings.project.iter().for_each(|project| flag("--project-name", &project.value));
        settings.profiles.iter().for_each(|profile| flag("--profile", profile));
        settings.env_file.iter().for_each(|file| flag("--env-file", &file.value));
        Ok(words)
    }

    /// The configuration, every file merged and every variable filled in.
    fn config(&self, compose: &[String]) -> Result<String, Fault> {
        let argv = [compose, &["config".to_owned()]].concat();
        let (config, ran) = self.ask("the configuration could not be resolved", argv)?;
        let said = String::from_utf8_lossy(&ran.stderr);
        let unset = said.lines().find(|line| line.contains("variable is not set"));
        match unset {
            Some(line) if !self.settings.allow_unset => Err(self
                .failed("the configuration is not what runs")
                .cause(line.trim())
                .help("set the variable as the deployment does, or say `allow_unset: true`")),
            _ => Ok(config),
        }
    }

    fn parsed(&self, text: &str) -> Result<Node, Fault> {
        // The problem may show a line of it, its place never does.
        let root = yaml::parse_foreign(text).map_err(|problem| {
            let line = problem.place.map_or(0, |place| place.line);
            self.failed("the configuration cannot be read")
                .cause(format!("not YAML, at line {line} of the output"))
        })?;
        learn_secrets(&root);
        Ok(root)
    }

    /// Messages of Compose may show what the file says.
    fn learn_secrets_of_the_environment_file(&self) {
        let name = self.settings.env_file.as_ref().map_or(".env", |file| &file.value);
        // Where it cannot be read Compose itself says so.
        let text = files::read_bounded(&self.folder.join(name), MOST as u64).unwrap_or_default();
        for (name, value) in String::from_utf8_lossy(&text).lines().filter_map(|line| line.split_once('=')) {
            learn_variable(name.trim(), value.trim().trim_matches(['"', '\'']));
        }
    }

    /// Names and digests, and the way back; nothing of what the configuration says besides.
    fn details(&self, compose: &[String], containers: &[Container], images: &[Image]) -> Value {
        let program: Vec<&str> =
            compose.iter().map(String::as_str).take_while(|word| !word.starts_with('-')).collect();
        let project = containers.first().map(|container| container.project.as_str());
        let named = project.map(|project| format!(" --project-name {project}")).unwrap_or_default();
        let folder = format!("RESTORED/{}", self.name);
        json!({
            "compose": program.join(" "),
            "project": project,
            "images": images,
            "bring_up": format!(
                "{}{named} --file {folder}/compose.yaml --file {folder}/digests.yaml up --detach",
                program.join(" ")
            ),
        })
    }

    fn docker(&self, words: &[&str], ids: &BTreeSet<String>) -> Vec<String> {
        let program = self.settings.docker.clone().unwrap_or_else(|| "docker".into());
        let words = words.iter().map(|word| (*word).to_owned());
        std::iter::once(program).chain(words).chain(ids.iter().cloned()).collect()
    }

    /// The containers of the project, stopped ones too.
    fn containers(&self, compose: &[String]) -> Result<Vec<Container>, Fault> {
        const WHAT: &str = "the containers could not be listed";
        let ps = ["ps", "--all", "--quiet"].map(str::to_owned);
        let (listed, _) = self.ask(WHAT, [compose, &ps].concat())?;
        let ids: BTreeSet<String> = listed.split_whitespace().map(str::to_owned).collect();
        if let Some(odd) = ids.iter().find(|id| !id.chars().all(|c| c.is_ascii_hexdigit())) {
            return Err(self.failed(WHAT).cause(format!("`{odd}` is not the id of a container")));
        }
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        let format =
            "[{{json .State.Running}},{{json .Image}},{{json .Config.Image}},{{json .Config.Labels}}]";
        let (told, _) = self.ask(WHAT, self.docker(&["container", "inspect", "--format", format], &ids))?;
        let read = |line: &str| -> Option<Option<Container>> {
            let (running, id, image, labels): (bool, String, String, BTreeMap<String, String>) =
                serde_json::from_str(line).ok()?;
            if labels.get("com.docker.compose.oneoff").is_some_and(|word| word.eq_ignore_ascii_case("true")) {
                return Some(None);
            }
            let label = |name: &str| labels.get(&format!("com.docker.compose.{name}")).cloned();
            let (service, project) = (label("service")?, label("project")?);
            Some(Some(Container { running, id, image, service, project }))
        };
        let lines = told.lines().filter(|line| !line.trim().is_empty());
        let read: Option<Vec<Option<Container>>> = lines.map(read).collect();
        let known = read.ok_or_else(|| self.failed(WHAT).cause("docker told of them in another way"))?;
        Ok(known.into_iter().flatten().collect())
    }

    /// The image of each service, by the containers that run.
    fn images(&self, services: &Services, containers: &[Container]) -> Result<Vec<Image>, Fault> {
        let mut images = Vec::new();
        for (service, Service { image, profiles }) in services {
            let own: Vec<&Container> = containers.iter().filter(|c| c.service == *service).collect();
            let running: Vec<&Container> = own.iter().copied().filter(|c| c.running).collect();
            // Older Compose shows services of profiles that are not active, too.
            let active = profiles.is_empty() || profiles.iter().any(|p| self.settings.profiles.contains(p));
            let stopped_is_fine = !active || self.settings.may_be_stopped.contains(service);
            if running.is_empty() && !stopped_is_fine {
                return Err(self
                    .failed(&format!("the service `{service}` does not run"))
                    .help("bring it up, or name it in `may_be_stopped`; nothing was kept"));
            }
            let of = if running.is_empty() { &own } else { &running };
            let Some(first) = of.first() else { continue };
            if of.iter().any(|container| container.id != first.id) {
                return Err(self
                    .failed(&format!("the service `{service}` runs several images at once"))
                    .help("wait until its deployment is through; nothing was kept"));
            }
            images.push(Image {
                service: service.clone(),
                named: image.clone().unwrap_or_else(|| first.image.clone()),
                id: first.id.clone(),
                digest: None,
                running: running.len() as u64,
            });
        }
        self.name_by_digest(&mut images)?;
        Ok(images)
    }

    fn name_by_digest(&self, images: &mut [Image]) -> Result<(), Fault> {
        const WHAT: &str = "the images could not be looked at";
        let ids: BTreeSet<String> = images.iter().map(|image| image.id.clone()).collect();
        if ids.is_empty() {
            return Ok(());
        }
        let format = "[{{json .Id}},{{json .RepoDigests}}]";
        let (told, _) = self.ask(WHAT, self.docker(&["image", "inspect", "--format", format], &ids))?;
        let mut digests: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for line in told.lines().filter(|line| !line.trim().is_empty()) {
            let (id, known): (String, Option<Vec<String>>) = serde_json::from_str(line)
                .map_err(|_| self.failed(WHAT).cause("docker told of them in another way"))?;
            let mut known = known.unwrap_or_default();
            known.sort();
            digests.insert(id, known);
        }
        for image in images {
            let known = digests.get(&image.id).map(Vec::as_slice).unwrap_or_default();
            let repository = repository(&image.named);
            let own = known.iter().find(|digest| self::repository(digest) == repository);
            image.digest = own.or(known.first()).cloned();
            if image.digest.is_none() && !self.settings.allow_local {
                return Err(self
                    .failed(&format!("the image of `{}` cannot be pulled again", image.service))
                    .cause(format!("`{}` has no digest: it was built here and never pushed", image.named))
                    .help("push it to a registry, or say `allow_local: true`; nothing was kept"));
            }
        }
        Ok(())
    }

    fn failed(&self, what: &str) -> Fault {
        Fault::infrastructure(format!("source `{}`: {what}", self.name))
    }
}

/// A service as the configuration has it.
struct Service {
    image: Option<String>,
    profiles: Vec<String>,
}

type Services = BTreeMap<String, Service>;

/// The services of a configuration.
fn services(root: &Node) -> Services {
    let read = |service: &Node| {
        let profiles = match service.get("profiles").map(|node| &node.value) {
            Some(yaml::Value::Sequence(items)) => items.iter().filter_map(text).collect(),
            _ => Vec::new(),
        };
        Service { image: text_at(service, &["image"]), profiles }
    };
    let services = root.get("services").into_iter().flat_map(Node::entries);
    services.map(|(name, _, service)| (name.to_owned(), read(service))).collect()
}

fn text_at(node: &Node, keys: &[&str]) -> Option<String> {
    let mut node = node;
    for key in keys {
        node = node.get(key)?;
    }
    text(node)
}

fn text(node: &Node) -> Option<String> {
    match &node.value {
        yaml::Value::Scalar { text, .. } if !node.is_null() => Some(text.clone()),
        _ => None,
    }
}

/// Values of the services' environments whose names say that they are secret: no message shows them.
fn learn_secrets(root: &Node) {
    for (_, _, service) in root.get("services").into_iter().flat_map(Node::entries) {
        let Some(environment) = service.get("environment") else { continue };
        match &environment.value {
            yaml::Value::Sequence(lines) => {
                let pairs = lines.iter().filter_map(text);
                for line in pairs {
                    if let Some((name, value)) = line.split_once('=') {
                        learn_variable(name, value);
                    }
                }
            }
            _ => {
                for (name, _, value) in environment.entries() {
                    if let Some(value) = text(value) {
                        learn_variable(name, &value);
                    }
                }
            }
        }
    }
}

/// A second Compose file that names each image by its digest.
fn pinned(root: &Node, images: &[Image]) -> String {
    let mut text = String::new();
    // Older Compose wants all its files to be of one version.
    if let Some(version) = text_at(root, &["version"]) {
        text.push_str(&format!("version: {}\n", Value::from(version)));
    }
    let pinned: Vec<String> = images
        .iter()
        .filter_map(|image| {
            let (service, digest) =
                (Value::from(image.service.as_str()), Value::from(image.digest.as_deref()?));
            Some(format!("  {service}:\n    image: {digest}\n"))
        })
        .collect();
    text.push_str(if pinned.is_empty() { "services: {}\n" } else { "services:\n" });
    text.push_str(&pinned.concat());
    text
}

/// `docker.io/library/redis` of `redis:7` and of `redis@sha256:…`.
fn repository(image: &str) -> String {
    let name = image.split('@').next().unwrap_or_default();
    let name = match name.rsplit_once(':') {
        Some((name, tag)) if !tag.contains('/') => name,
        _ => name,
    };
    let (registry, path) = match name.split_once('/') {
        Some((first, rest)) if first.contains(['.', ':']) || first == "localhost" => (first, rest),
        _ => ("docker.io", name),
    };
    let registry = if registry == "index.docker.io" { "docker.io" } else { registry };
    let library = if registry == "docker.io" && !path.contains('/') { "library/" } else { "" };
    format!("{registry}/{library}{path}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_is_of_one_repository_however_it_is_written() {
        for (image, expected) in [
            ("redis", "docker.io/library/redis"),
            ("redis:7", "docker.io/library/redis"),
            ("redis@sha256:0a", "docker.io/library/redis"),
            ("docker.io/library/redis:7@sha256:0a", "docker.io/library/redis"),
            ("acme/shop:1.4.1", "docker.io/acme/shop"),
            ("registry:5000/acme/shop", "registry:5000/acme/shop"),
            ("registry.example.com/shop:1", "registry.example.com/shop"),
            ("localhost/shop", "localhost/shop"),
        ] {
            assert_eq!(repository(image), expected, "{image}");
        }
    }
}
