//! Which proxy a request goes through, as curl reads the environment.

use std::net::IpAddr;

use crate::redact;

/// A proxy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Proxy {
    /// How it is spoken to.
    pub(super) kind: Kind,
    /// A name or a number, IPv6 without brackets.
    pub(super) host: String,
    /// Its port.
    pub(super) port: u16,
    /// User and password, where it wants them.
    pub(super) user: Option<(String, String)>,
}

/// How a proxy is spoken to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// HTTP.
    Http,
    /// HTTP over TLS.
    Https,
    /// SOCKS 5; names are resolved here.
    Socks5,
    /// SOCKS 5; the proxy resolves names.
    Socks5h,
}

/// The proxy for a host; none where it is reached directly.
///
/// curl's rules: `http_proxy` is read in lower case only, since a CGI script gets `HTTP_PROXY` from
/// whoever asks; `https_proxy`, `all_proxy` and `no_proxy` in lower case first; an empty one is none.
///
/// Errors: the variable cannot be read as a proxy; one sentence without its value.
pub(super) fn of(
    secure: bool,
    host: &str,
    var: &dyn Fn(&str) -> Option<String>,
) -> Result<Option<Proxy>, String> {
    let names: &[&str] = if secure {
        &["https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"]
    } else {
        &["http_proxy", "all_proxy", "ALL_PROXY"]
    };
    let set = |name: &str| var(name).filter(|value| !value.is_empty());
    let found = names.iter().find_map(|name| Some((name, set(name)?)));
    let Some((name, value)) = found else { return Ok(None) };
    let except = set("no_proxy").or_else(|| set("NO_PROXY"));
    if except.is_some_and(|list| is_excepted(host, &list)) {
        return Ok(None);
    }
    read(&value)
        .map(Some)
        .map_err(|why| format!("the proxy of the environment's {name} cannot be used: {why}"))
}

/// Reads `[scheme://][user[:password]@]host[:port]`; what comes behind is left out.
fn read(text: &str) -> Result<Proxy, String> {
    let text = text.trim();
    let (scheme, rest) = text.split_once("://").unwrap_or(("http", text));
    let kind = match scheme.to_ascii_lowercase().as_str() {
        "http" => Kind::Http,
        "https" => Kind::Https,
        "socks5" => Kind::Socks5,
        "socks5h" => Kind::Socks5h,
        "socks4" | "socks4a" | "socks" => {
            return Err("SOCKS 4 is not spoken here; write socks5:// or socks5h://".into());
        }
        _ => return Err("its scheme is none of http, https, socks5 and socks5h".into()),
    };
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let (user, place) = authority.rsplit_once('@').map_or((None, authority), |(u, place)| (Some(u), place));
    let user = user.filter(|user| !user.is_empty()).map(|user| {
        let (name, password) = user.split_once(':').unwrap_or((user, ""));
        (redact::decoded(name), redact::decoded(password))
    });
    if let Some((name, password)) = &user {
        redact::learn(if password.is_empty() { name } else { password });
    }
    let (host, port) = match place.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((host, port)) => (host, port.strip_prefix(':').unwrap_or(port)),
        None => place.split_once(':').unwrap_or((place, "")),
    };
    if host.is_empty() {
        return Err("it names no host".into());
    }
    // curl's own defaults.
    let usual = if kind == Kind::Https { 443 } else { 1080 };
    let port = match port {
        "" => usual,
        digits => digits.parse().map_err(|_| "its port is not a number up to 65535".to_owned())?,
    };
    Ok(Proxy { kind, host: host.to_owned(), port, user })
}

/// Whether a host stands in a list of exceptions: names stand for themselves and what is below them, with
/// or without a dot in front; numbers for themselves, or a network with its bits.
fn is_excepted(host: &str, list: &str) -> bool {
    if list == "*" {
        return true;
    }
    let number: Option<IpAddr> = host.parse().ok();
    let host = host.strip_suffix('.').unwrap_or(host);
    list.split([',', ' ', '\t']).filter(|entry| !entry.is_empty()).any(|entry| {
        if let Some(number) = number {
            return holds(entry, number);
        }
        let entry = entry.strip_suffix('.').unwrap_or(entry);
        let entry = entry.strip_prefix('.').unwrap_or(entry);
        let above = host.len().checked_sub(entry.len()).and_then(|at| host.split_at_checked(at));
        !entry.is_empty()
            && above.is_some_and(|(above, same)| {
                same.eq_ignore_ascii_case(entry) && (above.is_empty() || above.ends_with('.'))
            })
    })
}

/// Whether an address, or a network such as `10.0.0.0/8`, holds a number.
fn holds(entry: &str, number: IpAddr) -> bool {
    let (address, bits) =
        entry.split_once('/').map_or((entry, None), |(address, bits)| (address, Some(bits)));
    let Ok(address) = address.parse::<IpAddr>() else { return false };
    // curl reads what is no number as 0, and 0 as the address itself.
    let bits = bits.and_then(|digits| digits.parse::<u32>().ok()).filter(|bits| *bits > 0);
    match (address, number) {
        (IpAddr::V4(own), IpAddr::V4(number)) => {
            same_front(u32::from(own).into(), u32::from(number).into(), 32, bits)
        }
        (IpAddr::V6(own), IpAddr::V6(number)) => same_front(own.into(), number.into(), 128, bits),
        _ => false,
    }
}

fn same_front(own: u128, number: u128, width: u32, bits: Option<u32>) -> bool {
    match bits.unwrap_or(width) {
        bits if bits > width => false,
        bits => (own ^ number) >> (width - bits) == 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(url: &str, variables: &[(&str, &str)]) -> String {
        let (scheme, host) = url.split_once("://").unwrap();
        let found = super::of(scheme == "https", host, &|name| {
            variables.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned())
        });
        match found {
            Ok(None) => "direct".into(),
            Ok(Some(proxy)) => format!("{}:{}", proxy.host, proxy.port),
            Err(why) => why,
        }
    }

    #[test]
    fn variables_are_read_as_curl_reads_them() {
        for (url, variables, expected) in [
            ("http://shop", &[("http_proxy", "http://p:1")][..], "p:1"),
            ("http://shop", &[("HTTP_PROXY", "http://p:1")], "direct"),
            ("http://shop", &[("https_proxy", "http://p:1"), ("HTTPS_PROXY", "http://p:2")], "direct"),
            ("https://shop", &[("HTTPS_PROXY", "http://p:1")], "p:1"),
            ("https://shop", &[("https_proxy", "http://p:1"), ("HTTPS_PROXY", "http://q:1")], "p:1"),
            ("https://shop", &[("https_proxy", ""), ("HTTPS_PROXY", "http://q:1")], "q:1"),
            ("https://shop", &[("http_proxy", "http://p:1")], "direct"),
            ("http://shop", &[("ALL_PROXY", "p")], "p:1080"),
            ("https://shop", &[("all_proxy", "https://p")], "p:443"),
            ("https://shop", &[("https_proxy", "u%40x:p%3Aw@[::1]:3128/x")], "::1:3128"),
            ("http://shop", &[("http_proxy", "p:1"), ("no_proxy", "shop"), ("NO_PROXY", "x")], "direct"),
            ("http://shop", &[("http_proxy", "p:1"), ("no_proxy", "x"), ("NO_PROXY", "shop")], "p:1"),
            ("http://shop", &[("http_proxy", "p:1"), ("no_proxy", ""), ("NO_PROXY", "shop")], "direct"),
        ] {
            assert_eq!(of(url, variables), expected, "{url} {variables:?}");
        }
        for (value, word) in
            [("socks4://p", "SOCKS 4"), ("ftp://p", "scheme"), ("http://u:hidden@", "no host")]
        {
            let why = of("http://shop", &[("http_proxy", value)]);
            assert!(
                why.contains(word) && why.contains("http_proxy") && !why.contains("hidden"),
                "{value}: {why}"
            );
        }
    }

    #[test]
    fn user_and_password_are_decoded() {
        let proxy = read("http://me%40corp:a%3Ab%25@p:1").unwrap();
        assert_eq!(proxy.user, Some(("me@corp".into(), "a:b%".into())));
    }

    #[test]
    fn exceptions_are_names_and_networks() {
        for (host, list, excepted) in [
            ("shop", "*", true),
            ("shop", "*,x", false),
            ("shop.example", "example", true),
            ("shop.example", ".example", true),
            ("shop.example.", "Shop.Example", true),
            ("shop.example", "shop.example.", true),
            ("notshop.example", "shop.example", false),
            ("example", ".shop.example", false),
            ("shop.example", "*.example", false),
            ("shop.example", "x, shop.example", true),
            ("shop.example", "x shop.example", true),
            ("shop.example", "shop.example:80", false),
            ("127.0.0.1", "127.0.0.0/8", true),
            ("127.0.0.1", "10.0.0.0/8,\t127.0.0.1", true),
            ("127.0.0.1", "127.0.0.1/32", true),
            ("127.0.0.1", "127.0.0.2", false),
            ("127.0.0.1", "127.0.0.1/33", false),
            ("127.0.0.1", "127.0.0.1/", true),
            ("127.0.0.1", "127.0.0.1/0", true),
            ("127.0.0.1", "0.0.0.0/0", false),
            ("127.0.0.1", "0.0.1", false),
            ("127.0.0.1", "127.0.0.1:80", false),
            ("10.1.2.3", ".2.3", false),
            ("::1", "::1", true),
            ("fd00::5", "fd00::/8", true),
            ("fe80::5", "fd00::/8", false),
            ("::1", "127.0.0.1", false),
        ] {
            assert_eq!(is_excepted(host, list), excepted, "{host} in {list}");
        }
    }
}
