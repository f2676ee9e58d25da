//! Those who are connected: what they have said so far, and who of them gives way.

use std::collections::BTreeMap;
use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv6Addr, TcpStream};
use std::time::{Duration, Instant};

use memchr::memmem;

use super::{Answer, Desk, Head};

/// Bytes of a head, and how many headers it may have.
const HEAD: usize = 16 * 1024;
const HEADERS: usize = 64;

/// How long somebody who was answered is listened to, and how much of it.
const LINGERS: Duration = Duration::from_secs(1);
const LINGERS_FOR: usize = 256 * 1024;

/// Somebody whose request is not whole yet.
pub(super) struct Guest {
    pub stream: TcpStream,
    /// Who that is: an address, or the network that one person has of the newer ones.
    pub peer: IpAddr,
    pub since: Instant,
    /// There is something to hear, or it has left.
    pub speaks: bool,
    read: Vec<u8>,
    asks: Option<Asks>,
}

/// A request that was admitted, and whose body is not all here.
struct Asks {
    head: Head,
    length: usize,
}

/// What came of listening.
pub(super) enum Heard {
    /// Not all is said yet.
    NotAll,
    /// A request that was admitted, and its body.
    Whole(Head, Vec<u8>),
    /// It gets this answer, and no other.
    Wrong(Answer),
    /// It has left before it had said anything that could be answered.
    Gone,
}

impl Guest {
    pub(super) fn new(stream: TcpStream, from: IpAddr) -> Self {
        let (peer, since) = (network_of(from), Instant::now());
        Self { stream, peer, since, speaks: true, read: Vec::new(), asks: None }
    }

    /// Whether its head was admitted.
    pub(super) fn is_admitted(&self) -> bool {
        self.asks.is_some()
    }

    /// Takes in all that has come, without waiting.
    pub(super) fn hear(&mut self, desk: &dyn Desk, limit: usize) -> Heard {
        let mut part = [0_u8; 4096];
        loop {
            match self.stream.read(&mut part) {
                Ok(0) if self.asks.is_some() => {
                    return Heard::Wrong(Answer::refusal(400, "the body ended early"));
                }
                Ok(0) => return Heard::Gone,
                Ok(n) => {
                    let before = self.read.len();
                    self.read.extend_from_slice(&part[..n]);
                    match self.take_in(before, desk, limit) {
                        Ok(Some((head, body))) => return Heard::Whole(head, body),
                        Ok(None) => {}
                        Err(answer) => return Heard::Wrong(answer),
                    }
                }
                Err(e) if e.kind() == ErrorKind::WouldBlock => return Heard::NotAll,
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(_) => return Heard::Gone,
            }
        }
    }

    fn take_in(
        &mut self,
        before: usize,
        desk: &dyn Desk,
        limit: usize,
    ) -> Result<Option<(Head, Vec<u8>)>, Answer> {
        if self.asks.is_none() {
            // Garbage is seen at its beginning, and a head at its end: what lies between is read once.
            let ends = ends_a_head(&self.read[before.saturating_sub(3)..]);
            let Some(head) = (if before == 0 || ends { self.head()? } else { None }) else {
                if self.read.len() > HEAD {
                    return Err(Answer::refusal(431, "the head of the request is too large"));
                }
                return Ok(None);
            };
            desk.admit(&head)?;
            let length = length_of(&head, limit)?;
            let expects = head.header("expect").is_some_and(|e| e.eq_ignore_ascii_case("100-continue"));
            if length > self.read.len() && expects {
                // Whoever is not told sends it after a moment all the same.
                let _ = (&self.stream).write_all(b"HTTP/1.1 100 Continue\r\n\r\n");
            }
            self.asks = Some(Asks { head, length });
        }
        match self.asks.take() {
            Some(asks) if self.read.len() < asks.length => self.asks = Some(asks),
            Some(Asks { head, length }) => {
                self.read.truncate(length);
                return Ok(Some((head, std::mem::take(&mut self.read))));
            }
            None => {}
        }
        Ok(None)
    }

    /// The head, where all of it is there. The beginning of the body stays.
    fn head(&mut self) -> Result<Option<Head>, Answer> {
        while self.read.starts_with(b"\r\n") {
            self.read.drain(..2);
        }
        let mut headers = [httparse::EMPTY_HEADER; HEADERS];
        let mut request = httparse::Request::new(&mut headers);
        match request.parse(&self.read) {
            Ok(httparse::Status::Complete(length)) => {
                let head = whole(&request, &self.stream)?;
                self.read.drain(..length);
                Ok(Some(head))
            }
            Ok(httparse::Status::Partial) => Ok(None),
            Err(httparse::Error::TooManyHeaders) => {
                Err(Answer::refusal(431, "the request has too many headers"))
            }
            Err(e) => Err(Answer::refusal(400, format!("this is no HTTP request: {e}"))),
        }
    }
}

fn ends_a_head(bytes: &[u8]) -> bool {
    memmem::find(bytes, b"\n\r\n").or_else(|| memmem::find(bytes, b"\n\n")).is_some()
}

/// How long a body is.
///
/// Errors: that is not said, or it is too long.
fn length_of(head: &Head, limit: usize) -> Result<usize, Answer> {
    if head.all("transfer-encoding").next().is_some() {
        return Err(Answer::refusal(411, "the body must come with its length, not in pieces"));
    }
    let length = match (head.header("content-length"), head.all("content-length").next()) {
        (Some(text), _) if !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()) => {
            // One that is too long for a number is too large for anything.
            text.parse().unwrap_or(usize::MAX)
        }
        (None, None) => 0,
        _ => return Err(Answer::refusal(400, "the length of the body is not understood")),
    };
    if length > limit {
        return Err(Answer::refusal(413, format!("a body may have {limit} bytes")));
    }
    Ok(length)
}

fn whole(request: &httparse::Request<'_, '_>, stream: &TcpStream) -> Result<Head, Answer> {
    let target = request.path.unwrap_or_default();
    let headers = request
        .headers
        .iter()
        .map(|h| Ok((h.name.to_owned(), std::str::from_utf8(h.value)?.trim().to_owned())))
        .collect::<Result<_, std::str::Utf8Error>>()
        .map_err(|_| Answer::refusal(400, "a header is not UTF-8"))?;
    Ok(Head {
        method: request.method.unwrap_or_default().to_owned(),
        path: target.split('?').next().unwrap_or_default().to_owned(),
        peer: stream.peer_addr().ok().map(|peer| peer.ip()),
        headers,
    })
}

/// Whose address it is. Of the newer ones everybody has a whole network.
fn network_of(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(six) => {
            let [a, b, c, d, ..] = six.segments();
            IpAddr::V6(Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0))
        }
        four @ IpAddr::V4(_) => four,
    }
}

/// Who gives way, where there are more than may be: the one that has waited longest without a head, of whoever has
/// most of them. Whoever is admitted gives way last.
pub(super) fn gives_way(guests: &[Guest], most: usize, per_peer: usize) -> Option<usize> {
    let seen: Vec<(IpAddr, bool)> = guests.iter().map(|g| (g.peer, g.is_admitted())).collect();
    who_gives_way(&seen, most, per_peer)
}

/// The same by what counts: who it is and whether it was admitted, the oldest first.
fn who_gives_way(guests: &[(IpAddr, bool)], most: usize, per_peer: usize) -> Option<usize> {
    let mut held: BTreeMap<IpAddr, usize> = BTreeMap::new();
    for (peer, _) in guests.iter().filter(|(_, admitted)| !admitted) {
        *held.entry(*peer).or_default() += 1;
    }
    let largest = held.values().copied().max().unwrap_or(0);
    if guests.len() <= most && largest <= per_peer {
        return None;
    }
    // Of two who hold as many, the one whose oldest is older.
    let of_the_largest = guests.iter().position(|(peer, admitted)| !admitted && held[peer] == largest);
    of_the_largest.or_else(|| (!guests.is_empty()).then_some(0))
}

/// Somebody who was answered: a connection that is closed on unread bytes would take the answer along.
pub(super) struct Leaving {
    pub stream: TcpStream,
    /// There is something to hear, or it has left.
    pub speaks: bool,
    until: Instant,
    left: usize,
}

impl Leaving {
    pub(super) fn new(stream: TcpStream) -> Self {
        Self { stream, speaks: true, until: Instant::now() + LINGERS, left: LINGERS_FOR }
    }

    /// Lets go what it says; whether it stays.
    pub(super) fn stays(&mut self, now: Instant) -> bool {
        let mut dropped = [0_u8; 16 * 1024];
        while self.speaks && self.left > 0 {
            match self.stream.read(&mut dropped) {
                Ok(0) => return false,
                Ok(n) => self.left = self.left.saturating_sub(n),
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) if e.kind() == ErrorKind::WouldBlock => break,
                Err(_) => return false,
            }
        }
        now < self.until && self.left > 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(number: u8) -> IpAddr {
        IpAddr::from([127, 0, 0, number])
    }

    /// Lets `come` come one after the other, as the room does.
    fn after(
        come: impl Iterator<Item = (IpAddr, bool)>,
        most: usize,
        per_peer: usize,
    ) -> Vec<(IpAddr, bool)> {
        let mut guests = Vec::new();
        for one in come {
            guests.push(one);
            while let Some(at) = who_gives_way(&guests, most, per_peer) {
                guests.remove(at);
            }
        }
        guests
    }

    #[test]
    fn whoever_holds_most_gives_way_and_the_oldest_first() {
        let alone = after((0..1000).map(|_| (peer(1), false)), 8, 4);
        assert_eq!(alone.len(), 4, "one peer has no more than its share");
        let few = [(peer(2), false), (peer(3), false)].into_iter();
        let crowded = after(few.chain((0..1000).map(|_| (peer(1), false))), 4, 4);
        assert_eq!(crowded, [(peer(2), false), (peer(3), false), (peer(1), false), (peer(1), false)]);
        let many = after((0..250).map(|n| (peer(n), false)), 8, 4);
        assert_eq!(many, (242..250).map(|n| (peer(n), false)).collect::<Vec<_>>(), "the newest are heard");
        // Who comes last is never the one that goes.
        for number in 0..=u8::MAX {
            let come =
                (0..40_u8).map(|n| (peer(n.wrapping_mul(number) % 7), false)).chain([(peer(200), false)]);
            assert_eq!(after(come, 8, 4).last(), Some(&(peer(200), false)));
        }
    }

    #[test]
    fn whoever_was_admitted_stays_as_long_as_anybody_else_can_go() {
        let come = [(peer(1), true); 3].into_iter().chain((0..1000).map(|_| (peer(1), false)));
        let left = after(come, 6, 4);
        assert_eq!(left.iter().filter(|(_, admitted)| *admitted).count(), 3);
        assert_eq!(left.len(), 6);
        assert_eq!(
            after([(peer(1), true); 20].into_iter(), 6, 4).len(),
            6,
            "there is an end to it all the same"
        );
        assert_eq!(who_gives_way(&[], 0, 0), None);
    }

    #[test]
    fn one_network_is_one_peer_and_a_four_within_a_six_is_a_four() {
        let of = |text: &str| network_of(text.parse().unwrap());
        assert_eq!(of("2001:db8::1"), of("2001:db8::ffff:1"));
        assert_ne!(of("2001:db8:0:1::1"), of("2001:db8:0:2::1"));
        assert_eq!(of("::ffff:10.0.0.1"), of("10.0.0.1"));
        assert_ne!(of("10.0.0.1"), of("10.0.0.2"));
    }
}
