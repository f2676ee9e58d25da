//! An object as somebody would have written it: without what the cluster fills in by itself.

use serde_json::{Map, Value};

/// What becomes of an object.
#[derive(Debug, PartialEq)]
pub(super) enum Cleaned {
    /// It is kept, keys in their order.
    Kept(Value),
    /// It is left out.
    LeftOut(Why),
}

/// Why an object is left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Why {
    /// Another object makes it.
    Owned,
    /// The cluster makes it in every namespace.
    Generated,
    /// It is on its way out.
    BeingDeleted,
}

impl Why {
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Owned => "owned",
            Self::Generated => "generated",
            Self::BeingDeleted => "being_deleted",
        }
    }
}

/// Fields of `metadata` that the cluster fills in.
const METADATA: &[&str] = &[
    "creationTimestamp",
    "deletionGracePeriodSeconds",
    "deletionTimestamp",
    "generateName",
    "generation",
    "managedFields",
    "ownerReferences",
    "resourceVersion",
    "selfLink",
    "uid",
];

/// Annotations that the cluster or `kubectl` writes.
const ANNOTATIONS: &[&str] = &[
    "autoscaling.alpha.kubernetes.io/conditions",
    "autoscaling.alpha.kubernetes.io/current-metrics",
    "batch.kubernetes.io/job-tracking",
    "control-plane.alpha.kubernetes.io/leader",
    "deployment.kubernetes.io/desired-replicas",
    "deployment.kubernetes.io/max-replicas",
    "deployment.kubernetes.io/revision",
    "deprecated.daemonset.template.generation",
    "kubectl.kubernetes.io/last-applied-configuration",
    "pv.kubernetes.io/bind-completed",
    "pv.kubernetes.io/bound-by-controller",
    "volume.beta.kubernetes.io/storage-provisioner",
    "volume.kubernetes.io/selected-node",
    "volume.kubernetes.io/storage-provisioner",
];

/// Finalizers that the cluster adds again by itself.
const FINALIZERS: &[&str] = &["kubernetes.io/pv-protection", "kubernetes.io/pvc-protection"];

/// Labels that tie a Job to its own id.
const JOB_LABELS: &[&str] =
    &["batch.kubernetes.io/controller-uid", "batch.kubernetes.io/job-name", "controller-uid", "job-name"];

/// Cleans an object as `kubectl get -o json` gives it. Objects of an owner are left out unless `owned`.
pub(super) fn clean(mut object: Value, owned: bool) -> Cleaned {
    let metadata = &object["metadata"];
    if !metadata["deletionTimestamp"].is_null() {
        return Cleaned::LeftOut(Why::BeingDeleted);
    }
    if !owned && metadata["ownerReferences"].as_array().is_some_and(|owners| !owners.is_empty()) {
        return Cleaned::LeftOut(Why::Owned);
    }
    remove(&mut object, "", &["status"]);
    clean_metadata(&mut object);
    match (group(&object), text(&object["kind"]).as_str()) {
        ("", "Service") => clean_service(&mut object),
        ("", "Pod") => clean_pod(&mut object),
        ("", "PersistentVolumeClaim") => remove(&mut object, "/spec", &["volumeName"]),
        ("", "PersistentVolume") => remove(&mut object, "/spec/claimRef", &["resourceVersion", "uid"]),
        ("", "Namespace") => remove(&mut object, "", &["spec"]),
        ("", "ServiceAccount") => clean_account(&mut object),
        ("apps", "StatefulSet") => {
            let claims = object.pointer_mut("/spec/volumeClaimTemplates").and_then(Value::as_array_mut);
            claims.into_iter().flatten().for_each(|claim| remove(claim, "", &["status"]));
        }
        ("batch", "Job") => clean_job(&mut object),
        _ => {}
    }
    without_empty_stamps(&mut object);
    if is_generated(&object) {
        return Cleaned::LeftOut(Why::Generated);
    }
    Cleaned::Kept(in_order(object))
}

/// The API group of an object; empty for the core one.
pub(super) fn group(object: &Value) -> &'static str {
    match object["apiVersion"].as_str().and_then(|version| version.split_once('/')) {
        None => "",
        Some(("apps", _)) => "apps",
        Some(("batch", _)) => "batch",
        Some(_) => "another",
    }
}

/// The claim and the volume that it is bound to, which the kept object does not say.
pub(super) fn bound_volume(object: &Value) -> Option<(String, String)> {
    let volume =
        object["spec"]["volumeName"].as_str().filter(|_| object["kind"] == "PersistentVolumeClaim")?;
    let metadata = &object["metadata"];
    Some((format!("{}/{}", text(&metadata["namespace"]), text(&metadata["name"])), volume.to_owned()))
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

/// Removes keys of the map at a place, where there is one.
fn remove(object: &mut Value, place: &str, keys: &[&str]) {
    if let Some(Value::Object(fields)) = object.pointer_mut(place) {
        fields.retain(|key, _| !keys.contains(&key.as_str()));
    }
}

/// Keeps of the list at a place, where there is one, only some items.
fn retain(object: &mut Value, place: &str, keep: impl Fn(&Value) -> bool) {
    if let Some(Value::Array(items)) = object.pointer_mut(place) {
        items.retain(|item| keep(item));
    }
}

/// Removes maps and lists that nothing is left in.
fn remove_empty(object: &mut Value, place: &str, keys: &[&str]) {
    let empty = |value: &Value| match value {
        Value::Object(fields) => fields.is_empty(),
        Value::Array(items) => items.is_empty(),
        value => value.is_null(),
    };
    if let Some(Value::Object(fields)) = object.pointer_mut(place) {
        fields.retain(|key, value| !keys.contains(&key.as_str()) || !empty(value));
    }
}

fn clean_metadata(object: &mut Value) {
    remove(object, "/metadata", METADATA);
    remove(object, "/metadata/annotations", ANNOTATIONS);
    retain(object, "/metadata/finalizers", |name| !FINALIZERS.contains(&name.as_str().unwrap_or_default()));
    remove_empty(object, "/metadata", &["annotations", "finalizers", "labels"]);
}

/// Addresses are the cluster's, but `None` is what makes a Service headless.
fn clean_service(object: &mut Value) {
    let headless = object["spec"]["clusterIP"] == "None";
    remove(object, "/spec", &["clusterIPs", "healthCheckNodePort"]);
    if !headless {
        remove(object, "/spec", &["clusterIP"]);
    }
}

/// Where it ran, and the volume of its token, are given anew.
fn clean_pod(object: &mut Value) {
    let own = |part: &Value| !part["name"].as_str().is_some_and(|name| name.starts_with("kube-api-access-"));
    remove(object, "/spec", &["nodeName", "priority"]);
    retain(object, "/spec/volumes", own);
    remove_empty(object, "/spec", &["volumes"]);
    for list in ["/spec/containers", "/spec/initContainers"] {
        let containers = object.pointer_mut(list).and_then(Value::as_array_mut);
        for container in containers.into_iter().flatten() {
            retain(container, "/volumeMounts", own);
            remove_empty(container, "", &["volumeMounts"]);
        }
    }
}

/// The selector of a Job is made of its id, unless its author chose it.
fn clean_job(object: &mut Value) {
    if object["spec"]["manualSelector"] == true {
        return;
    }
    remove(object, "/spec", &["selector"]);
    for metadata in ["/metadata", "/spec/template/metadata"] {
        remove(object, &format!("{metadata}/labels"), JOB_LABELS);
        remove_empty(object, metadata, &["labels"]);
    }
}

/// Older clusters write the token that they made into the account.
fn clean_account(object: &mut Value) {
    let name = text(&object["metadata"]["name"]);
    let own = |secret: &Value| {
        let secret = secret["name"].as_str().unwrap_or_default();
        !["token", "dockercfg"].iter().any(|kind| secret.starts_with(&format!("{name}-{kind}-")))
    };
    retain(object, "/secrets", own);
    retain(object, "/imagePullSecrets", own);
    remove_empty(object, "", &["secrets", "imagePullSecrets"]);
}

/// `creationTimestamp: null` stands in every template.
fn without_empty_stamps(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            fields.retain(|key, value| key != "creationTimestamp" || !value.is_null());
            fields.values_mut().for_each(without_empty_stamps);
        }
        Value::Array(items) => items.iter_mut().for_each(without_empty_stamps),
        _ => {}
    }
}

/// What a cluster makes in every namespace by itself.
fn is_generated(object: &Value) -> bool {
    let metadata = &object["metadata"];
    if !group(object).is_empty() {
        return false;
    }
    match (object["kind"].as_str(), metadata["name"].as_str()) {
        (Some("ConfigMap"), Some("kube-root-ca.crt" | "openshift-service-ca.crt")) => true,
        (Some("Secret"), _) => object["type"] == "kubernetes.io/service-account-token",
        (Some("Service"), Some("kubernetes")) => metadata["namespace"] == "default",
        // Nobody has changed it when nothing but its head is left.
        (Some("ServiceAccount"), Some("default")) => {
            let more = |fields: &Map<String, Value>, known: &[&str]| {
                fields.keys().any(|key| !known.contains(&key.as_str()))
            };
            !object.as_object().is_some_and(|o| more(o, &["apiVersion", "kind", "metadata"]))
                && !metadata.as_object().is_some_and(|m| more(m, &["name", "namespace"]))
        }
        _ => false,
    }
}

/// `apiVersion`, `kind`, `metadata` with its name first, then everything by name; lists stay as they are.
fn in_order(object: Value) -> Value {
    let Value::Object(mut fields) = object else { return object };
    let mut ordered = Map::new();
    for key in ["apiVersion", "kind"] {
        ordered.extend(fields.remove(key).map(|value| (key.to_owned(), value)));
    }
    if let Some(Value::Object(mut metadata)) = fields.remove("metadata") {
        let mut head = Map::new();
        for key in ["name", "namespace"] {
            head.extend(metadata.remove(key).map(|value| (key.to_owned(), value)));
        }
        if let Value::Object(rest) = sorted(Value::Object(metadata)) {
            head.extend(rest);
        }
        ordered.insert("metadata".into(), Value::Object(head));
    }
    if let Value::Object(rest) = sorted(Value::Object(fields)) {
        ordered.extend(rest);
    }
    Value::Object(ordered)
}

fn sorted(value: Value) -> Value {
    match value {
        Value::Object(fields) => {
            let mut fields: Vec<_> = fields.into_iter().collect();
            fields.sort_by(|(a, _), (b, _)| a.cmp(b));
            Value::Object(fields.into_iter().map(|(key, value)| (key, sorted(value))).collect())
        }
        Value::Array(items) => Value::Array(items.into_iter().map(sorted).collect()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn kept(object: Value) -> Value {
        match clean(object, false) {
            Cleaned::Kept(object) => object,
            Cleaned::LeftOut(why) => panic!("left out: {why:?}"),
        }
    }

    #[test]
    fn a_deployment_is_as_somebody_would_have_written_it() {
        let object = json!({
            "kind": "Deployment", "apiVersion": "apps/v1", "status": {"replicas": 2},
            "metadata": {
                "uid": "u", "resourceVersion": "12", "generation": 3, "creationTimestamp": "2026-01-01T00:00:00Z",
                "managedFields": [{}], "selfLink": "/x", "namespace": "shop", "name": "web",
                "labels": {"b": "2", "a": "1"},
                "annotations": {"deployment.kubernetes.io/revision": "3",
                    "kubectl.kubernetes.io/last-applied-configuration": "{\"password\": 1}", "team": "shop"}},
            "spec": {"template": {"metadata": {"creationTimestamp": null, "labels": {"app": "web"}},
                "spec": {"containers": [{"name": "z"}, {"name": "a", "env": []}]}}, "replicas": 2}});
        let clean = kept(object);
        let expected = concat!(
            r#"{"apiVersion":"apps/v1","kind":"Deployment","metadata":{"name":"web","namespace":"shop","annotations":{"team":"shop"},"#,
            r#""labels":{"a":"1","b":"2"}},"spec":{"replicas":2,"template":{"metadata":{"labels":{"app":"web"}},"#,
            r#""spec":{"containers":[{"name":"z"},{"env":[],"name":"a"}]}}}}"#
        );
        assert_eq!(clean.to_string(), expected);
    }

    #[test]
    fn each_kind_loses_what_could_not_be_applied_again_and_nothing_more() {
        let head = |kind: &str| {
            let version = match kind {
                "StatefulSet" => "apps/v1",
                "Job" => "batch/v1",
                "Widget" => "example.com/v1",
                _ => "v1",
            };
            json!({"apiVersion": version, "kind": kind, "metadata": {"name": "x", "namespace": "n"}})
        };
        let table = [
            (
                "Service",
                json!({"spec": {"clusterIP": "10.0.0.1", "clusterIPs": ["10.0.0.1"], "ports": [{"nodePort": 30001, "port": 80}]}}),
                json!({"spec": {"ports": [{"nodePort": 30001, "port": 80}]}}),
            ),
            (
                "Service",
                json!({"spec": {"clusterIP": "None", "clusterIPs": ["None"]}}),
                json!({"spec": {"clusterIP": "None"}}),
            ),
            (
                "PersistentVolumeClaim",
                json!({"spec": {"volumeName": "pvc-1", "storageClassName": "fast"}}),
                json!({"spec": {"storageClassName": "fast"}}),
            ),
            (
                "Pod",
                json!({"spec": {"nodeName": "n1", "priority": 0, "volumes": [{"name": "kube-api-access-x"}, {"name": "data"}],
                "containers": [{"name": "c", "volumeMounts": [{"name": "kube-api-access-x"}]}]}}),
                json!({"spec": {"volumes": [{"name": "data"}], "containers": [{"name": "c"}]}}),
            ),
            (
                "Job",
                json!({"spec": {"selector": {"matchLabels": {"controller-uid": "u"}},
                "template": {"metadata": {"labels": {"controller-uid": "u", "job-name": "x"}}, "spec": {}}}}),
                json!({"spec": {"template": {"metadata": {}, "spec": {}}}}),
            ),
            (
                "Job",
                json!({"spec": {"manualSelector": true, "selector": {"matchLabels": {"a": "b"}}}}),
                json!({"spec": {"manualSelector": true, "selector": {"matchLabels": {"a": "b"}}}}),
            ),
            (
                "ServiceAccount",
                json!({"secrets": [{"name": "x-token-abc"}, {"name": "own"}]}),
                json!({"secrets": [{"name": "own"}]}),
            ),
            (
                "StatefulSet",
                json!({"spec": {"volumeClaimTemplates": [{"metadata": {"name": "d", "creationTimestamp": null}, "status": {"phase": "Pending"}}]}}),
                json!({"spec": {"volumeClaimTemplates": [{"metadata": {"name": "d"}}]}}),
            ),
            (
                "ConfigMap",
                json!({"data": {"status": "kept", "a": ""}}),
                json!({"data": {"status": "kept", "a": ""}}),
            ),
            (
                "Widget",
                json!({"spec": {"nodeName": "mine", "off": false, "creationTimestamp": "mine"}}),
                json!({"spec": {"nodeName": "mine", "off": false, "creationTimestamp": "mine"}}),
            ),
        ];
        for (kind, body, expected) in table {
            let with = |body: &Value| {
                let mut object = head(kind);
                object.as_object_mut().unwrap().extend(body.as_object().unwrap().clone());
                object
            };
            assert_eq!(kept(with(&body)), with(&expected), "{kind}");
        }
    }

    #[test]
    fn what_others_make_is_left_out() {
        let object = |kind: &str, name: &str, more: Value| {
            let mut object =
                json!({"apiVersion": "v1", "kind": kind, "metadata": {"name": name, "namespace": "default"}});
            object["metadata"].as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            object
        };
        let owner = json!({"ownerReferences": [{"kind": "Deployment", "uid": "u"}]});
        let out = |object: Value| match clean(object, false) {
            Cleaned::LeftOut(why) => Some(why),
            Cleaned::Kept(_) => None,
        };
        assert_eq!(out(object("ReplicaSet", "web-1", owner.clone())), Some(Why::Owned));
        assert!(
            matches!(clean(object("ReplicaSet", "web-1", owner), true), Cleaned::Kept(o) if o["metadata"].get("ownerReferences").is_none())
        );
        let leaving = json!({"deletionTimestamp": "2026-01-01T00:00:00Z"});
        assert_eq!(out(object("ConfigMap", "a", leaving)), Some(Why::BeingDeleted));
        for (kind, name) in
            [("ConfigMap", "kube-root-ca.crt"), ("Service", "kubernetes"), ("ServiceAccount", "default")]
        {
            assert_eq!(out(object(kind, name, json!({"uid": "u"}))), Some(Why::Generated), "{kind}");
            assert_eq!(out(object(kind, "own", json!({}))), None, "{kind}");
        }
        let mut account = object("ServiceAccount", "default", json!({}));
        account["imagePullSecrets"] = json!([{"name": "registry"}]);
        assert_eq!(out(account), None);
    }

    #[test]
    fn what_no_cluster_should_answer_is_kept_as_it_is() {
        for kind in ["Service", "Pod", "ServiceAccount", "PersistentVolume", "Namespace"] {
            for odd in [json!("text"), json!(null), json!([1]), json!({"containers": "x", "volumes": {}})] {
                let object = json!({"apiVersion": "v1", "kind": kind, "metadata": {"name": "x"}, "spec": odd, "secrets": 5});
                assert_eq!(kept(object)["kind"], kind);
            }
        }
        // Another group's Service is not the one we know.
        let knative = json!({"apiVersion": "serving.knative.dev/v1", "kind": "Service", "metadata": {"name": "x"}, "spec": {"clusterIP": "mine"}});
        assert_eq!(kept(knative)["spec"]["clusterIP"], "mine");
    }
}
