//! Where a server is that is named by a URL: `scheme://user:password@host:port/path?option=value`.

use crate::redact;

/// A server's URL in its parts, each as it is meant (`%40` is `@`). It has no `Debug`: it holds the
/// password, which is never shown from now on.
#[derive(Clone, PartialEq, Eq)]
pub struct Address {
    /// What stands before `://`.
    pub scheme: String,
    /// The user.
    pub user: Option<String>,
    /// The password.
    pub password: Option<String>,
    /// A name or a number, without the brackets of IPv6; none in `mysql:///shop`.
    pub host: Option<String>,
    /// The port.
    pub port: Option<u16>,
    /// What comes after the first slash.
    pub path: String,
    /// What comes after the question mark, in its order.
    pub options: Vec<(String, String)>,
}

impl Address {
    /// Reads a URL with one of these schemes.
    ///
    /// Errors: half a sentence without any part of the text, since the password may be in it.
    pub fn read(text: &str, schemes: &[&str]) -> Result<Self, String> {
        let begin = || format!("it must begin with {}", schemes.join(":// or ") + "://");
        let (scheme, rest) = text.trim().split_once("://").ok_or_else(begin)?;
        let scheme = schemes.iter().find(|s| s.eq_ignore_ascii_case(scheme)).ok_or_else(begin)?;
        let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
        let (authority, rest) = rest.split_at(end);
        if rest.contains('@') && !authority.contains('@') {
            return Err("a `/`, `?` or `#` in user or password must be written as %2F, %3F or %23".into());
        }
        let (credentials, place) =
            authority.rsplit_once('@').map_or((None, authority), |(c, p)| (Some(c), p));
        let (user, password) = match credentials.map(|c| c.split_once(':').unwrap_or((c, ""))) {
            None => (None, None),
            Some((user, password)) => (part(user, "the user")?, part(password, "the password")?),
        };
        if let Some(password) = &password {
            redact::learn(password);
        }
        let (host, port) = host_and_port(place)?;
        let (path, query) = rest.split_once('?').unwrap_or((rest, ""));
        let options = form_urlencoded::parse(query.as_bytes()).into_owned().collect();
        let path = part(path.strip_prefix('/').unwrap_or(path), "the path")?.unwrap_or_default();
        Ok(Self { scheme: (*scheme).to_owned(), user, password, host, port, path, options })
    }

    /// The value of an option; of several the last counts.
    pub fn option(&self, name: &str) -> Option<&str> {
        self.options.iter().rev().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// The first option that is none of these.
    pub fn unknown_option(&self, known: &[&str]) -> Option<&str> {
        self.options.iter().map(|(name, _)| name.as_str()).find(|name| !known.contains(name))
    }
}

fn part(text: &str, what: &str) -> Result<Option<String>, String> {
    let text = redact::decoded(text);
    if text.contains(['\0', '\n', '\r']) || text.contains(char::REPLACEMENT_CHARACTER) {
        return Err(format!("{what} has a character that no server takes"));
    }
    Ok(Some(text).filter(|text| !text.is_empty()))
}

fn host_and_port(place: &str) -> Result<(Option<String>, Option<u16>), String> {
    let (host, port) = match place.strip_prefix('[').map(|rest| rest.split_once(']')) {
        Some(Some((host, rest))) => (host, rest.strip_prefix(':').unwrap_or(rest)),
        Some(None) => return Err("`[` is not closed".into()),
        None => place.split_once(':').unwrap_or((place, "")),
    };
    let port = match port {
        "" => None,
        digits => Some(digits.parse().map_err(|_| "the port is not a number up to 65535".to_owned())?),
    };
    Ok((part(host, "the host")?, port))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Address, String> {
        Address::read(text, &["mysql", "mariadb"])
    }

    #[test]
    fn every_part_is_read_as_it_is_meant() {
        let address =
            read("mysql://sh%40p:p%25%22'%20%3A:x@db.example:3307/sh%20op?ssl-mode=REQUIRED&a=1&a=2")
                .unwrap();
        assert_eq!(address.user.as_deref(), Some("sh@p"));
        assert_eq!(address.password.as_deref(), Some("p%\"' ::x"));
        assert_eq!((address.host.as_deref(), address.port), (Some("db.example"), Some(3307)));
        assert_eq!((address.path.as_str(), address.option("a")), ("sh op", Some("2")));
        assert_eq!(address.unknown_option(&["ssl-mode"]), Some("a"));
        let short = read("MariaDB:///shop").unwrap();
        assert!(
            short.host.is_none() && short.user.is_none() && short.path == "shop" && short.scheme == "mariadb"
        );
        assert_eq!(read("mysql://[::1]:1/x").unwrap().host.as_deref(), Some("::1"));
        assert_eq!(read("mysql://u:a@b@h/x").unwrap().password.as_deref(), Some("a@b"));
    }

    #[test]
    fn what_cannot_be_meant_is_refused_without_showing_the_password() {
        for (text, word) in [
            ("shop", "must begin with mysql:// or mariadb://"),
            ("redis://u:hidden@h", "must begin with"),
            ("mysql://u:hid/den@h/x", "%2F"),
            ("mysql://u:hidden@h:port/x", "port"),
            ("mysql://u:hid%00den@h/x", "the password has"),
            ("mysql://u@[::1/x", "not closed"),
        ] {
            let why = read(text).err().unwrap_or_default();
            assert!(why.contains(word) && !why.contains("hid"), "{text}: {why}");
        }
    }
}
