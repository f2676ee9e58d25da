//! How an encrypted connection to PostgreSQL is made: rustls behind the client library, with a name of our
//! own to compare with.

use rustls::ClientConfig;
use tokio_postgres_rustls::MakeRustlsConnect;

use ::postgres::Socket;
use ::postgres::tls::MakeTlsConnect;

/// Makes connections for a name.
#[derive(Clone)]
pub(super) struct Named {
    inner: MakeRustlsConnect,
    /// The name that the server is asked for, where it is not its host.
    name: Option<String>,
}

impl Named {
    pub(super) fn new(config: ClientConfig, name: Option<String>) -> Self {
        Self { inner: MakeRustlsConnect::new(config), name }
    }
}

impl MakeTlsConnect<Socket> for Named {
    type Stream = <MakeRustlsConnect as MakeTlsConnect<Socket>>::Stream;
    type TlsConnect = <MakeRustlsConnect as MakeTlsConnect<Socket>>::TlsConnect;
    type Error = <MakeRustlsConnect as MakeTlsConnect<Socket>>::Error;

    fn make_tls_connect(&mut self, host: &str) -> Result<Self::TlsConnect, Self::Error> {
        let name = self.name.as_deref().unwrap_or(host);
        <MakeRustlsConnect as MakeTlsConnect<Socket>>::make_tls_connect(&mut self.inner, name)
    }
}
