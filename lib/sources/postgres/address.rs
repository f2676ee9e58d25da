//! Where a database is and how it is spoken to, with the meaning that libpq gives to `sslmode`.

use std::path::PathBuf;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use ::postgres::config::{Host, SslMode};
use ::postgres::{Client, Config, NoTls};
use regex::Regex;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use tokio_postgres_rustls::MakeRustlsConnect;

const PREFER: &str = "prefer";

/// A database's address.
pub(super) struct Address {
    config: Config,
    ssl_mode: Option<String>,
    root_cert: Option<PathBuf>,
}

type Failure = Box<dyn std::error::Error + Send + Sync>;

impl Address {
    /// Reads a URL or a keyword string. What is left out comes from `PGHOST`, `PGUSER`, `PGDATABASE`,
    /// `PGPASSWORD` and the password file, as everywhere with PostgreSQL.
    pub(super) fn read(text: &str) -> Result<Self, String> {
        let mut text = text.to_owned();
        // The client library does not know these two as libpq does.
        let ssl_mode = take(&mut text, "sslmode");
        let root_cert = take(&mut text, "sslrootcert").map(PathBuf::from);
        let mut config: Config = text.parse().map_err(|e: ::postgres::Error| super::tables::chain(&e))?;
        match ssl_mode.as_deref().unwrap_or(PREFER) {
            "disable" => config.ssl_mode(SslMode::Disable),
            "allow" | PREFER => config.ssl_mode(SslMode::Prefer),
            "require" | "verify-ca" | "verify-full" => config.ssl_mode(SslMode::Require),
            other => {
                return Err(format!(
                    "`sslmode={other}` is not known: disable, prefer, require, verify-ca, verify-full"
                ));
            }
        };
        let var = |name: &str| std::env::var(name).ok().filter(|v| !v.is_empty());
        if config.get_hosts().is_empty() && config.get_hostaddrs().is_empty() {
            config.host(&var("PGHOST").unwrap_or_else(|| "/var/run/postgresql".into()));
        }
        if let (None, Some(user)) = (config.get_user(), var("PGUSER").or_else(|| var("USER"))) {
            config.user(&user);
        }
        if let (None, Some(name)) = (config.get_dbname(), var("PGDATABASE")) {
            config.dbname(&name);
        }
        if config.get_connect_timeout().is_none() {
            config.connect_timeout(Duration::from_secs(10));
        }
        let mut address = Self { config, ssl_mode, root_cert };
        if address.config.get_password().is_none()
            && let Some(password) = var("PGPASSWORD").or_else(|| address.password_from_file())
        {
            address.config.password(password);
        }
        if let Some(password) = address.password() {
            crate::redact::learn(&password);
        }
        Ok(address)
    }

    /// The password, where one is known.
    pub(super) fn password(&self) -> Option<String> {
        self.config.get_password().map(|p| String::from_utf8_lossy(p).into_owned())
    }

    fn parts(&self) -> (String, String) {
        let hosts = self.config.get_hosts().iter().map(|host| match host {
            Host::Tcp(name) => name.clone(),
            Host::Unix(path) => path.display().to_string(),
        });
        let ports = self.config.get_ports().iter().map(u16::to_string);
        (hosts.collect::<Vec<_>>().join(","), ports.collect::<Vec<_>>().join(","))
    }

    /// The address as a keyword string without the password, for a command line.
    pub(super) fn without_password(&self) -> String {
        let (hosts, ports) = self.parts();
        let addresses: Vec<String> = self.config.get_hostaddrs().iter().map(ToString::to_string).collect();
        let pairs = [
            ("host", Some(hosts)),
            ("hostaddr", Some(addresses.join(","))),
            ("port", Some(ports)),
            ("user", self.config.get_user().map(Into::into)),
            ("dbname", self.config.get_dbname().map(Into::into)),
            ("options", self.config.get_options().map(Into::into)),
            ("sslmode", self.ssl_mode.clone()),
            ("sslrootcert", self.root_cert.as_ref().map(|p| p.display().to_string())),
        ];
        let words: Vec<String> = pairs
            .into_iter()
            .filter_map(|(key, value)| value.filter(|v| !v.is_empty()).map(|v| (key, v)))
            .map(|(key, value)| format!("{key}='{}'", value.replace('\\', "\\\\").replace('\'', "\\'")))
            .collect();
        words.join(" ")
    }

    /// Connects; a single statement ends after `limit`.
    pub(super) fn connect(&self, limit: Duration) -> Result<Client, Failure> {
        let mut client = if self.config.get_ssl_mode() == SslMode::Disable {
            self.config.connect(NoTls)?
        } else {
            self.config.connect(MakeRustlsConnect::new(self.tls()?))?
        };
        client.batch_execute(&format!(
            "SET statement_timeout = {}; SET standard_conforming_strings = on; SET extra_float_digits = 1",
            limit.as_millis().min(2_000_000_000)
        ))?;
        Ok(client)
    }

    fn tls(&self) -> Result<ClientConfig, Failure> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()?;
        let mode = self.ssl_mode.as_deref().unwrap_or(PREFER);
        // As with libpq, `require` verifies the chain once a root certificate is named.
        let checked = mode.starts_with("verify") || (mode == "require" && self.root_cert.is_some());
        if mode == "verify-full" {
            return Ok(builder.with_root_certificates(self.roots()?).with_no_client_auth());
        }
        let chain = if checked {
            let roots = Arc::new(self.roots()?);
            Some(WebPkiServerVerifier::builder_with_provider(roots, Arc::clone(&provider)).build()?)
        } else {
            None
        };
        let verifier = Arc::new(AsLibpq { provider, chain });
        Ok(builder.dangerous().with_custom_certificate_verifier(verifier).with_no_client_auth())
    }

    fn roots(&self) -> Result<RootCertStore, Failure> {
        let mut roots = RootCertStore::empty();
        match &self.root_cert {
            Some(path) if path.as_os_str() != "system" => {
                for certificate in CertificateDer::pem_file_iter(path)? {
                    roots.add(certificate?)?;
                }
            }
            _ => drop(roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs)),
        }
        Ok(roots)
    }

    /// The password of the first line of `PGPASSFILE` (or `~/.pgpass`) that fits.
    fn password_from_file(&self) -> Option<String> {
        let path = std::env::var_os("PGPASSFILE")
            .map(PathBuf::from)
            .or_else(|| std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".pgpass")))?;
        let text = std::fs::read_to_string(path).ok()?;
        let (host, port) = self.parts();
        let host = if host.starts_with('/') { "localhost".to_owned() } else { host };
        let port = if port.is_empty() { "5432".to_owned() } else { port };
        let user = self.config.get_user().unwrap_or_default();
        let asked = [host.as_str(), port.as_str(), self.config.get_dbname().unwrap_or(user), user];
        text.lines().find_map(|line| password_of(line, &asked))
    }
}

fn password_of(line: &str, asked: &[&str; 4]) -> Option<String> {
    let mut fields = vec![String::new()];
    let mut letters = line.chars();
    while let Some(letter) = letters.next() {
        match letter {
            '\\' => fields.last_mut()?.extend(letters.next()),
            ':' if fields.len() < 5 => fields.push(String::new()),
            _ => fields.last_mut()?.push(letter),
        }
    }
    let fits = fields.len() == 5
        && !line.starts_with('#')
        && fields.iter().zip(asked).all(|(field, asked)| field == "*" || field == asked);
    fits.then(|| fields.pop())?
}

/// Takes one option out of a URL's query or a keyword string.
fn take(text: &mut String, key: &str) -> Option<String> {
    static URL: LazyLock<Option<Regex>> =
        LazyLock::new(|| Regex::new(r"[?&](sslmode|sslrootcert)=([^&]*)").ok());
    static WORDS: LazyLock<Option<Regex>> =
        LazyLock::new(|| Regex::new(r"(?:^|\s)(sslmode|sslrootcert)\s*=\s*('[^']*'|\S+)").ok());
    let pattern = if text.contains("://") { URL.as_ref()? } else { WORDS.as_ref()? };
    let found = pattern.captures_iter(text).find(|c| &c[1] == key)?;
    let value = found[2].trim_matches('\'').replace("%2F", "/").replace("%2f", "/");
    let range = found.get(0)?.range();
    text.replace_range(range, "");
    // The first option went away with its question mark.
    if text.contains("://")
        && !text.contains('?')
        && let Some(at) = text.find('&')
    {
        text.replace_range(at..=at, "?");
    }
    Some(value)
}

/// What libpq checks for `prefer` and `require` (nothing: encryption without proof of who answers) and
/// for `verify-ca` (the chain without the name).
#[derive(Debug)]
struct AsLibpq {
    provider: Arc<CryptoProvider>,
    chain: Option<Arc<WebPkiServerVerifier>>,
}

impl ServerCertVerifier for AsLibpq {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let Some(chain) = &self.chain else { return Ok(ServerCertVerified::assertion()) };
        match chain.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now) {
            Err(rustls::Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) => Ok(ServerCertVerified::assertion()),
            other => other,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(
            message,
            cert,
            dss,
            &self.provider.signature_verification_algorithms,
        )
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(
            message,
            cert,
            dss,
            &self.provider.signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_the_options_that_only_libpq_knows() {
        let mut url =
            "postgres://u@h/d?sslmode=verify-full&application_name=x&sslrootcert=%2Fetc%2Fca.pem".to_owned();
        assert_eq!(take(&mut url, "sslmode").as_deref(), Some("verify-full"));
        assert_eq!(take(&mut url, "sslrootcert").as_deref(), Some("/etc/ca.pem"));
        assert_eq!(url, "postgres://u@h/d?application_name=x");
        let mut words = "host=h sslmode='require' dbname=d".to_owned();
        assert_eq!(take(&mut words, "sslmode").as_deref(), Some("require"));
        assert_eq!(words, "host=h dbname=d");
        assert!(Address::read("postgres://u@h/d?sslmode=maybe").is_err());
        assert!(Address::read("postgres://u@h:no/d").is_err());
    }

    #[test]
    fn finds_the_line_of_the_password_file() {
        let asked = ["db", "5432", "orders", "shop"];
        assert_eq!(password_of(r"db:5432:*:shop:a\:b\\c:d", &asked).as_deref(), Some(r"a:b\c:d"));
        assert_eq!(password_of("db:5433:*:shop:x", &asked), None);
        assert_eq!(password_of("#db:5432:*:shop:x", &asked), None);
        assert_eq!(password_of("db:5432", &asked), None);
    }
}
