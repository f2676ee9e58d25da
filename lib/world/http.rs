//! HTTP requests with one time limit from the first byte to the last, and system certificates.

use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use ureq::Agent;
use ureq::tls::{Certificate, RootCerts, TlsConfig};

/// A client with its pool of connections.
#[derive(Clone, Debug)]
pub struct Client {
    timeout: Duration,
    redirects: u32,
    plain: Agent,
    /// Made with the first `https` URL: reading the system's certificates takes milliseconds.
    secure: OnceLock<Agent>,
}

/// A request.
#[derive(Clone, Debug)]
pub struct Request {
    /// `GET`, `HEAD`, `POST`, …
    pub method: String,
    /// Where to.
    pub url: String,
    /// Headers.
    pub headers: Vec<(String, String)>,
    /// The body, where there is one.
    pub body: Option<Vec<u8>>,
    /// How much of the answer's body is kept, in bytes.
    pub keep: u64,
}

/// An answer.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The status.
    pub status: u16,
    /// Headers, names in lowercase.
    pub headers: Vec<(String, String)>,
    /// The beginning of the body.
    pub body: Vec<u8>,
    /// From the request's start to the last byte.
    pub latency: Duration,
}

/// Why there was no answer: one line, and whether it was the time limit.
#[derive(Clone, Debug)]
pub struct NoAnswer {
    /// One line, secrets left out.
    pub why: String,
    /// Whether the time limit ended it.
    pub timed_out: bool,
    /// How long it took to know.
    pub after: Duration,
}

impl Client {
    /// A client whose requests end after `timeout`; follows up to `redirects` redirects.
    pub fn new(timeout: Duration, redirects: u32) -> Self {
        let plain = agent(timeout, redirects, TlsConfig::default());
        Self { timeout, redirects, plain, secure: OnceLock::new() }
    }

    /// How long a request may take.
    pub fn timeout(&self) -> Duration {
        self.timeout
    }

    fn agent(&self, url: &str) -> &Agent {
        // A plain request may be redirected to a secure one.
        let secure = url.get(..6).is_some_and(|scheme| scheme.eq_ignore_ascii_case("https:"));
        if self.redirects == 0 && !secure {
            return &self.plain;
        }
        let tls = || TlsConfig::builder().root_certs(roots()).build();
        self.secure.get_or_init(|| agent(self.timeout, self.redirects, tls()))
    }

    /// Sends a request and reads the answer.
    pub fn send(&self, request: &Request) -> Result<Answer, NoAnswer> {
        self.send_within(request, self.timeout)
    }

    /// The same, with a time limit of its own.
    pub fn send_within(&self, request: &Request, limit: Duration) -> Result<Answer, NoAnswer> {
        self.send_body(request, request.body.as_deref(), limit)
    }

    /// The same, with a body that is only lent, in place of the request's own.
    pub fn send_body(
        &self,
        request: &Request,
        body: Option<&[u8]>,
        limit: Duration,
    ) -> Result<Answer, NoAnswer> {
        let started = Instant::now();
        let failed = |e: &ureq::Error| NoAnswer {
            why: crate::redact::redact(&e.to_string()),
            timed_out: matches!(e, ureq::Error::Timeout(_)),
            after: started.elapsed(),
        };
        let refused = |e: &dyn std::fmt::Display| NoAnswer {
            why: crate::redact::redact(&e.to_string()),
            timed_out: false,
            after: started.elapsed(),
        };
        let mut builder = ureq::http::Request::builder().method(request.method.as_str()).uri(&request.url);
        for (name, value) in &request.headers {
            builder = builder.header(name, value);
        }
        let agent = self.agent(&request.url);
        let response = match body {
            Some(body) => run(agent, builder.body(body).map_err(|e| refused(&e))?, limit),
            None => run(agent, builder.body(()).map_err(|e| refused(&e))?, limit),
        };
        let mut response = response.map_err(|e| failed(&e))?;
        let status = response.status().as_u16();
        let headers = response
            .headers()
            .iter()
            .map(|(k, v)| (k.as_str().to_owned(), String::from_utf8_lossy(v.as_bytes()).into_owned()))
            .collect();
        let mut body = Vec::new();
        let mut reader = std::io::Read::take(response.body_mut().as_reader(), request.keep);
        std::io::Read::read_to_end(&mut reader, &mut body).map_err(|e| {
            match e.get_ref().and_then(|e| e.downcast_ref::<ureq::Error>()) {
                Some(inner) => failed(inner),
                None => refused(&e),
            }
        })?;
        Ok(Answer { status, headers, body, latency: started.elapsed() })
    }

    /// A plain GET that keeps up to 64 KiB of the body.
    pub fn get(&self, url: &str) -> Result<Answer, NoAnswer> {
        self.send(&Request::get(url))
    }
}

impl Request {
    /// A GET that keeps up to 64 KiB of the body.
    pub fn get(url: &str) -> Self {
        Self { method: "GET".into(), url: url.into(), headers: Vec::new(), body: None, keep: 64 * 1024 }
    }
}

impl Answer {
    /// The first header of that name (given in lowercase).
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(k, _)| k == name).map(|(_, v)| v.as_str())
    }

    /// Whether the status is 2xx or 3xx.
    pub fn good(&self) -> bool {
        (200..400).contains(&self.status)
    }
}

fn run<B: ureq::AsSendBody>(
    agent: &Agent,
    request: ureq::http::Request<B>,
    limit: Duration,
) -> Result<ureq::http::Response<ureq::Body>, ureq::Error> {
    agent.run(agent.configure_request(request).timeout_global(Some(limit)).build())
}

fn agent(timeout: Duration, redirects: u32, tls: TlsConfig) -> Agent {
    Agent::config_builder()
        .timeout_global(Some(timeout))
        .http_status_as_error(false)
        .max_redirects(redirects)
        .max_redirects_will_error(false)
        .max_idle_connections_per_host(64)
        .user_agent(concat!("trapkey/", env!("CARGO_PKG_VERSION")))
        .tls_config(tls)
        .build()
        .new_agent()
}

/// The certificates that the system trusts (`SSL_CERT_FILE` is honoured), read once.
fn roots() -> RootCerts {
    static ROOTS: OnceLock<Arc<Vec<Certificate<'static>>>> = OnceLock::new();
    let found = ROOTS.get_or_init(|| {
        let certificates = rustls_native_certs::load_native_certs().certs;
        Arc::new(certificates.iter().map(|c| Certificate::from_der(c).to_owned()).collect())
    });
    RootCerts::Specific(Arc::clone(found))
}

/// A base address and a path, with one slash between them.
pub fn join(base: &str, path: &str) -> String {
    format!("{}/{}", base.trim_end_matches('/'), path.trim_start_matches('/'))
}
