//! Where a request goes: a URL in its parts.

use std::path::PathBuf;

use hyper::http::Uri;

use crate::redact;

/// A URL in its parts. Its `Debug` shows no more than where it is.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Place {
    /// Whether TLS is spoken.
    pub(super) secure: bool,
    /// A name or a number, IPv6 without brackets.
    pub(super) host: String,
    /// The port.
    pub(super) port: u16,
    /// Host and port as the header `host` has them.
    pub(super) authority: String,
    /// Path and query.
    pub(super) path: String,
    /// User and password of the URL, as they are meant.
    pub(super) user: Option<(String, String)>,
    /// The unix socket that it is asked through.
    pub(super) socket: Option<PathBuf>,
}

/// Whether a text is a URL that can be asked.
pub fn is_url(text: &str) -> bool {
    Place::of(text).is_ok()
}

impl std::fmt::Debug for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.authority)
    }
}

impl Place {
    /// Reads `http://…`, `https://…`, or a unix socket: `http+unix://%2Frun%2Fapp.sock/path`, and as nginx
    /// writes it `http://unix:/run/app.sock:/path`.
    ///
    /// Errors: it is none of these; half a sentence without the text.
    pub(super) fn of(url: &str) -> Result<Self, String> {
        let wrong = || "it is not a URL".to_owned();
        let (scheme, rest) = url.split_once("://").ok_or_else(wrong)?;
        let scheme = scheme.to_ascii_lowercase();
        if scheme == "http+unix" {
            let (socket, path) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
            return Self::local(&redact::decoded(socket), path);
        }
        if let ("http", Some(rest)) = (scheme.as_str(), rest.strip_prefix("unix:")) {
            let (socket, path) = rest.split_once(':').unwrap_or((rest, "/"));
            return Self::local(socket, path);
        }
        let secure = match scheme.as_str() {
            "http" => false,
            "https" => true,
            _ => return Err("it does not begin with http:// or https://".into()),
        };
        let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
        let (authority, path) = rest.split_at(end);
        let (user, authority) =
            authority.rsplit_once('@').map_or((None, authority), |(user, rest)| (Some(user), rest));
        let user = user.map(|user| {
            let (name, password) = user.split_once(':').unwrap_or((user, ""));
            (redact::decoded(name), redact::decoded(password))
        });
        // The crate is not shown user and password, which it takes apart in its own way.
        let path = path.split('#').next().unwrap_or_default();
        let slash = if path.starts_with('/') { "" } else { "/" };
        let uri: Uri = format!("{scheme}://{authority}{slash}{path}").parse().map_err(|_| wrong())?;
        let host = uri.host().filter(|host| !host.is_empty()).ok_or_else(wrong)?;
        let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        let usual = if secure { 443 } else { 80 };
        // The crate takes a port that is too large for none.
        let port = match authority.rsplit(']').next().and_then(|rest| rest.split_once(':')) {
            Some((_, port)) if !port.is_empty() => {
                port.parse().ok().filter(|port| *port > 0).ok_or_else(wrong)?
            }
            _ => usual,
        };
        let shown = if host.contains(':') { format!("[{host}]") } else { host.clone() };
        let authority = if port == usual { shown } else { format!("{shown}:{port}") };
        let path = uri.path_and_query().map_or("/", |path| path.as_str()).to_owned();
        Ok(Self { secure, host, port, authority, path, user, socket: None })
    }

    fn local(socket: &str, path: &str) -> Result<Self, String> {
        if !socket.starts_with('/') || socket.contains('\0') {
            return Err("a unix socket is written http+unix://%2Frun%2Fapp.sock/path".into());
        }
        let path = path.split('#').next().unwrap_or_default();
        let path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
        path.parse::<Uri>().map_err(|_| "its path has a character that no URL may have".to_owned())?;
        Ok(Self {
            secure: false,
            host: "localhost".into(),
            port: 80,
            authority: "localhost".into(),
            path,
            user: None,
            socket: Some(socket.into()),
        })
    }

    /// Whether both are of one origin.
    pub(super) fn same_origin(&self, other: &Self) -> bool {
        let host = |place: &Self| place.host.to_ascii_lowercase();
        (self.secure, host(self), self.port, &self.socket)
            == (other.secure, host(other), other.port, &other.socket)
    }

    /// The whole URL without user and password, as a proxy is asked for it.
    pub(super) fn absolute(&self) -> String {
        let scheme = if self.secure { "https" } else { "http" };
        format!("{scheme}://{}{}", self.authority, self.path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_read_as_they_are_meant() {
        for (url, secure, authority, host, port, path) in [
            ("http://shop", false, "shop", "shop", 80, "/"),
            ("HTTPS://shop:443/a?b=1#c", true, "shop", "shop", 443, "/a?b=1"),
            ("https://shop:8443?b=1", true, "shop:8443", "shop", 8443, "/?b=1"),
            ("http://[::1]:8080/x", false, "[::1]:8080", "::1", 8080, "/x"),
            ("http://u:p%40@q@shop/x@y", false, "shop", "shop", 80, "/x@y"),
        ] {
            let place = Place::of(url).unwrap_or_else(|why| panic!("{url}: {why}"));
            let seen = (place.secure, &*place.authority, &*place.host, place.port, &*place.path);
            assert_eq!(seen, (secure, authority, host, port, path), "{url}");
        }
        let user = |url: &str| Place::of(url).ok().and_then(|place| place.user);
        assert_eq!(user("http://me%40corp:a%3A%2Fb@shop/"), Some(("me@corp".into(), "a:/b".into())));
        assert_eq!(user("http://token@shop/"), Some(("token".into(), String::new())));
        for socket in ["http+unix://%2Frun%2Fapp.sock/a?b", "http://unix:/run/app.sock:/a?b"] {
            let place = Place::of(socket).unwrap_or_else(|why| panic!("{socket}: {why}"));
            assert_eq!(place.socket.as_deref(), Some(std::path::Path::new("/run/app.sock")), "{socket}");
            assert_eq!((&*place.authority, &*place.path), ("localhost", "/a?b"), "{socket}");
        }
    }

    #[test]
    fn what_is_no_url_is_refused() {
        for url in [
            "",
            "shop",
            "ftp://shop/",
            "http://",
            "http://:80/",
            "http://shop:0/",
            "http://shop:99999/",
            "http://a b/",
            "http://shop/a b",
            "http+unix://app.sock/",
            "http://unix:app.sock:/",
            "file:///etc/passwd",
        ] {
            assert!(!is_url(url), "{url}");
        }
    }
}
