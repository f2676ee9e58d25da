//! `kubernetes`: objects as YAML that can be applied again, read by the `kubectl` of the user.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use schemars::JsonSchema;
use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer as _, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::{Value, json};

use super::{Context, Extra, Keep, Kind, Order, ReadBack, Source, stop_if_asked};
use crate::evidence::sha256_hex;
use crate::fault::Fault;
use crate::units::{Text, show_size};
use crate::world::shell::{self, Ran};
use crate::yaml::Problem;

mod clean;
mod text;

use clean::{Cleaned, Why, bound_volume, clean};

pub(super) static KIND: Kind = Kind {
    name: "kubernetes",
    about: "Objects of Kubernetes namespaces as clean YAML, one file each, as they would be applied again; Secrets \
            only when asked. It runs the `kubectl` in PATH.",
    target: "the namespace, a list of them, or `*` for all",
    example: "{name: cluster, kind: kubernetes, target: shop, with: {selector: app=shop, context: production}}",
    settings: super::schema::<Settings>,
    prepare,
};

/// What is read where the plan names no kinds: what people write, and not what is made of it.
const KINDS: &[&str] = &[
    "configmaps",
    "persistentvolumeclaims",
    "serviceaccounts",
    "services",
    "daemonsets.apps",
    "deployments.apps",
    "statefulsets.apps",
    "horizontalpodautoscalers.autoscaling",
    "cronjobs.batch",
    "ingresses.networking.k8s.io",
    "networkpolicies.networking.k8s.io",
    "poddisruptionbudgets.policy",
    "rolebindings.rbac.authorization.k8s.io",
    "roles.rbac.authorization.k8s.io",
];

/// How much one namespace may give, in bytes of JSON; it is held in memory.
const MOST: usize = 64 * 1024 * 1024;

/// The file that names all others, one a line.
const INDEX: &[u8] = b"index.txt";

/// Settings of `kubernetes`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "KubernetesSource")]
#[expect(clippy::struct_excessive_bools, reason = "each is a key of the plan by itself")]
struct Settings {
    /// Which kinds, as `kubectl get` calls them (`deployments.apps`); what people usually write when absent.
    #[serde(default)]
    kinds: Option<Vec<String>>,
    /// Only objects with these labels, as `kubectl` writes a selector.
    #[serde(default)]
    selector: Option<String>,
    /// Whether Secrets are read too.
    #[serde(default)]
    secrets: bool,
    /// Whether objects that another object makes are kept too, such as the Pods of a Deployment.
    #[serde(default)]
    owned: bool,
    /// The context of the kubeconfig; its current one when absent.
    #[serde(default)]
    context: Option<Text>,
    /// The kubeconfig, relative to the plan; `kubectl`'s own way to find one when absent.
    #[serde(default)]
    kubeconfig: Option<Text>,
    /// The program; `kubectl` when absent.
    #[serde(default)]
    kubectl: Option<Text>,
    /// Whether finding nothing is fine.
    #[serde(default)]
    allow_empty: bool,
    /// Whether the cluster is asked to accept what was read back (`kubectl apply --dry-run=server`).
    #[serde(default)]
    dry_run: bool,
}

struct Kubernetes {
    name: String,
    namespaces: Vec<String>,
    kinds: Vec<String>,
    settings: Settings,
    folder: PathBuf,
    kubeconfig: Option<PathBuf>,
    timeout: Duration,
}

/// One object, ready to be kept.
struct Object {
    text: String,
    kind: String,
}

/// What was found in all namespaces.
#[derive(Default)]
struct Found {
    objects: BTreeMap<String, Object>,
    left_out: BTreeMap<Why, u64>,
    volumes: BTreeMap<String, String>,
}

fn prepare(order: &Order<'_>) -> Result<Box<dyn Source>, Problem> {
    let settings: Settings = order.spec.with.read(&order.loaded.variables)?;
    let target = order.spec.target.as_ref().ok_or_else(|| order.problem("the key `target` is missing"))?;
    let namespaces: Vec<String> = target.words().into_iter().map(|word| word.value).collect();
    let all = namespaces.iter().any(|name| name == "*");
    if let Some(wrong) = namespaces.iter().find(|name| *name != "*" && !is_namespace(name)) {
        return Err(order.problem(format!("`{wrong}` is not the name of a namespace")));
    }
    if namespaces.is_empty() || (all && namespaces.len() > 1) {
        return Err(order.problem("`target` is one namespace, a list of them, or `*` alone"));
    }
    let mut kinds: Vec<String> = match &settings.kinds {
        Some(kinds) => kinds.clone(),
        None => KINDS.iter().map(|kind| (*kind).to_owned()).collect(),
    };
    if kinds.is_empty() {
        return Err(order.problem("`with.kinds` names none"));
    }
    if let Some(wrong) = kinds.iter().find(|kind| !is_kind(kind)) {
        return Err(order
            .problem(format!("`{wrong}` in `with.kinds` is not the name of a kind"))
            .help("one of those that `kubectl api-resources` lists, such as `deployments.apps`"));
    }
    match kinds.iter().find(|kind| names_secrets(kind)) {
        Some(kind) if !settings.secrets => {
            return Err(order
                .problem(format!("`with.kinds` names `{kind}`, and Secrets are read only when asked"))
                .help("say `secrets: true`, and keep the passphrase of the store well"));
        }
        None if settings.secrets => kinds.push("secrets".into()),
        _ => {}
    }
    let kubeconfig = settings.kubeconfig.as_ref().map(|path| order.loaded.at(&path.value));
    let absolute = |path: PathBuf| std::path::absolute(&path).unwrap_or(path);
    Ok(Box::new(Kubernetes {
        name: order.spec.name.clone(),
        namespaces,
        kinds,
        settings,
        folder: order.loaded.folder.clone(),
        kubeconfig: kubeconfig.map(absolute),
        timeout: order.timeout(),
    }))
}

fn is_namespace(name: &str) -> bool {
    let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    !name.is_empty() && name.len() <= 63 && !name.starts_with('-') && name.chars().all(fits)
}

fn is_kind(kind: &str) -> bool {
    let fits = |c: char| c.is_ascii_alphanumeric() || "-.".contains(c);
    kind.starts_with(|c: char| c.is_ascii_alphabetic()) && kind.chars().all(fits)
}

fn names_secrets(kind: &str) -> bool {
    let name = kind.split('.').next().unwrap_or_default().to_ascii_lowercase();
    let group = kind.split_once('.').map_or("", |(_, group)| group);
    matches!(name.as_str(), "secret" | "secrets") && matches!(group, "" | "v1" | "v1.")
}

impl Source for Kubernetes {
    fn back_up(&self, _: &Context<'_>, keep: &mut dyn Keep) -> Result<Extra, Fault> {
        let mut found = Found::default();
        for namespace in &self.namespaces {
            stop_if_asked()?;
            self.read(namespace, &mut found)?;
        }
        if found.objects.is_empty() && !self.settings.allow_empty {
            return Err(self.nothing(&found));
        }
        put_all(&found, keep)?;
        Ok(Extra { tables: Vec::new(), details: self.details(&found) })
    }

    fn prove(&self, back: &dyn ReadBack) -> Result<Option<String>, Fault> {
        let wrong = |path: &str| {
            Fault::infrastructure(format!("source `{}`: what was stored is not what was read", self.name))
                .place(path)
                .help("do not trust this snapshot; run it again")
        };
        let read = |path: &str| -> Result<String, Fault> {
            let mut bytes = Vec::new();
            back.read(path.as_bytes(), &mut bytes)?;
            String::from_utf8(bytes).map_err(|_| wrong(path))
        };
        let index = read("index.txt")?;
        let mut count = 0_u64;
        let mut all = String::new();
        for path in index.lines() {
            stop_if_asked()?;
            let text = read(path)?;
            let object = text::read(&text).ok_or_else(|| wrong(path))?;
            if path_of(&object).as_deref() != Some(path) {
                return Err(wrong(path));
            }
            count += 1;
            if self.settings.dry_run {
                all.push_str("---\n");
                all.push_str(&text);
            }
        }
        let mut proof = format!("{count} objects parsed, each the one that its file is named after");
        if self.settings.dry_run && count > 0 {
            self.would_be_taken(&all)?;
            proof.push_str(", and the cluster would take all of them");
        }
        Ok(Some(proof))
    }
}

impl Kubernetes {
    /// `kubectl` with what the plan says about the cluster; nothing secret is among it.
    fn kubectl(&self, words: &[&str]) -> shell::Order {
        let program = self.settings.kubectl.as_ref().map_or("kubectl", |text| &text.value);
        let mut argv = vec![program.to_owned()];
        argv.extend(words.iter().map(|word| (*word).to_owned()));
        argv.extend(self.kubeconfig.as_ref().map(|path| format!("--kubeconfig={}", path.display())));
        argv.extend(self.settings.context.as_ref().map(|text| format!("--context={}", text.value)));
        let mut order = shell::Order::new(argv, &self.folder);
        order.timeout = self.timeout;
        order.keep = MOST;
        order
    }

    fn read(&self, namespace: &str, found: &mut Found) -> Result<(), Fault> {
        let kinds = self.kinds.join(",");
        let mut order = self.kubectl(&["get", &kinds, "--output=json", "--request-timeout=1m"]);
        order.argv.push(match namespace {
            "*" => "--all-namespaces".into(),
            name => format!("--namespace={name}"),
        });
        order.argv.extend(self.settings.selector.as_ref().map(|selector| format!("--selector={selector}")));
        let ran = order.run().map_err(|e| self.not_started(&e))?;
        stop_if_asked()?;
        if ran.exit != Some(0) {
            return Err(self.refused(namespace, &ran));
        }
        if ran.cut {
            return Err(self
                .failed(namespace, format!("it has more than {}", show_size(MOST as f64)))
                .help("take it in several sources, by `kinds` or `selector`"));
        }
        let mut take = |object: Value| self.take(object, found);
        let mut fault = None;
        let items = Items { take: &mut take, fault: &mut fault };
        let read = items.read(&ran.stdout);
        if let Some(fault) = fault {
            return Err(fault);
        }
        read.map_err(|e| {
            // The text of the error may show a value, its place never does.
            let place = format!("line {}, column {}", e.line(), e.column());
            self.failed(namespace, format!("kubectl printed something else than a list of objects: {place}"))
        })
    }

    fn take(&self, object: Value, found: &mut Found) -> Result<(), Fault> {
        let Some(path) = path_of(&object) else {
            return Err(Fault::infrastructure(format!(
                "source `{}`: an object has no kind or no name that a file can have",
                self.name
            )));
        };
        if object["kind"] == "Secret" && object["apiVersion"] == "v1" && !self.settings.secrets {
            return Err(Fault::infrastructure(format!(
                "source `{}`: the cluster gave a Secret that was not asked for",
                self.name
            ))
            .place(path)
            .help("say `secrets: true`, or name other `kinds`"));
        }
        let kind = path.rsplit('/').nth(1).unwrap_or_default().to_owned();
        let volume = bound_volume(&object);
        match clean(object, self.settings.owned) {
            Cleaned::Kept(object) => {
                found.objects.insert(path, Object { text: text::write(&object), kind });
                found.volumes.extend(volume);
            }
            Cleaned::LeftOut(why) => *found.left_out.entry(why).or_default() += 1,
        }
        Ok(())
    }

    fn details(&self, found: &Found) -> Value {
        let mut kinds: BTreeMap<&str, u64> = BTreeMap::new();
        for object in found.objects.values() {
            *kinds.entry(&object.kind).or_default() += 1;
        }
        let left_out: BTreeMap<_, _> = found.left_out.iter().map(|(why, n)| (why.word(), n)).collect();
        json!({
            "server": self.server(),
            "objects": found.objects.len(),
            "kinds": kinds,
            "left_out": left_out,
            "volumes": found.volumes,
            "secrets": self.settings.secrets,
            "apply_again": format!("kubectl apply --recursive --filename RESTORED/{}", self.name),
        })
    }

    /// The address of the cluster, where a kubeconfig tells; in a Pod there is none.
    fn server(&self) -> Value {
        let words = ["config", "view", "--minify", "--output=jsonpath={.clusters[0].cluster.server}"];
        let ran = self.kubectl(&words).run().ok().filter(|ran| ran.exit == Some(0));
        let text = ran.map(|ran| String::from_utf8_lossy(&ran.stdout).trim().to_owned());
        text.filter(|text| !text.is_empty()).map_or(Value::Null, Value::String)
    }

    fn would_be_taken(&self, all: &str) -> Result<(), Fault> {
        // The server validates; what `kubectl` thinks of it beforehand says less.
        let words = ["apply", "--dry-run=server", "--validate=false", "--output=name", "--filename=-"];
        let order = self.kubectl(&words);
        let ran =
            order.feed(&mut |input| input.write_all(all.as_bytes())).map_err(|e| self.not_started(&e))?;
        stop_if_asked()?;
        if ran.exit == Some(0) {
            return Ok(());
        }
        // A server that refuses an object may show its content.
        let said = if self.settings.secrets { String::new() } else { format!(": {}", ran.last_words()) };
        Err(Fault::infrastructure(format!("source `{}`: the cluster would not take it back", self.name))
            .cause(format!("kubectl apply --dry-run=server: {}{said}", ran.how()))
            .help("nothing was kept; leave those kinds out, or say `dry_run: false`"))
    }

    fn not_started(&self, error: &std::io::Error) -> Fault {
        Fault::infrastructure(format!("source `{}`: kubectl could not be run", self.name))
            .cause(error)
            .help("is it installed, and in PATH? `with.kubectl` names another one")
    }

    fn failed(&self, namespace: &str, why: impl fmt::Display) -> Fault {
        let what = match namespace {
            "*" => "all namespaces".to_owned(),
            name => format!("namespace `{name}`"),
        };
        Fault::infrastructure(format!("source `{}`: {what} could not be read", self.name)).cause(why)
    }

    /// What `kubectl` says, with the next step for the usual reasons.
    fn refused(&self, namespace: &str, ran: &Ran) -> Fault {
        let said = ran.last_words();
        let help = if said.contains("doesn't have a resource type") {
            "correct `with.kinds`: `kubectl api-resources` lists what this cluster knows"
        } else if said.contains("orbidden") {
            "give the job's account the right to list these kinds there, or name others in `with.kinds`"
        } else if said.contains("Unauthorized") || said.contains("must be logged in") {
            "the cluster does not accept these credentials: look at the kubeconfig and its context"
        } else if said.contains("context") && said.contains("not exist") {
            "correct `with.context`: `kubectl config get-contexts` lists them"
        } else if ran.timed_out {
            "is the cluster within reach? `timeout` gives it more time"
        } else {
            "is the cluster within reach? Try `kubectl get` by hand with the same kubeconfig and context"
        };
        self.failed(namespace, format!("{}: {said}", ran.how())).help(help)
    }

    fn nothing(&self, found: &Found) -> Fault {
        let left_out: u64 = found.left_out.values().sum();
        let cause = match left_out {
            0 => "the cluster has none that fit".to_owned(),
            n => format!("all {n} are made by others or on their way out"),
        };
        Fault::infrastructure(format!("source `{}`: no objects", self.name))
            .place(self.namespaces.join(" "))
            .cause(cause)
            .help("look at the namespace, the kinds and the selector, or say `allow_empty: true`")
    }
}

/// The objects in their folders, and the index.
fn put_all(found: &Found, keep: &mut dyn Keep) -> Result<(), Fault> {
    let put = |keep: &mut dyn Keep, path: &[u8], text: &str| {
        keep.file(path, &mut |sink| {
            sink.write_all(text.as_bytes()).map_err(|e| Fault::infrastructure("the store refused").cause(e))
        })
    };
    let mut index = String::new();
    for (path, object) in &found.objects {
        put(keep, path.as_bytes(), &object.text)?;
        index.push_str(path);
        index.push('\n');
    }
    put(keep, INDEX, &index)
}

/// `NAMESPACE/KIND.GROUP/NAME.yaml`, `_cluster` for objects of no namespace; none where it has no name
/// that a file can have.
fn path_of(object: &Value) -> Option<String> {
    let metadata = &object["metadata"];
    let namespace = match &metadata["namespace"] {
        Value::Null => "_cluster",
        namespace => namespace.as_str().filter(|name| is_namespace(name))?,
    };
    let kind = object["kind"].as_str().filter(|kind| is_kind(kind))?.to_ascii_lowercase();
    let kind = match object["apiVersion"].as_str()?.split_once('/') {
        Some((group, _)) if is_kind(group) => format!("{kind}.{group}"),
        Some(_) => return None,
        None => kind,
    };
    let name = metadata["name"]
        .as_str()
        .filter(|name| !name.is_empty() && !name.contains(['/', '\0', '\n', '\r']))?;
    // File systems end at 255 bytes, some names do not.
    let name = match name.char_indices().find(|(at, _)| *at > 200) {
        Some((at, _)) => format!("{}~{}", &name[..at], &sha256_hex(name.as_bytes())[..16]),
        None => name.to_owned(),
    };
    Some(format!("{namespace}/{kind}/{name}.yaml"))
}

/// Reads the `items` of a list one after another, so that only one object is in memory as a tree.
struct Items<'a> {
    take: &'a mut dyn FnMut(Value) -> Result<(), Fault>,
    fault: &'a mut Option<Fault>,
}

impl Items<'_> {
    fn read(self, bytes: &[u8]) -> serde_json::Result<()> {
        let mut deserializer = serde_json::Deserializer::from_slice(bytes);
        deserializer.deserialize_map(self)?;
        deserializer.end()
    }
}

impl<'de> Visitor<'de> for Items<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of objects")
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut map: A) -> Result<(), A::Error> {
        let mut seen = false;
        while let Some(key) = map.next_key::<String>()? {
            if key == "items" {
                seen = true;
                map.next_value_seed(&mut self)?;
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        if seen { Ok(()) } else { Err(serde::de::Error::missing_field("items")) }
    }
}

impl<'de> DeserializeSeed<'de> for &mut Items<'_> {
    type Value = ();

    fn deserialize<D: serde::Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_seq(Each(self))
    }
}

struct Each<'a, 'b>(&'a mut Items<'b>);

impl<'de> Visitor<'de> for Each<'_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("objects")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<(), A::Error> {
        while let Some(object) = items.next_element::<Value>()? {
            if let Err(fault) = (self.0.take)(object) {
                *self.0.fault = Some(fault);
                return Err(serde::de::Error::custom("stopped"));
            }
        }
        Ok(())
    }
}
