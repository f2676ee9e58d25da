//! Connections as people have them: certificates of every make, proxies, unix sockets, old servers. The other side is
//! OpenSSL or a small server of the test's own, never this project's code.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};

use trapkey::checks;
use trapkey::evidence::Verdict::{Fail, Pass};
use trapkey::evidence::{Finding, Verdict};
use trapkey::plan::Loaded;

use super::servers::{Authority, Server, http, tls};
use crate::support::{folder, free_port, json, run, tool, wait_until};

/// A busy machine is waited for.
const PATIENT: &str = "defaults: {timeout: 1m}\n";

/// The findings of checks in a plan whose head has more.
pub(crate) fn look(folder: &Path, head: &str, checks_yaml: &[String]) -> Vec<Finding> {
    let path = folder.join("release.yaml");
    let lines: String =
        checks_yaml.iter().enumerate().map(|(n, c)| format!("    - {{name: c{n}, {c}}}\n")).collect();
    let plan = format!(
        "version: 1\nservice: shop\nrelease: {{version: 1.0}}\n{PATIENT}{head}preflight:\n  checks:\n{lines}"
    );
    std::fs::write(&path, plan).unwrap();
    let loaded = Loaded::read(&path, BTreeMap::new()).unwrap_or_else(|fault| panic!("{fault}"));
    let prepared = checks::prepare(&loaded.plan.preflight.as_ref().unwrap().checks, &loaded);
    checks::run(&prepared.unwrap_or_else(|fault| panic!("{fault}")), 4, &|_| {})
}

/// OpenSSL makes a certificate in a folder: a shell's words, for they are those that people copy.
fn openssl(folder: &Path, script: &str) {
    let made = Command::new("sh").args(["-ec", script]).current_dir(folder).output().unwrap();
    assert!(made.status.success(), "{script}: {}", String::from_utf8_lossy(&made.stderr));
}

/// OpenSSL's server, with words of its own.
struct Serving {
    port: u16,
    server: Child,
}

impl Serving {
    fn start(folder: &Path, words: &str) -> Self {
        let port = free_port();
        let server = Command::new("openssl")
            .args(["s_server", "-accept", &format!("127.0.0.1:{port}")])
            .args(words.split(' '))
            .current_dir(folder)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        wait_until("openssl", || TcpStream::connect(("127.0.0.1", port)).is_ok());
        Self { port, server }
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}

const MAKE: &str = "
    openssl req -x509 -newkey rsa:2048 -nodes -keyout ca.key -out ca.pem -days 60 -subj /CN=authority
    # As PostgreSQL's manual has it: a certificate of X.509's first version, its name in the subject.
    openssl req -new -newkey rsa:2048 -nodes -keyout first.key -out first.csr -subj /CN=localhost
    openssl x509 -req -in first.csr -days 30 -CA ca.pem -CAkey ca.key -CAcreateserial -out first.pem
    # Self-signed, as in every tutorial; and without a list of names.
    openssl req -x509 -newkey rsa:2048 -nodes -keyout self.key -out self.pem -days 60 -subj /CN=localhost \\
        -addext subjectAltName=DNS:localhost
    openssl req -x509 -newkey rsa:2048 -nodes -keyout bare.key -out bare.pem -days 60 -subj /CN=localhost
    # Another's name, and one that another authority of the same name has signed.
    openssl req -x509 -newkey rsa:2048 -nodes -keyout other.key -out other.pem -days 60 -subj /CN=elsewhere
    openssl req -x509 -newkey rsa:2048 -nodes -keyout false.key -out false.pem -days 60 -subj /CN=authority
    openssl x509 -req -in first.csr -days 30 -CA false.pem -CAkey false.key -CAcreateserial -out forged.pem
    # Roots that are over, and that may not sign.
    openssl req -new -newkey rsa:2048 -nodes -keyout root.key -out root.csr -subj /CN=root
    openssl req -new -newkey rsa:2048 -nodes -keyout under.key -out under.csr -subj /CN=localhost
    echo subjectAltName=DNS:localhost > leaf.ext
    echo basicConstraints=critical,CA:TRUE > true.ext
    echo basicConstraints=critical,CA:FALSE > never.ext
    printf 'basicConstraints=critical,CA:TRUE\nkeyUsage=digitalSignature\n' > use.ext
    openssl x509 -req -in root.csr -days 60 -signkey root.key -extfile true.ext -out now.pem
    openssl x509 -req -in root.csr -days -1 -signkey root.key -extfile true.ext -out past.pem
    openssl x509 -req -in root.csr -days 60 -signkey root.key -extfile never.ext -out never.pem
    openssl x509 -req -in root.csr -days 60 -signkey root.key -extfile use.ext -out use.pem
    openssl x509 -req -in under.csr -days 30 -CA now.pem -CAkey root.key -CAcreateserial -extfile leaf.ext -out under.pem
    # Over, though it was given by name.
    openssl x509 -req -in first.csr -days -1 -signkey first.key -out over.pem
";

#[test]
fn a_certificate_is_trusted_where_curl_trusts_it() {
    let folder = folder();
    openssl(folder.path(), MAKE);
    // What the server shows, the file that is given as `ca`, and whether that will do.
    let cases = [
        ("first", "ca", true),
        ("first", "first", true),
        ("first", "false", false),
        ("forged:first", "ca", false),
        ("self", "self", true),
        ("self", "ca", false),
        ("self", "", false),
        ("bare", "bare", true),
        ("other", "other", false),
        ("over:first", "over", false),
        ("under", "now", true),
        ("under", "past", false),
        ("under", "never", false),
        ("under", "use", false),
    ];
    let mut servers = BTreeMap::new();
    for (shown, ..) in cases {
        servers.entry(shown).or_insert_with(|| {
            let (pem, key) = shown.split_once(':').unwrap_or((shown, shown));
            Serving::start(folder.path(), &format!("-www -cert {pem}.pem -key {key}.key"))
        });
    }
    let url = |port: u16| format!("https://localhost:{port}/");
    let mut checks = Vec::new();
    for (shown, ca, _) in cases {
        let port = servers[shown].port;
        let with = if ca.is_empty() { String::new() } else { format!(", with: {{ca: {ca}.pem}}") };
        checks.push(format!("kind: http, target: \"{}\"{with}", url(port)));
        checks.push(format!("kind: tls, target: \"localhost:{port}\"{with}"));
    }
    let findings = look(folder.path(), "", &checks);
    for ((shown, ca, trusted), pair) in cases.iter().zip(findings.chunks(2)) {
        for finding in pair {
            let verdict = if *trusted { Verdict::Pass } else { Verdict::Fail };
            assert_eq!(finding.verdict, verdict, "{} {shown} with {ca}: {}", finding.kind, finding.message);
        }
        if !ca.is_empty() {
            let curl = Command::new("curl")
                .args(["-s", "-o", "/dev/null", "--noproxy", "*", "--cacert", &format!("{ca}.pem")])
                .arg(url(servers[shown].port))
                .current_dir(folder.path())
                .status()
                .unwrap();
            assert_eq!(curl.success(), *trusted, "curl {shown} with {ca}");
        }
    }
}

#[test]
fn a_plan_says_once_who_is_trusted_and_a_check_says_it_nearer() {
    let folder = folder();
    openssl(folder.path(), MAKE);
    let server = Serving::start(folder.path(), "-www -cert self.pem -key self.key");
    let other = Serving::start(folder.path(), "-www -cert other.pem -key other.key");
    let (port, other) = (server.port, other.port);
    let http = |port: u16, with: &str| format!("kind: http, target: \"https://localhost:{port}/\"{with}");
    let tls = |port: u16, with: &str| format!("kind: tls, target: \"localhost:{port}\"{with}");
    let verdicts = |head: &str, checks: &[String]| -> Vec<Verdict> {
        // A process of its own: what a plan says counts for all of it.
        let path = folder.path().join("release.yaml");
        let lines: String =
            checks.iter().enumerate().map(|(n, c)| format!("    - {{name: c{n}, {c}}}\n")).collect();
        let plan = format!(
            "version: 1\nservice: shop\nrelease: {{version: 1.0}}\n{PATIENT}{head}preflight:\n  checks:\n{lines}"
        );
        std::fs::write(path, plan).unwrap();
        let ended = run(tool("preflight", folder.path()).args(["--plan", "release.yaml"]));
        assert!(ended.code <= 3, "{ended:?}");
        let document = json(&folder.path().join("evidence/preflight.json"));
        let findings = document["findings"].as_array().unwrap();
        findings.iter().map(|f| serde_json::from_value(f["verdict"].clone()).unwrap()).collect()
    };
    let all = [http(port, ""), tls(port, ""), http(other, ""), tls(other, "")];
    assert_eq!(verdicts("", &all), [Fail; 4]);
    let said = format!(
        "connections:\n  localhost:{port}: {{ca: self.pem}}\n  \"*\": {{ca: other.pem, server_name: elsewhere}}\n"
    );
    // The nearer entry has no `server_name`; that of `*` counts there too.
    let own = said.replace("self.pem", "self.pem, server_name: localhost");
    assert_eq!(verdicts(&said, &all), [Fail, Fail, Pass, Pass]);
    assert_eq!(verdicts(&own, &all), [Pass; 4]);
    let anybody = "connections: {localhost: {insecure: true}}\n";
    let expect = ", expect: {expires_in: \">= 1d\"}";
    let nearer = [
        http(port, ", with: {ca: ca.pem}"),
        http(port, ""),
        tls(other, expect),
        tls(other, ", with: {insecure: true}, expect: {chain_valid: false}"),
    ];
    assert_eq!(verdicts(anybody, &nearer), [Fail, Pass, Fail, Pass]);
    let here = [
        tls(other, ", with: {insecure: true}, expect: {expires_in: \">= 1d\"}"),
        http(other, ", with: {insecure: true}"),
    ];
    assert_eq!(verdicts("", &here), [Pass, Pass]);
}

#[test]
fn router_front_door_and_sides_are_reached_as_the_plan_says() {
    let authority = Authority::new();
    let folder = folder();
    std::fs::write(folder.path().join("ca.pem"), authority.pem()).unwrap();
    std::fs::write(
        folder.path().join("dyn.yml"),
        "# Written by Trapkey; the next shift overwrites it.\n# trapkey-split 0\nhttp:\n  services:\n    s:\n      weighted:\n        \
         services:\n          - {name: \"b\", weight: 1}\n",
    )
    .unwrap();
    let server = tls(&authority.issue("localhost", (2020, 2120)), &[&rustls::version::TLS13]);
    let url = format!("https://localhost:{}", server.port);
    let distrusted = |connections: &str| {
        let plan = format!(
            "version: 1\nservice: shop\nenvironments: {{production: {{url: \"{url}\"}}}}\n\
             release: {{version: \"2\", previous: \"1\"}}\n{connections}\
             preflight: {{checks: [{{name: c, kind: env, target: HOME}}]}}\npromote:\n  strategy: canary\n  \
             router: {{kind: traefik, target: dyn.yml, with: {{api: \"{url}\", service: s, blue: b, green: g}}}}\n  \
             sides: {{blue: {{url: \"{url}\", health: /h}}, green: {{url: \"{url}/g\", health: /h}}}}\n  \
             steps: [{{weight: 5%, bake: 1s}}, {{weight: 100%}}]\n  rollback_when: [{{metric: error_rate, is: \"> 1%\"}}]\n"
        );
        std::fs::write(folder.path().join("release.yaml"), plan).unwrap();
        let ended = run(tool("preflight", folder.path()).args(["--plan", "release.yaml"]));
        let lines = ended.stderr.lines().filter(|line| line.contains("invalid peer certificate"));
        let who = lines.filter_map(|line| line.split("promote: ").nth(1)?.split(" ·").next());
        let who: Vec<String> = who.map(str::to_owned).collect();
        assert!(ended.code <= 4 && ended.stderr.contains("promote: router"), "{ended:?}");
        who
    };
    assert_eq!(distrusted(""), ["router", "blue", "green"]);
    assert!(distrusted("connections: {localhost: {ca: ca.pem}}\n").is_empty());
    assert!(distrusted("connections: {\"*\": {insecure: true}}\n").is_empty());
    assert_eq!(distrusted("connections: {elsewhere: {insecure: true}}\n").len(), 3);
}

#[test]
fn a_client_certificate_is_shown_to_whoever_asks() {
    let folder = folder();
    openssl(folder.path(), MAKE);
    let more = "cat first.pem first.key > both.pem
        openssl pkcs8 -topk8 -in first.key -out locked.key -passout pass:x";
    openssl(folder.path(), more);
    let asks = |versions: &str| {
        let words = format!(
            "-www -cert self.pem -key self.key -Verify 1 -verify_return_error -CAfile ca.pem {versions}"
        );
        Serving::start(folder.path(), &words)
    };
    for server in [asks("-tls1_3"), asks("-tls1_2")] {
        let port = server.port;
        let http = |with: &str| {
            format!("kind: http, target: \"https://localhost:{port}/\", with: {{ca: self.pem{with}}}")
        };
        let tls =
            |with: &str| format!("kind: tls, target: \"localhost:{port}\", with: {{ca: self.pem{with}}}");
        let findings = look(
            folder.path(),
            "",
            &[
                http(", cert: first.pem, key: first.key"),
                http(", cert: both.pem"),
                http(""),
                http(", cert: first.pem, key: self.key"),
                http(", cert: first.pem, key: locked.key"),
                tls(", cert: first.pem, key: first.key"),
                tls(""),
            ],
        );
        let verdicts: Vec<_> = findings.iter().map(|f| f.verdict).collect();
        let messages: Vec<_> = findings.iter().map(|f| f.message.as_str()).collect();
        assert_eq!(verdicts, [Pass, Pass, Fail, Fail, Fail, Pass, Pass], "{messages:#?}");
        assert!(messages[3].contains("is not the key of the certificate"), "{}", messages[3]);
        assert!(messages[4].contains("is encrypted"), "{}", messages[4]);
    }
}

/// The versions and ciphers of a server, and its lowest version.
const SERVERS: &[(&str, &str)] = &[
    ("-tls1_3 -cert self.pem -key self.key", "1.3"),
    ("-tls1_2 -cipher DHE-RSA-AES128-GCM-SHA256 -cert self.pem -key self.key", "1.2"),
    ("-cert ed.pem -key ed.key -no_tls1_1 -no_tls1", "1.2"),
    ("-cipher CAMELLIA128-SHA:@SECLEVEL=0 -min_protocol TLSv1 -cert self.pem -key self.key", "1.0"),
    ("-cipher DHE-RSA-AES256-SHA:@SECLEVEL=0 -min_protocol TLSv1.1 -cert self.pem -key self.key", "1.1"),
    ("-cipher ARIA128-GCM-SHA256 -cert self.pem -key self.key", "1.2"),
    ("-cipher AES128-CCM8 -cert self.pem -key self.key", "1.2"),
    ("-cipher ADH-AES128-SHA:@SECLEVEL=0 -min_protocol TLSv1 -cert self.pem -key self.key", "1.0"),
    (
        "-cipher PSK-AES128-CBC-SHA:@SECLEVEL=0 -psk 1a2b -min_protocol TLSv1 -cert self.pem -key self.key",
        "1.0",
    ),
    ("-cipher ECDHE-ECDSA-AES128-SHA:@SECLEVEL=0 -min_protocol TLSv1 -cert p521.pem -key p521.key", "1.0"),
    ("-tls1 -cipher AES128-SHA:@SECLEVEL=0 -cert self.pem -key self.key", "1.0"),
    ("-tls1_2 -cipher AES256-SHA256 -cert self.pem -key self.key", "1.2"),
];

#[test]
fn the_lowest_version_is_found_whatever_the_ciphers() {
    let folder = folder();
    openssl(folder.path(), MAKE);
    openssl(
        folder.path(),
        "openssl req -x509 -newkey ed25519 -nodes -keyout ed.key -out ed.pem -days 60 -subj /CN=localhost
         openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-521 -nodes -keyout p521.key -out p521.pem -days 60 \\
            -subj /CN=localhost",
    );
    let servers: Vec<_> =
        SERVERS.iter().map(|(words, _)| Serving::start(folder.path(), &format!("-quiet {words}"))).collect();
    let checks: Vec<String> = servers
        .iter()
        .map(|server| {
            let with = "timeout: 1m, with: {insecure: true}";
            format!("kind: tls, target: \"localhost:{}\", {with}, expect: {{min_version: 1.0}}", server.port)
        })
        .collect();
    let findings = look(folder.path(), "", &checks);
    for (finding, (words, lowest)) in findings.iter().zip(SERVERS) {
        assert_eq!(finding.evidence["seen"]["min_version"], *lowest, "{words}: {finding:?}");
    }
}

#[test]
fn what_the_lowest_version_is_cannot_be_said_where_a_server_hangs_or_has_had_enough() {
    // A server that turns away all that is not its modern client, without a word, and from then on everybody.
    let authority = Authority::new();
    let folder = folder();
    std::fs::write(folder.path().join("ca.pem"), authority.pem()).unwrap();
    let inner = tls(&authority.issue("localhost", (2020, 2120)), &[&rustls::version::TLS13]);
    let (port, count) = (inner.port, Mutex::new(0));
    let tired = Server::start(move |stream| {
        let first = {
            let mut count = count.lock().unwrap();
            *count += 1;
            *count == 1
        };
        if first {
            relay(stream, TcpStream::connect(("127.0.0.1", port)).unwrap());
        }
    });
    let findings = look(
        folder.path(),
        "",
        &[format!(
            "kind: tls, target: \"localhost:{}\", with: {{ca: ca.pem}}, expect: {{min_version: 1.2}}",
            tired.port
        )],
    );
    assert_eq!(findings[0].verdict, Verdict::NoData, "{}", findings[0].message);
    assert!(findings[0].message.contains("cannot be known"), "{}", findings[0].message);
}

#[test]
fn the_whole_chain_counts_for_its_end() {
    let folder = folder();
    openssl(
        folder.path(),
        "openssl req -x509 -newkey rsa:2048 -nodes -keyout ca.key -out ca.pem -days 600 -subj /CN=root
         printf 'basicConstraints=critical,CA:true\\n' > ca.ext
         printf 'subjectAltName=DNS:localhost\\n' > leaf.ext
         openssl req -new -newkey rsa:2048 -nodes -keyout mid.key -out mid.csr -subj /CN=middle
         openssl x509 -req -in mid.csr -days 2 -CA ca.pem -CAkey ca.key -CAcreateserial -extfile ca.ext -out mid.pem
         openssl req -new -newkey rsa:2048 -nodes -keyout leaf.key -out leaf.csr -subj /CN=localhost
         openssl x509 -req -in leaf.csr -days 90 -CA mid.pem -CAkey mid.key -CAcreateserial -extfile leaf.ext -out leaf.pem",
    );
    let server = Serving::start(folder.path(), "-quiet -cert leaf.pem -key leaf.key -cert_chain mid.pem");
    let target = format!("kind: tls, target: \"localhost:{}\", with: {{ca: ca.pem}}", server.port);
    let expect = |is: &str| format!("{target}, expect: {{expires_in: \"{is}\"}}");
    let findings = look(folder.path(), "", &[expect(">= 14d"), expect("<= 2d"), target.clone()]);
    assert_eq!(findings[0].verdict, Verdict::Fail, "{}", findings[0].message);
    assert!(findings[0].message.contains("CN=middle"), "{}", findings[0].message);
    assert_eq!((findings[1].verdict, findings[2].verdict), (Verdict::Pass, Verdict::Pass));
}

#[test]
fn what_stands_between_counts_as_curl_counts_it() {
    let folder = folder();
    // Each intermediate has the same key and name, so that one server's certificate leads to all of them.
    openssl(
        folder.path(),
        "for name in root mid leaf; do
             openssl req -new -newkey rsa:2048 -nodes -keyout $name.key -out $name.csr -subj /CN=$name
         done
         printf 'basicConstraints=critical,CA:TRUE\n' > ca.ext
         printf 'basicConstraints=critical,CA:TRUE,pathlen:0\n' > none.ext
         printf 'basicConstraints=critical,CA:TRUE,pathlen:1\n' > one.ext
         printf 'basicConstraints=critical,CA:TRUE\nkeyUsage=digitalSignature\n' > use.ext
         printf 'basicConstraints=critical,CA:TRUE\nkeyUsage=keyCertSign\n' > sign.ext
         printf 'subjectAltName=DNS:localhost\n' > leaf.ext
         for kind in ca none one; do
             openssl x509 -req -in root.csr -days 60 -signkey root.key -extfile $kind.ext -out root-$kind.pem
         done
         for kind in ca use sign; do
             openssl x509 -req -in mid.csr -days 60 -CA root-ca.pem -CAkey root.key -CAcreateserial \
                 -extfile $kind.ext -out mid-$kind.pem
         done
         openssl x509 -req -in leaf.csr -days 60 -CA mid-ca.pem -CAkey mid.key -CAcreateserial -extfile leaf.ext -out leaf.pem",
    );
    for (between, root, trusted) in [
        ("ca", "ca", true),
        ("sign", "ca", true),
        ("use", "ca", false),
        ("ca", "one", true),
        ("ca", "none", false),
    ] {
        let server = Serving::start(
            folder.path(),
            &format!("-www -cert leaf.pem -key leaf.key -cert_chain mid-{between}.pem"),
        );
        let with = format!("with: {{ca: root-{root}.pem}}");
        let checks = [
            format!("kind: http, target: \"https://localhost:{}/\", {with}", server.port),
            format!("kind: tls, target: \"localhost:{}\", {with}", server.port),
        ];
        for finding in look(folder.path(), "", &checks) {
            let verdict = if trusted { Verdict::Pass } else { Verdict::Fail };
            assert_eq!(finding.verdict, verdict, "{between} {root}: {}", finding.message);
        }
        let curl = Command::new("curl")
            .args(["-s", "-o", "/dev/null", "--noproxy", "*", "--cacert", &format!("root-{root}.pem")])
            .arg(format!("https://localhost:{}/", server.port))
            .current_dir(folder.path())
            .status()
            .unwrap();
        assert_eq!(curl.success(), trusted, "curl {between} {root}");
    }
}

/// Bytes in both directions, until both are done.
fn relay(mut one: TcpStream, mut other: TcpStream) {
    let (mut back_from, mut back_to) = (other.try_clone().unwrap(), one.try_clone().unwrap());
    let back = std::thread::spawn(move || {
        let _ = std::io::copy(&mut back_from, &mut back_to);
        let _ = back_to.shutdown(std::net::Shutdown::Write);
    });
    let _ = std::io::copy(&mut one, &mut other);
    let _ = other.shutdown(std::net::Shutdown::Write);
    let _ = back.join();
}

#[test]
fn before_tls_a_server_is_spoken_to_in_its_own_words() {
    let authority = Authority::new();
    let folder = folder();
    std::fs::write(folder.path().join("ca.pem"), authority.pem()).unwrap();
    let inner =
        tls(&authority.issue("localhost", (2020, 2120)), &[&rustls::version::TLS12, &rustls::version::TLS13]);
    let port = inner.port;
    let mail = Server::start(move |mut stream| {
        stream.write_all(b"220 mail.test ESMTP\r\n").unwrap();
        let mut lines = BufReader::new(stream.try_clone().unwrap());
        for (asked, answer) in
            [("EHLO", "250-mail.test\r\n250 STARTTLS\r\n"), ("STARTTLS", "220 go ahead\r\n")]
        {
            let mut line = String::new();
            if lines.read_line(&mut line).unwrap_or(0) == 0 {
                return;
            }
            assert!(line.starts_with(asked), "{line}");
            stream.write_all(answer.as_bytes()).unwrap();
        }
        relay(stream, TcpStream::connect(("127.0.0.1", port)).unwrap());
    });
    let check = |starttls: &str| {
        format!(
            "kind: tls, target: \"localhost:{}\", timeout: 20s, with: {{ca: ca.pem{starttls}}}, expect: {{min_version: 1.2, expires_in: \">= 14d\"}}",
            mail.port
        )
    };
    let findings = look(folder.path(), "", &[check(", starttls: smtp"), check(", starttls: pop3")]);
    assert_eq!(findings[0].verdict, Verdict::Pass, "{}", findings[0].message);
    assert_eq!(findings[1].verdict, Verdict::Fail);
    assert!(findings[1].message.contains("220 mail.test ESMTP"), "{}", findings[1].message);
}

/// A proxy that remembers the first line and the credentials of each request.
fn proxy(seen: Arc<Mutex<Vec<String>>>) -> Server {
    Server::start(move |mut stream| {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            if stream.read(&mut byte).unwrap_or(0) == 0 {
                return;
            }
            head.push(byte[0]);
        }
        let head = String::from_utf8(head).unwrap();
        let first = head.lines().next().unwrap().to_owned();
        let user = head.lines().find_map(|line| line.strip_prefix("proxy-authorization: "));
        seen.lock().unwrap().push(format!("{first} {}", user.unwrap_or("-")));
        match first.strip_prefix("CONNECT ").and_then(|rest| rest.split(' ').next()) {
            Some(target) => {
                let Ok(server) = TcpStream::connect(target) else { return };
                stream.write_all(b"HTTP/1.1 200 Connection established\r\nx: y\r\n\r\n").unwrap();
                relay(stream, server);
            }
            None => stream
                .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\nconnection: close\r\n\r\nby proxy\n")
                .unwrap(),
        }
    })
}

/// An address, the environment, and what the proxy is asked.
type Case<'a> = (&'a str, &'a [(&'a str, &'a str)], Option<&'a str>);

#[test]
fn proxies_are_taken_from_the_environment_as_curl_takes_them() {
    let authority = Authority::new();
    let folder = folder();
    std::fs::write(folder.path().join("ca.pem"), authority.pem()).unwrap();
    let seen = Arc::new(Mutex::new(Vec::new()));
    let proxy = proxy(Arc::clone(&seen));
    let plain = http(|_| (200, Vec::new(), "direct".into()));
    let secure = tls(&authority.issue("localhost", (2020, 2120)), &[&rustls::version::TLS13]);
    let p = format!("http://me%40corp:s%3Acret@127.0.0.1:{}", proxy.port);
    let user = format!("Basic {}", "bWVAY29ycDpzOmNyZXQ=");
    let (plain_url, secure_url) =
        (format!("http://localhost:{}/x?y=1", plain.port), format!("https://localhost:{}/", secure.port));
    let get = format!("GET {plain_url} HTTP/1.1 {user}");
    let connect = format!("CONNECT localhost:{} HTTP/1.1 {user}", secure.port);
    let cases: [Case<'_>; 10] = [
        (&plain_url, &[("http_proxy", &p)], Some(&get)),
        (&plain_url, &[("HTTP_PROXY", &p)], None),
        (&plain_url, &[("https_proxy", &p), ("HTTPS_PROXY", &p)], None),
        (&plain_url, &[("ALL_PROXY", &p)], Some(&get)),
        (&plain_url, &[("http_proxy", &p), ("NO_PROXY", "x, localhost")], None),
        (&plain_url, &[("http_proxy", &p), ("no_proxy", "127.0.0.0/8,.other")], Some(&get)),
        (&secure_url, &[("HTTPS_PROXY", &p)], Some(&connect)),
        (&secure_url, &[("https_proxy", &p), ("no_proxy", "*")], None),
        (&secure_url, &[("http_proxy", &p)], None),
        (&secure_url, &[("all_proxy", &p), ("no_proxy", "")], Some(&connect)),
    ];
    for (url, variables, expected) in cases {
        seen.lock().unwrap().clear();
        std::fs::write(
            folder.path().join("release.yaml"),
            format!("version: 1\nservice: shop\nrelease: {{version: 1.0}}\npreflight:\n  checks:\n    - {{name: it, kind: http, target: \"{url}\", with: {{ca: ca.pem}}, timeout: 20s}}\n"),
        )
        .unwrap();
        let mut command = tool("preflight", folder.path());
        for name in ["http_proxy", "https_proxy", "all_proxy", "no_proxy"] {
            command.env_remove(name).env_remove(name.to_uppercase());
        }
        let ended = run(command.envs(variables.iter().copied()).args(["--plan", "release.yaml"]));
        assert_eq!(ended.code, 0, "{url} {variables:?}: {ended:?}");
        assert_eq!(seen.lock().unwrap().first().map(String::as_str), expected, "{url} {variables:?}");
        assert!(!ended.stderr.contains("s:cret"), "{}", ended.stderr);
    }
    let refused = |proxy: &str, word: &str| {
        let mut command = tool("preflight", folder.path());
        command.env_remove("NO_PROXY").env_remove("no_proxy");
        let ended = run(command.env("https_proxy", proxy).args(["--plan", "release.yaml"]));
        assert!(ended.code == 1 && ended.stderr.contains(word), "{proxy}: {ended:?}");
    };
    refused("socks4://127.0.0.1:1", "SOCKS 4");
    let closed = http(|_| (403, Vec::new(), String::new()));
    refused(&format!("127.0.0.1:{}", closed.port), "it answers 403 to CONNECT");
}
