//! Objects of a cluster, through the real `kubectl`: what is kept, what is left out, and what stops it.

use std::io::Write;

use serde_json::{Value, json};

use super::Place;
use crate::support::answering::Reply;
use crate::support::cluster::Cluster;
use crate::support::run;

/// An object as an API server gives it.
fn object(version: &str, kind: &str, namespace: &str, name: &str, more: &Value) -> Value {
    let mut object = json!({"apiVersion": version, "kind": kind, "metadata": {
        "name": name, "namespace": namespace, "uid": "0f0f", "resourceVersion": "17", "generation": 2,
        "creationTimestamp": "2026-01-02T03:04:05Z", "labels": {"app": "shop"},
        "managedFields": [{"manager": "kubectl"}]}});
    for (key, value) in more.as_object().unwrap() {
        object[key] = value.clone();
    }
    object
}

pub(crate) fn shop() -> Vec<Value> {
    let mut replicas = object("apps/v1", "ReplicaSet", "shop", "web-5d", &json!({}));
    replicas["metadata"]["ownerReferences"] = json!([{"kind": "Deployment", "name": "web", "uid": "0f0f"}]);
    vec![
        object(
            "apps/v1",
            "Deployment",
            "shop",
            "web",
            &json!({
            "spec": {"replicas": 2, "template": {"metadata": {"creationTimestamp": null, "labels": {"app": "shop"}},
                "spec": {"containers": [{"name": "web", "image": "shop:1.4.1", "env": [{"name": "A", "value": "yes"}]}]}}},
            "status": {"readyReplicas": 2}}),
        ),
        replicas,
        object(
            "v1",
            "ConfigMap",
            "shop",
            "settings",
            &json!({"data": {"shop.conf": "listen 80\nlog on\n", "n": "5"}}),
        ),
        object("v1", "ConfigMap", "shop", "kube-root-ca.crt", &json!({"data": {"ca.crt": "x"}})),
        object(
            "v1",
            "Service",
            "shop",
            "web",
            &json!({"spec": {"clusterIP": "10.1.2.3", "clusterIPs": ["10.1.2.3"],
            "ports": [{"port": 80, "targetPort": 8080}], "selector": {"app": "shop"}}, "status": {"loadBalancer": {}}}),
        ),
        object(
            "v1",
            "Secret",
            "shop",
            "db",
            &json!({"type": "Opaque", "data": {"password": "b3R0ZXItNDQ="}}),
        ),
        object(
            "v1",
            "PersistentVolumeClaim",
            "shop",
            "data",
            &json!({"spec": {"volumeName": "pvc-7", "storageClassName": "fast"}}),
        ),
        object("v1", "ConfigMap", "other", "settings", &json!({"data": {"a": "b"}})),
        object("rbac.authorization.k8s.io/v1", "Role", "shop", "system:reader", &json!({"rules": []})),
    ]
}

fn place(cluster: &Cluster, more: &str) -> Place {
    let place = Place::new("");
    cluster.kubeconfig(place.folder.path());
    source(&place, "shop", more);
    place
}

fn source(place: &Place, target: &str, more: &str) {
    place.plan(
        &format!(
            "{{name: cluster, kind: kubernetes, target: {target}, with: {{kubeconfig: kubeconfig{more}}}}}"
        ),
        "",
    );
}

fn restored(place: &Place) -> Vec<String> {
    let _ = std::fs::remove_dir_all(place.path("restored"));
    place.good(&["restore", "--to", "restored"]);
    let index = std::fs::read_to_string(place.path("restored/cluster/index.txt")).unwrap();
    let files = super::walk(&place.path("restored/cluster"));
    assert_eq!(files.len(), index.lines().count() + 1);
    index.lines().map(str::to_owned).collect()
}

fn text(place: &Place, file: &str) -> String {
    std::fs::read_to_string(place.path("restored/cluster").join(file)).unwrap()
}

#[test]
fn objects_of_a_namespace_are_kept_as_somebody_would_have_written_them() {
    let cluster = Cluster::start(shop());
    let place = place(&cluster, "");
    let document = place.create();
    let paths = [
        "shop/configmap/settings.yaml",
        "shop/deployment.apps/web.yaml",
        "shop/persistentvolumeclaim/data.yaml",
        "shop/role.rbac.authorization.k8s.io/system:reader.yaml",
        "shop/service/web.yaml",
    ];
    assert_eq!(restored(&place), paths);
    assert_eq!(
        text(&place, paths[0]),
        "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: settings\n  namespace: shop\n  labels:\n    app: shop\n\
         data:\n  \"n\": \"5\"\n  shop.conf: |\n    listen 80\n    log on\n"
    );
    let deployment = text(&place, paths[1]);
    assert!(
        deployment.contains(
            "      - env:\n        - name: A\n          value: \"yes\"\n        image: \"shop:1.4.1\"\n"
        ),
        "{deployment}"
    );
    for path in paths {
        for word in [
            "uid",
            "resourceVersion",
            "managedFields",
            "status",
            "creationTimestamp",
            "clusterIP",
            "volumeName",
        ] {
            assert!(!text(&place, path).contains(word), "{path}: {word}");
        }
    }
    let details = &document["snapshot"]["sources"][0]["details"];
    assert_eq!(details["objects"], 5);
    // Owners' objects are not even asked for where the kinds are the usual ones.
    assert_eq!(details["left_out"], json!({"generated": 1}));
    assert_eq!(
        (&details["volumes"], &details["server"]),
        (&json!({"shop/data": "pvc-7"}), &json!(cluster.api.url()))
    );
    let proof = document["snapshot"]["sources"][0]["proof"].as_str().unwrap();
    assert!(proof.contains("5 objects parsed"), "{proof}");
    // The real kubectl reads every file, and finds in it what is meant.
    for path in paths {
        let mut kubectl = std::process::Command::new("kubectl");
        kubectl.args(["create", "--dry-run=client", "--validate=false", "--output=name", "--kubeconfig"]);
        let ended = run(kubectl
            .arg(place.path("kubeconfig"))
            .arg("--filename")
            .arg(place.path("restored/cluster").join(path)));
        assert_eq!(ended.code, 0, "{path}: {}", ended.stderr);
        let parts: Vec<&str> = path.trim_end_matches(".yaml").splitn(3, '/').skip(1).collect();
        assert_eq!(ended.stdout.trim(), parts.join("/"));
    }
}

/// Texts that some reader of YAML would take for something else.
const HOSTILE: &[&str] = &[
    "",
    " ",
    "a ",
    "~",
    "null",
    "True",
    "NO",
    "y",
    "0x1f",
    "0o17",
    "1e3",
    "1_000",
    "012",
    "2026-01-01",
    "1:20",
    ".inf",
    "- a",
    "a: b",
    "a #b",
    "#a",
    "&a",
    "*a",
    "!a",
    "|",
    "%a",
    "@a",
    "`a",
    "{a",
    "[a",
    "\"a",
    "'a",
    "<<",
    "=",
    "?",
    "a\n",
    "\na",
    " a\nb",
    "a\nb",
    "a\nb\n",
    "a\nb\n\n\n",
    "a\n \nb",
    "a\n\tb",
    "\ta\nb",
    "a\r\nb",
    "a\u{7f}",
    "a\u{85}b",
    "a\u{2028}b",
    "a\nb\u{a0}c",
    "é ü 漢 😀\n\nx",
    "---",
    "...",
    "a\n---\nb",
    "\\n",
    "${HOME}",
    "a\u{feff}b",
    "a\n# b\n",
    "a: |\n  b\n",
];

#[test]
fn the_real_kubectl_reads_every_text_as_it_was() {
    let data: serde_json::Map<String, Value> =
        HOSTILE.iter().enumerate().map(|(n, text)| (format!("k{n}"), json!(text))).collect();
    let cluster = Cluster::start(vec![object("v1", "ConfigMap", "shop", "hostile", &json!({"data": data}))]);
    let place = place(&cluster, "");
    place.create();
    assert_eq!(restored(&place), ["shop/configmap/hostile.yaml"]);
    let mut kubectl = std::process::Command::new("kubectl");
    kubectl.args(["create", "--dry-run=client", "--validate=false", "--output=json", "--kubeconfig"]);
    kubectl
        .arg(place.path("kubeconfig"))
        .arg("--filename")
        .arg(place.path("restored/cluster/shop/configmap/hostile.yaml"));
    let ended = run(&mut kubectl);
    assert_eq!(ended.code, 0, "{}", ended.stderr);
    let read: Value = serde_json::from_str(&ended.stdout).unwrap();
    for (key, text) in &data {
        assert_eq!(&read["data"][key], text, "{key}");
    }
}

#[test]
fn an_unchanged_cluster_adds_next_to_nothing_and_order_does_not_matter() {
    let cluster = Cluster::start(shop());
    let place = place(&cluster, "");
    let sum = |document: &Value| document["snapshot"]["sources"][0]["sha256"].clone();
    let first = sum(&place.create());
    {
        let mut holds = cluster.holds.lock().unwrap();
        holds.objects.reverse();
        holds.page = 1;
        for object in &mut holds.objects {
            object["metadata"]["resourceVersion"] = json!("99");
            object["status"] = json!({"seen": 3});
        }
    }
    assert_eq!(sum(&place.create()), first);
    assert!(cluster.lists().iter().any(|asked| asked.query.contains("continue=1")), "nothing came in pages");
    cluster.holds.lock().unwrap().objects[0]["rules"] = json!([{"verbs": ["get"]}]);
    assert_ne!(sum(&place.create()), first);
}

#[test]
fn secrets_come_only_when_asked_and_are_shown_nowhere() {
    let cluster = Cluster::start(shop());
    let place = place(&cluster, ", secrets: true");
    let ended = place.good(&["create"]);
    assert!(restored(&place).contains(&"shop/secret/db.yaml".to_owned()));
    assert!(text(&place, "shop/secret/db.yaml").contains("password: \"b3R0ZXItNDQ=\""));
    let said = ended.stderr + &ended.stdout + &place.document().to_string();
    for secret in ["b3R0ZXItNDQ", "otter-44", "badger"] {
        assert!(!said.contains(secret), "{said}");
    }
    // Without the word it is a mistake in the plan, and a cluster that gives one all the same is not believed.
    for kind in ["secrets", "Secret", "secrets.v1."] {
        source(&place, "shop", &format!(", kinds: [{kind}]"));
        let ended = place.call(&["create"]);
        assert_eq!(ended.code, 2, "{}", ended.stderr);
        assert!(ended.stderr.contains("`secrets: true`"), "{}", ended.stderr);
    }
    source(&place, "shop", ", kinds: [configmaps]");
    let odd = json!({"kind": "List", "apiVersion": "v1", "metadata": {}, "items": [shop()[5]]});
    cluster.holds.lock().unwrap().instead = Some(Reply::json(odd));
    let ended = place.call(&["create"]);
    assert_eq!(ended.code, 4, "{}", ended.stderr);
    assert!(!ended.stderr.contains("b3R0"), "{}", ended.stderr);
}

#[test]
fn kinds_selectors_namespaces_and_owned_objects_are_taken_as_the_plan_says() {
    let cluster = Cluster::start(shop());
    let place = place(&cluster, ", kinds: [replicasets.apps, configmaps], owned: true");
    place.create();
    assert_eq!(restored(&place), ["shop/configmap/settings.yaml", "shop/replicaset.apps/web-5d.yaml"]);
    assert!(!text(&place, "shop/replicaset.apps/web-5d.yaml").contains("ownerReferences"));
    source(&place, "shop", ", kinds: [replicasets.apps, configmaps]");
    let document = place.create();
    assert_eq!(
        document["snapshot"]["sources"][0]["details"]["left_out"],
        json!({"generated": 1, "owned": 1})
    );
    source(&place, "[shop, other]", ", kinds: [configmaps], context: test");
    place.create();
    assert_eq!(restored(&place), ["other/configmap/settings.yaml", "shop/configmap/settings.yaml"]);
    source(&place, "'*'", ", kinds: [configmaps]");
    place.create();
    assert_eq!(restored(&place).len(), 2);
    cluster.holds.lock().unwrap().objects[2]["metadata"]["labels"]["app"] = json!("else");
    source(&place, "shop", ", kinds: [configmaps, services], selector: app=else");
    place.create();
    assert_eq!(restored(&place), ["shop/configmap/settings.yaml"]);
    assert!(cluster.lists().last().unwrap().query.contains("labelSelector=app%3Delse"));
}

#[test]
fn with_dry_run_the_cluster_is_asked_whether_it_would_take_everything_back() {
    let version = run(std::process::Command::new("kubectl").args(["version", "--client", "--output=json"]));
    let version: Value = serde_json::from_str(&version.stdout).unwrap();
    let minor =
        version["clientVersion"]["minor"].as_str().unwrap().trim_end_matches('+').parse::<u32>().unwrap();
    if minor < 27 {
        // Older ones look for `dryRun` in the server's OpenAPI as protobuf, which is not played here.
        let said = writeln!(std::io::stderr(), "NOT TESTED: dry_run, with a kubectl older than 1.27");
        assert!(said.is_ok());
        return;
    }
    let cluster = Cluster::start(shop());
    let place = place(&cluster, ", dry_run: true, secrets: true");
    let document = place.create();
    let proof = document["snapshot"]["sources"][0]["proof"].as_str().unwrap();
    assert!(proof.contains("and the cluster would take all of them"), "{proof}");
    let tried: Vec<_> = cluster.api.asked().into_iter().filter(|asked| asked.method == "POST").collect();
    assert_eq!(tried.len(), 6);
    cluster.holds.lock().unwrap().closed = Some("data.password: Invalid value: b3R0ZXItNDQ=");
    let ended = place.call(&["create"]);
    assert_eq!(ended.code, 4, "{}", ended.stderr);
    assert!(ended.stderr.contains("would not take it back"), "{}", ended.stderr);
    assert!(
        !ended.stderr.contains("b3R0") && !place.document().to_string().contains("b3R0"),
        "{}",
        ended.stderr
    );
    cluster.holds.lock().unwrap().closed = Some("admission: no more than one replica");
    source(&place, "shop", ", dry_run: true");
    let ended = place.call(&["create"]);
    assert!(ended.stderr.contains("no more than one replica"), "{}", ended.stderr);
}

#[test]
fn nothing_found_is_an_error_unless_that_is_fine() {
    let cluster = Cluster::start(shop());
    let place = place(&cluster, "");
    source(&place, "empty", "");
    let ended = place.call(&["create"]);
    assert_eq!(ended.code, 4, "{}", ended.stderr);
    assert!(ended.stderr.contains("no objects") && ended.stderr.contains("allow_empty"), "{}", ended.stderr);
    place.assert_nothing_kept();
    source(&place, "empty", ", allow_empty: true");
    assert_eq!(place.create()["snapshot"]["sources"][0]["details"]["objects"], 0);
    source(&place, "shop", ", kinds: [replicasets.apps]");
    assert!(place.call(&["create"]).stderr.contains("all 1 are made by others"));
}

#[test]
fn what_the_cluster_refuses_is_told_with_the_next_step() {
    let cluster = Cluster::start(shop());
    let place = place(&cluster, "");
    let says = |words: &[&str]| {
        let ended = place.call(&["create"]);
        assert_eq!(ended.code, 4, "{words:?}: {}", ended.stderr);
        for word in words {
            assert!(ended.stderr.contains(word), "{word}: {}", ended.stderr);
        }
        assert!(!ended.stderr.contains("badger"), "{}", ended.stderr);
        place.assert_nothing_kept();
    };
    cluster.holds.lock().unwrap().forbidden = Some("roles");
    says(&["namespace `shop`", "cannot list resource \"roles\"", "the right to list"]);
    cluster.holds.lock().unwrap().forbidden = None;
    cluster.holds.lock().unwrap().unauthorized = true;
    says(&["does not accept these credentials"]);
    cluster.holds.lock().unwrap().unauthorized = false;
    source(&place, "shop", ", kinds: [widgets.example.com]");
    says(&["doesn't have a resource type \"widgets\"", "kubectl api-resources"]);
    source(&place, "shop", ", context: nowhere");
    says(&["context", "get-contexts"]);
    source(&place, "shop", ", kinds: [configmaps]");
    for reply in [
        Reply::Says(500, "application/json", "{}".into()),
        Reply::Says(
            200,
            "application/json",
            "{\"kind\": \"ConfigMapList\", \"apiVersion\": \"v1\", \"items\": [{\"met".into(),
        ),
        Reply::Says(200, "text/html", "<html>log in first</html>".into()),
    ] {
        cluster.holds.lock().unwrap().instead = Some(reply);
        says(&["source `cluster`"]);
    }
    drop(cluster);
    says(&["within reach"]);
    source(&place, "shop", ", kubectl: ./no-such-kubectl");
    says(&["kubectl could not be run"]);
}

#[test]
fn a_kubectl_that_prints_something_else_or_hangs_is_not_believed() {
    let cluster = Cluster::start(shop());
    let place = place(&cluster, ", kubectl: ./kubectl");
    for (script, words) in [
        ("echo '{\"kind\": \"List\"}'", "something else than a list"),
        ("echo '{\"items\": [{\"kind\": \"ConfigMap\"}]}'", "no kind or no name"),
        (
            "echo '{\"items\": [{\"kind\": \"A\", \"apiVersion\": \"v1\", \"metadata\": {\"name\": \"../../x\"}}]}'",
            "no kind or no name",
        ),
        ("echo '{\"items\": []} and more'", "something else than a list"),
        ("head -c 68000000 /dev/zero | tr '\\0' ' '; echo '{\"items\": []}'", "more than 64 MiB"),
    ] {
        place.script("kubectl", script);
        let ended = place.call(&["create"]);
        assert_eq!(ended.code, 4, "{}", ended.stderr);
        assert!(ended.stderr.contains(words), "{words}: {}", ended.stderr);
    }
    place.script("kubectl", "sleep 600");
    place.plan(
        "{name: cluster, kind: kubernetes, target: shop, timeout: 200ms, with: {kubectl: ./kubectl}}",
        "",
    );
    assert!(place.call(&["create"]).stderr.contains("did not end within its time"));
    for wrong in [
        "target: -x",
        "target: ['*', shop]",
        "target: Shop",
        "target: shop, with: {kinds: [--raw]}",
        "target: shop, with: {kinds: []}",
    ] {
        place.plan(&format!("{{name: cluster, kind: kubernetes, {wrong}}}"), "");
        assert_eq!(place.call(&["create"]).code, 2, "{wrong}");
    }
}
