//! A real S3 server on a free loopback port, shared by all tests of a program. It verifies
//! signatures, and of writers that race on a condition it lets one through.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

#[allow(
    clippy::duplicate_mod,
    reason = "benchmarks have this file without the others; a lock keeps ports apart"
)]
#[path = "ports.rs"]
mod ports;

/// A running server. One of a test's own ends with it, the shared one with the program.
pub(crate) struct Server {
    pub port: u16,
    process: Child,
}

/// A bucket of its own for one test.
pub(crate) struct Bucket {
    pub name: String,
    server: Arc<Server>,
}

static SHARED: Mutex<Option<Arc<Server>>> = Mutex::new(None);
static NUMBER: AtomicU32 = AtomicU32::new(0);

/// The key that the server knows.
pub(crate) const KEY: &str = "AKIATRAPKEYTESTS0000";
/// Its secret.
pub(crate) const SECRET: &str = "s3cret/of+the/tests-with-40-characters-0";

impl Server {
    fn shared() -> Arc<Self> {
        let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(shared.get_or_insert_with(|| Arc::new(Self::start("s3", false))))
    }

    /// Starts one that speaks for these services of AWS, such as `s3` or `cloudwatch,iam`; with `auth`
    /// it asks what a user has the right to do.
    pub(crate) fn start(services: &'static str, auth: bool) -> Self {
        let port = ports::free_port();
        let program = Path::new(env!("CARGO_MANIFEST_DIR")).join(".needs/bin/ministack");
        assert!(program.exists(), "ministack must be installed: scripts/install-needs test");
        // It ends with the thread that starts it, which lasts as long as this program.
        let (sender, started) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            let mut command = Command::new("setpriv");
            command.arg("--pdeathsig=KILL").arg(program);
            command.env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default());
            command
                .env("BIND_HOST", "127.0.0.1")
                .env("GATEWAY_PORT", port.to_string())
                .env("SERVICES", services)
                .env("AUTH", auth.to_string());
            command.env("AWS_ACCESS_KEY_ID", KEY).env("AWS_SECRET_ACCESS_KEY", SECRET);
            command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
            sender.send(command.spawn().unwrap()).unwrap();
            loop {
                std::thread::park();
            }
        });
        let server = Self { port, process: started.recv().unwrap() };
        let began = Instant::now();
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(began.elapsed() < Duration::from_secs(180), "waited three minutes for the S3 server");
            std::thread::sleep(Duration::from_millis(20));
        }
        server
    }

    /// Sends a request that is not signed, which this server takes.
    pub(crate) fn send(&self, first: &str, headers: &[(&str, &str)], body: &[u8]) -> (u16, String, Vec<u8>) {
        let mut text = format!(
            "{first} HTTP/1.1\r\nhost: 127.0.0.1:{}\r\nconnection: close\r\ncontent-length: {}\r\n\
             authorization: AWS4-HMAC-SHA256 Credential=test/20260101/us-east-1/s3/aws4_request, SignedHeaders=host, Signature=00\r\n",
            self.port,
            body.len()
        );
        for (name, value) in headers {
            text.push_str(&format!("{name}: {value}\r\n"));
        }
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        stream.write_all(&[format!("{text}\r\n").as_bytes(), body].concat()).unwrap();
        let mut reply = Vec::new();
        stream.read_to_end(&mut reply).unwrap();
        let end = reply.windows(4).position(|w| w == b"\r\n\r\n").unwrap();
        let head = String::from_utf8_lossy(&reply[..end]).into_owned();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        (status, head, reply[end + 4..].to_vec())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Bucket {
    /// A new, empty bucket.
    pub(crate) fn new() -> Self {
        let server = Server::shared();
        let name = format!("bucket-{}", NUMBER.fetch_add(1, Ordering::SeqCst));
        assert_eq!(server.send(&format!("PUT /{name}"), &[], b"").0, 200);
        Self { name, server }
    }

    /// The port of the server that it is on.
    pub(crate) fn port(&self) -> u16 {
        self.server.port
    }

    /// The variables of a job that has the right key, and reaches the store at a port.
    pub(crate) fn variables(port: u16) -> [(&'static str, String); 4] {
        [
            ("AWS_ACCESS_KEY_ID", KEY.into()),
            ("AWS_SECRET_ACCESS_KEY", SECRET.into()),
            ("AWS_REGION", "us-east-1".into()),
            ("AWS_ENDPOINT_URL_S3", format!("http://127.0.0.1:{port}")),
        ]
    }

    /// What is in an object.
    pub(crate) fn get(&self, key: &str) -> Option<Vec<u8>> {
        let (status, _, body) = self.server.send(&format!("GET /{}/{key}", self.name), &[], b"");
        (status == 200).then_some(body)
    }

    /// Writes an object, whatever stands there.
    pub(crate) fn put(&self, key: &str, bytes: &[u8]) {
        assert_eq!(self.put_if(key, bytes, &[]).0, 200);
    }

    /// Writes an object on a condition; gives the status and the head of the answer.
    pub(crate) fn put_if(&self, key: &str, bytes: &[u8], headers: &[(&str, &str)]) -> (u16, String) {
        let (status, head, _) = self.server.send(&format!("PUT /{}/{key}", self.name), headers, bytes);
        (status, head)
    }

    /// Sends something to the bucket itself; gives the status and the body of the answer.
    pub(crate) fn send(&self, method: &str, query: &str, body: &[u8]) -> (u16, Vec<u8>) {
        let (status, _, body) = self.server.send(&format!("{method} /{}{query}", self.name), &[], body);
        (status, body)
    }

    /// The keys of all objects.
    pub(crate) fn keys(&self) -> Vec<String> {
        let (status, _, body) = self.server.send(&format!("GET /{}?list-type=2", self.name), &[], b"");
        assert_eq!(status, 200);
        let text = String::from_utf8(body).unwrap();
        text.split("<Key>").skip(1).map(|rest| rest.split('<').next().unwrap().to_owned()).collect()
    }
}
