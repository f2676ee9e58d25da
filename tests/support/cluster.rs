//! A Kubernetes API that answers as documented: discovery, lists of objects, pages, selectors, refusals.
//!
//! No API server can be had from Debian or PyPI, so this one is played; the `kubectl` that asks is real.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};

use super::answering::{Answering, Asked, Reply};

/// What the cluster knows: group, version, resource, kind, whether it lies in namespaces.
const RESOURCES: &[(&str, &str, &str, &str, bool)] = &[
    ("", "v1", "configmaps", "ConfigMap", true),
    ("", "v1", "persistentvolumeclaims", "PersistentVolumeClaim", true),
    ("", "v1", "pods", "Pod", true),
    ("", "v1", "secrets", "Secret", true),
    ("", "v1", "serviceaccounts", "ServiceAccount", true),
    ("", "v1", "services", "Service", true),
    ("", "v1", "namespaces", "Namespace", false),
    ("apps", "v1", "daemonsets", "DaemonSet", true),
    ("apps", "v1", "deployments", "Deployment", true),
    ("apps", "v1", "replicasets", "ReplicaSet", true),
    ("apps", "v1", "statefulsets", "StatefulSet", true),
    ("autoscaling", "v2", "horizontalpodautoscalers", "HorizontalPodAutoscaler", true),
    ("batch", "v1", "cronjobs", "CronJob", true),
    ("networking.k8s.io", "v1", "ingresses", "Ingress", true),
    ("networking.k8s.io", "v1", "networkpolicies", "NetworkPolicy", true),
    ("policy", "v1", "poddisruptionbudgets", "PodDisruptionBudget", true),
    ("rbac.authorization.k8s.io", "v1", "rolebindings", "RoleBinding", true),
    ("rbac.authorization.k8s.io", "v1", "roles", "Role", true),
];

/// What is in the cluster, and how it behaves.
#[derive(Default)]
pub(crate) struct Holds {
    pub objects: Vec<Value>,
    /// A resource that may not be listed.
    pub forbidden: Option<&'static str>,
    /// Whether no credentials are accepted.
    pub unauthorized: bool,
    /// Objects in one page; all when 0.
    pub page: usize,
    /// Why nothing may be changed, not even for a try.
    pub closed: Option<&'static str>,
    /// What is answered instead of any list.
    pub instead: Option<Reply>,
}

/// A running cluster; it stops with the test.
pub(crate) struct Cluster {
    pub api: Answering,
    pub holds: Arc<Mutex<Holds>>,
}

impl Cluster {
    pub(crate) fn start(objects: Vec<Value>) -> Self {
        let holds = Arc::new(Mutex::new(Holds { objects, ..Holds::default() }));
        let inside = Arc::clone(&holds);
        Self { api: Answering::start(move |asked| answer(&inside.lock().unwrap(), asked)), holds }
    }

    /// Writes a kubeconfig whose context `test` leads here; `kubectl` finds nothing else of the user.
    pub(crate) fn kubeconfig(&self, folder: &Path) -> PathBuf {
        let path = folder.join("kubeconfig");
        let config = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "test",
            "clusters": [{"name": "c", "cluster": {"server": self.api.url()}}],
            "users": [{"name": "u", "user": {"token": "kube-token-badger"}}],
            "contexts": [{"name": "test", "context": {"cluster": "c", "user": "u"}}],
        });
        std::fs::write(&path, config.to_string()).unwrap();
        path
    }

    /// The lists that were asked for.
    pub(crate) fn lists(&self) -> Vec<Asked> {
        let mut asked = self.api.asked();
        asked.retain(|asked| {
            RESOURCES.iter().any(|(_, _, name, _, _)| asked.path.ends_with(&format!("/{name}")))
        });
        asked
    }
}

fn answer(holds: &Holds, asked: &Asked) -> Reply {
    let parts: Vec<&str> = asked.path.trim_matches('/').split('/').collect();
    if holds.unauthorized {
        return status(401, "Unauthorized", "Unauthorized");
    }
    if asked.method != "GET" {
        return try_out(holds, asked);
    }
    match parts[..] {
        ["api"] => Reply::json(json!({"kind": "APIVersions", "versions": ["v1"]})),
        ["apis"] => Reply::json(groups()),
        ["api", version] => Reply::json(resources("", version)),
        ["apis", group, version] => Reply::json(resources(group, version)),
        ["api", _, "namespaces", namespace, resource] => list(holds, asked, "", Some(namespace), resource),
        ["apis", group, _, "namespaces", namespace, resource] => {
            list(holds, asked, group, Some(namespace), resource)
        }
        ["api", _, resource] => list(holds, asked, "", None, resource),
        ["apis", group, _, resource] => list(holds, asked, group, None, resource),
        _ => status(404, "NotFound", "the server could not find the requested resource"),
    }
}

/// A change is never more than tried here; it is answered with what would be.
fn try_out(holds: &Holds, asked: &Asked) -> Reply {
    if !asked.query.contains("dryRun=All") {
        return status(500, "InternalError", "this was no try");
    }
    match holds.closed {
        Some(why) => status(422, "Invalid", why),
        None => Reply::Says(201, "application/json", asked.body.clone()),
    }
}

fn groups() -> Value {
    let mut names: Vec<(&str, &str)> =
        RESOURCES.iter().map(|(g, v, ..)| (*g, *v)).filter(|(g, _)| !g.is_empty()).collect();
    names.dedup();
    let groups: Vec<Value> = names
        .into_iter()
        .map(|(group, version)| {
            let version = json!({"groupVersion": format!("{group}/{version}"), "version": version});
            json!({"name": group, "versions": [version], "preferredVersion": version})
        })
        .collect();
    json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups})
}

fn resources(group: &str, version: &str) -> Value {
    let of = RESOURCES.iter().filter(|(g, v, ..)| (*g, *v) == (group, version));
    let all: Vec<Value> = of
        .map(|(_, _, name, kind, namespaced)| {
            json!({"name": name, "singularName": "", "namespaced": namespaced, "kind": kind,
                "verbs": ["create", "delete", "get", "list", "patch", "update", "watch"]})
        })
        .collect();
    json!({"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": api_version(group, version), "resources": all})
}

fn api_version(group: &str, version: &str) -> String {
    if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") }
}

fn list(holds: &Holds, asked: &Asked, group: &str, namespace: Option<&str>, resource: &str) -> Reply {
    let Some((_, version, _, kind, _)) =
        RESOURCES.iter().find(|(g, _, name, ..)| *g == group && *name == resource)
    else {
        return status(404, "NotFound", "the server could not find the requested resource");
    };
    if let Some(reply) = &holds.instead {
        return reply.clone();
    }
    if holds.forbidden == Some(resource) {
        let message = format!(
            "{resource} is forbidden: User \"ci\" cannot list resource \"{resource}\" in API group \"{group}\""
        );
        return status(403, "Forbidden", &message);
    }
    let version = api_version(group, version);
    let value = |name: &str| {
        let found = form_urlencoded::parse(asked.query.as_bytes()).find(|(key, _)| key == name);
        found.map(|(_, value)| value.into_owned()).unwrap_or_default()
    };
    let selector = value("labelSelector");
    let fits = |object: &&Value| {
        let label = selector.split_once('=');
        object["kind"] == *kind
            && object["apiVersion"] == version
            && namespace.is_none_or(|name| object["metadata"]["namespace"] == name)
            && label.is_none_or(|(key, value)| object["metadata"]["labels"][key] == value)
    };
    let all: Vec<&Value> = holds.objects.iter().filter(fits).collect();
    let from: usize = value("continue").parse().unwrap_or(0);
    let page = if holds.page == 0 { all.len() } else { holds.page };
    let items: Vec<Value> = all.iter().skip(from).take(page).map(|object| without_type(object)).collect();
    let next = from + items.len();
    let next = if next < all.len() { next.to_string() } else { String::new() };
    Reply::json(json!({"kind": format!("{kind}List"), "apiVersion": version,
        "metadata": {"resourceVersion": "4711", "continue": next}, "items": items}))
}

/// Items of a list do not say of which kind they are.
fn without_type(object: &Value) -> Value {
    let mut object = object.clone();
    let fields = object.as_object_mut().unwrap();
    fields.remove("kind");
    fields.remove("apiVersion");
    object
}

fn status(code: u16, reason: &str, message: &str) -> Reply {
    let body = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "message": message, "reason": reason, "details": {}, "code": code});
    Reply::Says(code, "application/json", body.to_string())
}
