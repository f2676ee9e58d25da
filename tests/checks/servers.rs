//! Small real servers on loopback: HTTP, TLS, and one that never answers.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use rustls::pki_types::PrivateKeyDer;
use rustls::{ServerConfig, ServerConnection, SupportedProtocolVersion};

/// A listener whose connections go to a handler, until it is dropped.
pub(crate) struct Server {
    pub(crate) port: u16,
    over: Arc<AtomicBool>,
}

impl Server {
    pub(crate) fn start(handle: impl Fn(TcpStream) + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let over = Arc::new(AtomicBool::new(false));
        let (stop, handle) = (Arc::clone(&over), Arc::new(handle));
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                if stop.load(Ordering::SeqCst) {
                    return;
                }
                let handle = Arc::clone(&handle);
                std::thread::spawn(move || handle(stream));
            }
        });
        Self { port, over }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.over.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(("127.0.0.1", self.port));
    }
}

/// A request as the handler of [`http`] gets it.
pub(crate) struct Request {
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) headers: String,
    pub(crate) body: String,
}

/// An HTTP server: the handler gives the status, header lines and the body.
pub(crate) fn http(
    answer: impl Fn(&Request) -> (u16, Vec<String>, String) + Send + Sync + 'static,
) -> Server {
    Server::start(move |stream| {
        let mut reader = BufReader::new(stream.try_clone().unwrap());
        let mut stream = stream;
        while let Some(request) = read_request(&mut reader) {
            let (status, headers, body) = answer(&request);
            let lines: String = headers.iter().map(|h| format!("{h}\r\n")).collect();
            let head = format!("HTTP/1.1 {status} X\r\ncontent-length: {}\r\n{lines}\r\n", body.len());
            if stream.write_all(format!("{head}{body}").as_bytes()).is_err() {
                return;
            }
        }
    })
}

fn read_request(reader: &mut BufReader<TcpStream>) -> Option<Request> {
    let mut first = String::new();
    reader.read_line(&mut first).ok().filter(|read| *read > 0)?;
    let mut words = first.split_whitespace();
    let (method, path) = (words.next()?.to_owned(), words.next()?.to_owned());
    let mut headers = String::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok().filter(|read| *read > 0)?;
        if line.trim().is_empty() {
            break;
        }
        headers.push_str(&line.to_ascii_lowercase());
    }
    let length = headers.lines().find_map(|l| l.strip_prefix("content-length:")?.trim().parse().ok());
    let mut body = vec![0; length.unwrap_or(0)];
    reader.read_exact(&mut body).ok()?;
    Some(Request { method, path, headers, body: String::from_utf8_lossy(&body).into_owned() })
}

/// A server that takes connections and never says a word.
pub(crate) fn silent() -> Server {
    Server::start(|stream| {
        let mut sink = Vec::new();
        let mut stream = stream;
        let _ = stream.read_to_end(&mut sink);
    })
}

/// An authority of our own.
pub(crate) struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
}

impl Authority {
    pub(crate) fn new() -> Self {
        let mut params = CertificateParams::new(Vec::<String>::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, "Trapkey test authority");
        Self { issuer: CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap() }
    }

    pub(crate) fn pem(&self) -> String {
        self.issuer.pem()
    }

    /// A certificate for a name, in force from one year to another, and its key; both PEM.
    pub(crate) fn issue(&self, name: &str, years: (i32, i32)) -> (String, String) {
        let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        params.not_before = rcgen::date_time_ymd(years.0, 1, 1);
        params.not_after = rcgen::date_time_ymd(years.1, 1, 1);
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        (certificate.pem(), key.serialize_pem())
    }
}

/// A TLS server with a certificate, speaking the given versions.
pub(crate) fn tls(
    (certificate, key): &(String, String),
    versions: &[&'static SupportedProtocolVersion],
) -> Server {
    use rustls::pki_types::CertificateDer;
    use rustls::pki_types::pem::PemObject;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(versions)
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(
            vec![CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap()],
            PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap(),
        )
        .unwrap();
    let config = Arc::new(config);
    Server::start(move |mut stream| {
        let Ok(mut connection) = ServerConnection::new(Arc::clone(&config)) else { return };
        while connection.is_handshaking() {
            if connection.complete_io(&mut stream).is_err() {
                // The alert that says why.
                let _ = connection.write_tls(&mut stream);
                return;
            }
        }
        // To whoever asks something it answers as a web server.
        let mut tunnel = rustls::Stream::new(&mut connection, &mut stream);
        let mut question = [0; 1024];
        if tunnel.read(&mut question).is_ok_and(|read| read > 0) {
            let _ =
                tunnel.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\nconnection: close\r\n\r\nfine");
        }
        connection.send_close_notify();
        let _ = connection.complete_io(&mut stream);
    })
}

/// OpenSSL's server, which still speaks TLS 1.0 and 1.1.
pub(crate) struct OpenSsl {
    pub(crate) port: u16,
    server: Child,
}

impl OpenSsl {
    pub(crate) fn start(folder: &std::path::Path, (certificate, key): &(String, String)) -> Self {
        let (chain, private) = (folder.join("old.pem"), folder.join("old.key"));
        std::fs::write(&chain, certificate).unwrap();
        std::fs::write(&private, key).unwrap();
        let port = crate::support::free_port();
        let server = Command::new("openssl")
            .args(["s_server", "-quiet", "-no_tls1_3", "-cipher", "ALL:@SECLEVEL=0"])
            .args(["-min_protocol", "TLSv1", "-accept", &format!("127.0.0.1:{port}"), "-cert"])
            .arg(&chain)
            .arg("-key")
            .arg(&private)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        crate::support::wait_until("openssl", || TcpStream::connect(("127.0.0.1", port)).is_ok());
        Self { port, server }
    }
}

impl Drop for OpenSsl {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}
