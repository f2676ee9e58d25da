//! Keys as people have them: of OpenSSH, plain, encrypted and in an agent, and PEM as CI systems hand it over. `ssh-keygen`
//! and `ssh-agent` say what is right.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use crate::support::{Ended, folder, json, run, tool, wait_until};

const PLAN: &str = "version: 1
service: shop
release: {version: \"1.1\"}
preflight: {checks: [{name: here, kind: file, target: release.yaml, expect: {exists: true}}]}
";

struct Place(tempfile::TempDir);

impl Place {
    fn new() -> Self {
        let place = folder();
        std::fs::write(place.path().join("release.yaml"), PLAN).unwrap();
        std::fs::create_dir(place.path().join("trust")).unwrap();
        Self(place)
    }

    fn path(&self, inside: &str) -> PathBuf {
        self.0.path().join(inside)
    }

    /// A key of OpenSSH, its public part trusted under its name.
    fn ssh(&self, name: &str, passphrase: &str, more: &[&str]) -> PathBuf {
        let private = self.path(name);
        let mut command = Command::new("ssh-keygen");
        command
            .args(["-q", "-t", "ed25519", "-C", "somebody@somewhere", "-N", passphrase, "-f"])
            .arg(&private);
        let made = run(command.args(more));
        assert_eq!(made.code, 0, "{}", made.stderr);
        std::fs::copy(private.with_extension("pub"), self.path(&format!("trust/{name}.pub"))).unwrap();
        private
    }

    fn preflight(&self, environment: &[(&str, &str)]) -> Ended {
        run(tool("preflight", self.0.path()).envs(environment.iter().copied()))
    }

    fn signed_by(&self) -> String {
        let ended = run(tool("report", self.0.path()).args(["check", "--trust", "trust"]));
        assert_eq!(ended.code, 0, "{}", ended.stderr);
        let line = ended.stderr.lines().find(|line| line.contains("signed by")).unwrap_or_default();
        line.rsplit("signed by ").next().unwrap().to_owned()
    }
}

fn text(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap()
}

#[test]
fn a_key_of_openssh_signs_plain_and_with_its_passphrase_and_never_without() {
    let place = Place::new();
    let plain = place.ssh("ci", "", &[]);
    let ended = place.preflight(&[("TRAPKEY_SIGN_KEY", plain.to_str().unwrap())]);
    assert_eq!(ended.code, 0, "{}", ended.stderr);
    assert_eq!(place.signed_by(), "ci: preflight.json");
    // The id is that of the same key in PEM form, so both may be trusted as one.
    let pem =
        run(Command::new("ssh-keygen").args(["-e", "-m", "PKCS8", "-f"]).arg(plain.with_extension("pub")));
    if pem.code == 0 && pem.stdout.contains("BEGIN PUBLIC KEY") {
        std::fs::write(place.path("trust/ci.pub"), pem.stdout).unwrap();
        assert_eq!(place.signed_by(), "ci: preflight.json");
    }
    let locked = place.ssh("locked", "correct horse", &["-a", "4"]);
    let sign = ("TRAPKEY_SIGN_KEY", locked.to_str().unwrap());
    let ended = place.preflight(&[sign, ("TRAPKEY_SIGN_KEY_PASSPHRASE", "correct horse")]);
    assert_eq!(ended.code, 0, "{}", ended.stderr);
    assert_eq!(place.signed_by(), "locked: preflight.json");
    let wrong = place.preflight(&[sign, ("TRAPKEY_SIGN_KEY_PASSPHRASE", "battery staple")]);
    assert_eq!(wrong.code, 2);
    assert!(wrong.stderr.contains("the passphrase is not the right one"), "{}", wrong.stderr);
    assert!(!wrong.stderr.contains("battery staple"), "{}", wrong.stderr);
    let without = place.preflight(&[sign]);
    assert_eq!(without.code, 2);
    for words in ["the signing key is encrypted", "TRAPKEY_SIGN_KEY_PASSPHRASE", "ssh-add"] {
        assert!(without.stderr.contains(words), "{words}: {}", without.stderr);
    }
    // The key itself, as a secret of the CI system.
    let ended = place.preflight(&[("TRAPKEY_SIGN_KEY_PEM", &text(&plain))]);
    assert_eq!(ended.code, 0, "{}", ended.stderr);
    let other = place.ssh("other-cipher", "correct horse", &["-Z", "aes256-gcm@openssh.com"]);
    let sign = ("TRAPKEY_SIGN_KEY", other.to_str().unwrap());
    let ended = place.preflight(&[sign, ("TRAPKEY_SIGN_KEY_PASSPHRASE", "correct horse")]);
    assert_eq!(ended.code, 2);
    assert!(ended.stderr.contains("aes256-gcm@openssh.com"), "{}", ended.stderr);
}

#[test]
fn a_pem_key_in_one_line_or_in_base64_is_the_same_key() {
    let place = Place::new();
    for (arguments, file) in [
        (&["genpkey", "-algorithm", "ed25519", "-out"][..], "ci.key"),
        (&["pkey", "-in", "ci.key", "-pubout", "-out"], "trust/ci.pem"),
    ] {
        let made = run(Command::new("openssl").current_dir(place.0.path()).args(arguments).arg(file));
        assert_eq!(made.code, 0, "{}", made.stderr);
    }
    let ssh = place.ssh("ssh", "", &[]);
    let pem = text(&place.path("ci.key"));
    let coded = |text: &str| {
        use base64::Engine as _;
        base64::engine::general_purpose::STANDARD.encode(text)
    };
    for key in [&pem, &text(&ssh)] {
        let by = if *key == pem { "ci: preflight.json" } else { "ssh: preflight.json" };
        for form in [
            key.trim().replace('\n', " "),
            key.trim().replace('\n', "\\n"),
            key.replace('\n', "\r\n"),
            key.replace('\n', ""),
            format!("  {}  ", key.trim()),
            coded(key),
        ] {
            let ended = place.preflight(&[("TRAPKEY_SIGN_KEY_PEM", &form)]);
            assert_eq!(ended.code, 0, "{form}: {}", ended.stderr);
            assert_eq!(place.signed_by(), by);
            let body = key.lines().nth(1).unwrap();
            let document = text(&place.path("evidence/preflight.json"));
            assert!(
                !document.contains(&body[..32]) && !ended.stderr.contains(&body[..32]),
                "the key is shown"
            );
        }
    }
    // And one that is trusted.
    let public = text(&place.path("trust/ci.pem"));
    std::fs::write(place.path("trust/ci.pem"), public.replace('\n', " ")).unwrap();
    assert_eq!(place.preflight(&[("TRAPKEY_SIGN_KEY_PEM", &pem)]).code, 0);
    assert_eq!(place.signed_by(), "ci: preflight.json");
}

struct Agent(Child);

impl Drop for Agent {
    fn drop(&mut self) {
        // It ends with the test.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn an_agent_signs_where_it_has_the_key() {
    let place = Place::new();
    let locked = place.ssh("ci", "correct horse", &["-a", "4"]);
    let socket = place.path("agent");
    let agent = Command::new("ssh-agent")
        .args(["-D", "-a"])
        .arg(&socket)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let _agent = Agent(agent);
    wait_until("the agent", || socket.exists());
    let at = ("SSH_AUTH_SOCK", socket.to_str().unwrap());
    let public = locked.with_extension("pub");
    let without = place.preflight(&[at, ("TRAPKEY_SIGN_KEY", public.to_str().unwrap())]);
    assert_eq!(without.code, 2, "{}", without.stderr);
    assert!(without.stderr.contains("does not have it"), "{}", without.stderr);
    let ask = place.path("ask");
    std::fs::write(&ask, "#!/bin/sh\necho 'correct horse'\n").unwrap();
    let made = run(Command::new("chmod").arg("755").arg(&ask));
    assert_eq!(made.code, 0);
    let mut add = Command::new("ssh-add");
    add.arg("-q").arg(&locked).envs([
        at,
        ("SSH_ASKPASS", ask.to_str().unwrap()),
        ("SSH_ASKPASS_REQUIRE", "force"),
    ]);
    let added = run(add.env("DISPLAY", "none").stdin(Stdio::null()));
    assert_eq!(added.code, 0, "{}", added.stderr);
    for key in [&public, &locked] {
        let ended = place.preflight(&[at, ("TRAPKEY_SIGN_KEY", key.to_str().unwrap())]);
        assert_eq!(ended.code, 0, "{}: {}", key.display(), ended.stderr);
        assert_eq!(place.signed_by(), "ci: preflight.json");
        assert_eq!(json(&place.path("evidence/preflight.json"))["signature"]["algorithm"], "ed25519");
    }
}

#[test]
fn keys_by_url_and_of_other_kinds_are_refused_by_name() {
    let place = Place::new();
    place.ssh("ci", "", &[]);
    for (flag, url) in [
        ("--trust", "https://user:secret-pass@keys.example.com/trust"),
        ("--trust", "s3://bucket/trust"),
        ("--sign-key", "https://keys.example.com/ci.key"),
    ] {
        let ended = run(tool("preflight", place.0.path()).args([flag, url]));
        assert_eq!(ended.code, 2, "{}", ended.stderr);
        assert!(ended.stderr.contains(&format!("{flag} is given a URL")), "{}", ended.stderr);
        assert!(
            ended.stderr.contains("fixed commit") && !ended.stderr.contains("secret-pass"),
            "{}",
            ended.stderr
        );
    }
    for (kind, word) in [("rsa", "ssh-rsa"), ("ecdsa", "ecdsa-sha2-nistp256")] {
        let other = place.path(kind);
        let made = run(Command::new("ssh-keygen").args(["-q", "-t", kind, "-N", "", "-f"]).arg(&other));
        assert_eq!(made.code, 0, "{}", made.stderr);
        let ended = place.preflight(&[("TRAPKEY_SIGN_KEY", other.to_str().unwrap())]);
        assert_eq!(ended.code, 2);
        assert!(ended.stderr.contains("another algorithm"), "{}", ended.stderr);
        let path = place.path(&format!("trust/{kind}.pub"));
        std::fs::copy(other.with_extension("pub"), &path).unwrap();
        let ended = run(tool("preflight", place.0.path()).args(["--trust", "trust"]));
        assert_eq!(ended.code, 2);
        assert!(ended.stderr.contains(word), "{}", ended.stderr);
        std::fs::remove_file(path).unwrap();
    }
    std::fs::copy(place.path("ci"), place.path("trust/oops.pub")).unwrap();
    let ended = run(tool("preflight", place.0.path()).args(["--trust", "trust"]));
    assert!(ended.code == 2 && ended.stderr.contains("it is a private key"), "{}", ended.stderr);
}
