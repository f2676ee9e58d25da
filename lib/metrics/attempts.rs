//! The attempts of one request, as nginx lists them: `10.0.0.2:80, 10.0.0.1:80`, `502, 200`, `0.001, 0.012`.

use std::borrow::Cow;

use schemars::JsonSchema;
use serde::Deserialize;

use super::access::{Attempt, Statuses};

/// Which attempts count.
#[derive(Clone, Copy, Debug, Default, Deserialize, JsonSchema, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub(super) enum Attempts {
    /// Each for the side that made it.
    #[default]
    All,
    /// The one that answered the user.
    Last,
}

/// What a line says of a request that may have been tried on several servers.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Tried<'l> {
    /// The servers.
    pub(super) servers: &'l str,
    /// What each of them answered; empty where the log does not say.
    pub(super) statuses: &'l str,
    /// How long each of them took, or how long the last one did.
    pub(super) times: &'l str,
    /// What the user got.
    pub(super) answered: Option<u16>,
}

/// Takes each attempt for the server that it went to; `unit_ms` is what the times count. None when the line has
/// no status that is understood.
pub(super) fn each<'l>(
    tried: Tried<'l>,
    (which, statuses, unit_ms): (Attempts, &Statuses, f64),
    attempts: &mut Vec<Attempt<'l>>,
) -> Option<()> {
    let mut own = items(tried.statuses);
    let for_each = items(tried.times).count() == items(tried.servers).count();
    let mut times = items(tried.times);
    let mut servers = items(tried.servers).peekable();
    while let Some((server, after)) = servers.next() {
        let own = own.next().and_then(|(item, _)| status(item));
        let last = servers.peek().is_none();
        let time = if for_each || last { times.next().and_then(|(item, _)| number(item)) } else { None };
        if server.is_empty() || server == "-" || (!last && which == Attempts::Last) {
            continue;
        }
        let ok = match (own, last) {
            (own, true) => ended(own, tried.answered, which, statuses)?,
            (Some(own), false) => statuses.ok(own),
            // There was another attempt because this one failed; after a redirect within nginx nobody
            // can tell.
            (None, false) if after == After::Comma => Some(false),
            (None, false) => None,
        };
        let latency_ms = time.map(|time| time * unit_ms);
        attempts.push(Attempt { side: Cow::Borrowed(server), elsewhere: false, ok, latency_ms });
    }
    Some(())
}

/// Whether the attempt that answered the user went well: by the side's own status too, for nginx may
/// have covered it up (`error_page`).
#[expect(clippy::option_option, reason = "not understood, not to be counted, or how it went")]
pub(super) fn ended(
    own: Option<u16>,
    answered: Option<u16>,
    which: Attempts,
    statuses: &Statuses,
) -> Option<Option<bool>> {
    let shown = answered.or(own)?;
    let Some(ok) = statuses.ok(shown) else { return Some(None) };
    let covered = which == Attempts::All && own.and_then(|own| statuses.ok(own)) == Some(false);
    Some(Some(ok && !covered))
}

/// What follows an entry of a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum After {
    Nothing,
    /// Another server of the same group was tried.
    Comma,
    /// nginx went on elsewhere by itself.
    Colon,
}

/// The entries of `a, b : c`, and what follows each.
fn items(list: &str) -> impl Iterator<Item = (&str, After)> {
    let mut rest = Some(list).filter(|list| !list.is_empty());
    std::iter::from_fn(move || {
        let list = rest?;
        let colon = list.find(" : ");
        let end = [list.find(','), colon].into_iter().flatten().min();
        let Some(end) = end else {
            rest = None;
            return Some((list.trim(), After::Nothing));
        };
        let (after, length) = if Some(end) == colon { (After::Colon, 3) } else { (After::Comma, 1) };
        rest = Some(&list[end + length..]);
        Some((list[..end].trim(), after))
    })
}

/// The last entry of a list.
pub(super) fn last(list: &str) -> &str {
    items(list).last().map_or("", |(item, _)| item)
}

/// Whether a text is a list of several entries.
pub(super) fn is_list(text: &str) -> bool {
    items(text).nth(1).is_some()
}

/// A number that is not negative.
pub(super) fn number(text: &str) -> Option<f64> {
    let plain = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
    plain.then(|| text.parse().ok()).flatten()
}

/// A status of three digits.
pub(super) fn status(text: &str) -> Option<u16> {
    let digits = text.len() == 3 && text.bytes().all(|byte| byte.is_ascii_digit());
    let code: u16 = digits.then(|| text.parse().ok()).flatten()?;
    (code == 0 || code >= 100).then_some(code)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::access::ClientClosed;

    /// Side, how it went and latency of each attempt.
    type Seen = Vec<(String, Option<bool>, Option<f64>)>;

    fn read(tried: Tried<'_>, which: Attempts) -> Option<Seen> {
        let statuses = Statuses::new(None, ClientClosed::LeaveOut).unwrap();
        let mut found = Vec::new();
        each(tried, (which, &statuses, 1e3), &mut found)?;
        Some(found.into_iter().map(|a| (a.side.into_owned(), a.ok, a.latency_ms)).collect())
    }

    #[test]
    fn a_list_is_read_however_it_is_written() {
        for (servers, own) in
            [("a:1, b:1", "502, 200"), ("a:1,b:1", "502,200"), (" a:1 , b:1 ", " 502 , 200 ")]
        {
            let tried = Tried { servers, statuses: own, times: "0.5, 1", answered: Some(200) };
            let all = vec![
                ("a:1".to_owned(), Some(false), Some(500.0)),
                ("b:1".to_owned(), Some(true), Some(1000.0)),
            ];
            assert_eq!(read(tried, Attempts::All).unwrap(), all, "{servers}");
            assert_eq!(read(tried, Attempts::Last).unwrap(), all[1..]);
            // How long the whole request took is told of its last attempt.
            let whole = Tried { times: "1.25", ..tried };
            let latencies: Vec<_> = read(whole, Attempts::All).unwrap().into_iter().map(|a| a.2).collect();
            assert_eq!(latencies, [None, Some(1250.0)]);
        }
        let v6 = Tried { servers: "[::1]:80 : unix:/run/a b.sock", answered: Some(504), ..Tried::default() };
        let found = read(v6, Attempts::All).unwrap();
        assert_eq!(found[0], ("[::1]:80".into(), None, None));
        assert_eq!(found[1], ("unix:/run/a b.sock".into(), Some(false), None));
    }

    #[test]
    fn nobody_and_nothing_are_no_attempt() {
        for servers in ["", "-", "-, -"] {
            assert_eq!(
                read(Tried { servers, answered: Some(502), ..Tried::default() }, Attempts::All),
                Some(vec![])
            );
        }
        assert_eq!(read(Tried { servers: "a:1", ..Tried::default() }, Attempts::All), None);
        assert_eq!(last("502, 200"), "200");
        assert_eq!([status("099"), status("20"), status("000"), status("+20")], [None, None, Some(0), None]);
    }
}
