//! HAProxy's admin socket: one command, one answer.

use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream, ToSocketAddrs};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use crate::fault::Fault;

/// The greatest reply that is read: `show stat` of some thousand servers is a few megabytes.
const MAX_REPLY: usize = 16 * 1024 * 1024;
/// So many commands go in one line, which must fit into HAProxy's buffer, 16 KiB by default.
const AT_ONCE: usize = 64;

#[derive(Clone, Debug)]
pub(super) enum Address {
    Path(PathBuf),
    Port(String),
}

/// The socket, and the time for one answer.
#[derive(Clone, Debug)]
pub(super) struct Socket {
    pub(super) address: Address,
    pub(super) timeout: Duration,
}

pub(super) type Row = HashMap<String, String>;

impl Socket {
    pub(super) fn shown(&self) -> String {
        match &self.address {
            Address::Path(path) => path.display().to_string(),
            Address::Port(port) => port.clone(),
        }
    }

    fn unreachable(&self, doing: &str, error: &io::Error) -> Fault {
        let help = match error.kind() {
            io::ErrorKind::NotFound => "is HAProxy running, and does it have `stats socket … level admin`?",
            io::ErrorKind::PermissionDenied => "add the job's user to the group of the socket",
            io::ErrorKind::ConnectionRefused => "HAProxy does not listen there; is it running?",
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => {
                "it took the connection but does not answer; is it HAProxy, and is it alive?"
            }
            _ => "look at the socket and at HAProxy's log",
        };
        let cause = match error.kind() {
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => {
                format!("no answer within {}", crate::units::show_duration(self.timeout.as_secs_f64()))
            }
            _ => error.to_string(),
        };
        Fault::infrastructure(format!("HAProxy could not {doing}"))
            .place(self.shown())
            .cause(cause)
            .help(help)
    }

    fn exchange(&self, command: &str) -> io::Result<String> {
        self.exchange_and(command, false)
    }

    /// The same; where the end is told, the other one need not wait for more commands.
    fn exchange_and(&self, command: &str, tell_the_end: bool) -> io::Result<String> {
        let until = Instant::now() + self.timeout;
        match &self.address {
            Address::Path(path) => {
                let stream = UnixStream::connect(path)?;
                stream.set_write_timeout(Some(self.timeout))?;
                let sent = || if tell_the_end { stream.shutdown(Shutdown::Write) } else { Ok(()) };
                talk(&stream, &stream, command, (until, sent), |left| stream.set_read_timeout(Some(left)))
            }
            Address::Port(port) => {
                let address = port.to_socket_addrs()?.next().ok_or(io::ErrorKind::NotFound)?;
                let stream = TcpStream::connect_timeout(&address, self.timeout)?;
                stream.set_write_timeout(Some(self.timeout))?;
                let sent = || if tell_the_end { stream.shutdown(Shutdown::Write) } else { Ok(()) };
                talk(&stream, &stream, command, (until, sent), |left| stream.set_read_timeout(Some(left)))
            }
        }
    }

    /// The answer to a command.
    ///
    /// Errors (4): it cannot be reached, or does not answer in time.
    pub(super) fn ask(&self, command: &str) -> Result<String, Fault> {
        self.exchange(command).map_err(|e| self.unreachable(&format!("answer `{command}`"), &e))
    }

    /// The same, for a process that would keep the connection for more: the master process does.
    ///
    /// Errors (4): it cannot be reached, or does not answer in time.
    pub(super) fn ask_at_last(&self, command: &str) -> Result<String, Fault> {
        self.exchange_and(command, true).map_err(|e| self.unreachable(&format!("answer `{command}`"), &e))
    }

    /// Sends commands whose success is an empty reply.
    ///
    /// Errors (4): it cannot be reached, or refuses one; those before it, and some behind it, were carried out.
    pub(super) fn order(&self, commands: &[String], doing: &str) -> Result<(), Fault> {
        for some in commands.chunks(AT_ONCE) {
            let reply = self.exchange(&some.join("; ")).map_err(|e| self.unreachable(doing, &e))?;
            if !reply.trim().is_empty() {
                let said = crate::units::clipped(&crate::redact::redact(reply.trim()), 300);
                return Err(Fault::infrastructure(format!("HAProxy refused to {doing}"))
                    .place(self.shown())
                    .cause(said)
                    .help("the socket needs `level admin`, and the backend `balance roundrobin`"));
            }
        }
        Ok(())
    }

    /// The rows of an answer that is a table.
    pub(super) fn table(&self, command: &str, backend: &str) -> Result<Vec<Row>, Fault> {
        let reply = self.ask(command)?;
        let separator = if command.starts_with("show stat") { ',' } else { ' ' };
        parse_table(&reply, separator).ok_or_else(|| {
            let said = crate::units::clipped(&crate::redact::redact(reply.trim()), 120);
            Fault::infrastructure(format!("HAProxy's answer to `{command}` is not understood"))
                .place(self.shown())
                .cause(format!("it said: {}", if said.is_empty() { "nothing" } else { &said }))
                .help(format!("is this HAProxy's socket, and is there a backend `{backend}`?"))
        })
    }

    /// The command line that sends these commands by hand.
    pub(super) fn by_hand(&self, commands: &str) -> String {
        let to = match &self.address {
            Address::Path(path) => format!("socat stdio {}", path.display()),
            Address::Port(port) => format!("socat stdio tcp:{port}"),
        };
        format!("echo '{commands}' | {to}")
    }
}

fn talk(
    mut reader: impl Read,
    mut writer: impl Write,
    command: &str,
    (until, sent): (Instant, impl Fn() -> io::Result<()>),
    limit: impl Fn(Duration) -> io::Result<()>,
) -> io::Result<String> {
    writer.write_all(format!("{command}\n").as_bytes())?;
    sent()?;
    let mut reply = Vec::new();
    let mut buffer = [0_u8; 16 * 1024];
    loop {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        limit(left)?;
        let read = match reader.read(&mut buffer) {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            other => other?,
        };
        if read == 0 {
            return String::from_utf8(reply).map_err(|_| io::Error::other("the answer is not text"));
        }
        reply.extend_from_slice(&buffer[..read]);
        if reply.len() > MAX_REPLY {
            return Err(io::Error::other("the answer does not end"));
        }
    }
}

/// Rows of a table whose first line (behind `#`) names the columns.
pub(super) fn parse_table(reply: &str, separator: char) -> Option<Vec<Row>> {
    let mut lines = reply.lines().skip_while(|line| !line.starts_with("# "));
    let columns = fields(lines.next()?.trim_start_matches("# "), separator);
    let rows = lines
        .filter(|line| !line.trim().is_empty())
        .map(|line| columns.iter().cloned().zip(fields(line, separator)).collect())
        .collect();
    Some(rows)
}

/// The fields of a line. A server's own words stand quoted among them (`last_chk`), and a separator
/// inside quotes ends no field.
fn fields(line: &str, separator: char) -> Vec<String> {
    let (mut all, mut field, mut quoted) = (Vec::new(), String::new(), false);
    for c in line.chars() {
        match c {
            '"' => quoted = !quoted,
            c if c == separator && !quoted => all.push(std::mem::take(&mut field)),
            c => field.push(c),
        }
    }
    all.push(field);
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_cannot_shift_the_columns_by_what_it_says() {
        let reply = "# svname,last_chk,rtime\ngreen,\"no, \"\"later\"\", maybe\",7\n";
        let rows = parse_table(reply, ',').unwrap_or_default();
        assert_eq!(rows.first().and_then(|row| row.get("rtime")).map(String::as_str), Some("7"));
        assert!(parse_table("Can't find backend.\n", ' ').is_none());
    }
}
