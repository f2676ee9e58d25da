//! `tcp`: whether a port takes connections, and what it says first.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use schemars::JsonSchema;
use serde::Deserialize;

use super::address::{Address, Reached};
use super::{Check, Kind, Observable, Order, Presumed, Sight, Trouble, no_open_names};
use crate::units::{Observed, Text, Unit};
use crate::yaml::Problem;

/// See `preflight explain tcp`.
pub(super) static KIND: Kind = Kind {
    name: "tcp",
    about: "Connects to a port.",
    target: "`host:port`",
    example: "\
- name: queue takes connections
  kind: tcp
  target: queue.example.com:5672
  expect: {latency: \"<= 50ms\"}
",
    observes: &[
        Observable {
            name: "connected",
            unit: Unit::Flag,
            about: "whether the port took the connection; false only where it was asked and did not",
        },
        Observable { name: "latency", unit: Unit::Duration, about: "name and connection together" },
        Observable { name: "banner", unit: Unit::Text, about: "the first line that the server says" },
    ],
    presumes: &[Presumed::new("connected", "true")],
    open_names: None,
    open_unit: no_open_names,
    settings: Settings::json_schema,
    prepare,
};

#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Settings {
    /// A text to send before the banner is read.
    #[serde(default)]
    send: Option<Text>,
}

struct Tcp {
    address: Address,
    send: Option<String>,
    banner: bool,
}

const LONGEST_BANNER: usize = 4096;

fn prepare(order: &Order<'_>) -> Result<Box<dyn Check>, Problem> {
    let settings: Settings = order.settings()?;
    let target = order.target()?;
    let address = Address::parse(&target.value, None)
        .map_err(|why| order.problem("target", format!("`{target}` {why}")))?;
    let send = settings.send.map(|text| text.value);
    Ok(Box::new(Tcp { address, send, banner: order.asks("banner") }))
}

impl Check for Tcp {
    fn look(&self, within: Duration) -> Result<Sight, Trouble> {
        let started = Instant::now();
        let mut stream = match self.address.reach(within) {
            Reached::Open(stream) => stream,
            Reached::Closed(why) => {
                return Ok(Sight::default().saw("connected", Observed::Flag(false)).note(why));
            }
            Reached::Nowhere(why) => return Err(Trouble::failed(why)),
            Reached::Unknown(why) => return Err(Trouble::broken(why)),
        };
        let sight = Sight::default().saw("connected", Observed::Flag(true)).number(
            "latency",
            started.elapsed().as_secs_f64(),
            Unit::Duration,
        );
        if !self.banner {
            return Ok(sight);
        }
        let left = within.saturating_sub(started.elapsed()).max(Duration::from_millis(1));
        match banner(&mut stream, self.send.as_deref(), left) {
            Ok((line, true)) if !line.is_empty() => Ok(sight.saw("banner", Observed::Text(line))),
            Ok((line, false)) => Ok(sight
                .saw_beginning("banner", line)
                .note("the server did not end its first line, and only the beginning of it is known")),
            Ok(_) => Ok(sight.note("the server closed the connection without a word")),
            Err(error) => Ok(sight.note(format!("the server said nothing: {error}"))),
        }
    }
}

/// The first line, or what came before the connection was closed, and whether that is all of it.
fn banner(stream: &mut TcpStream, send: Option<&str>, within: Duration) -> std::io::Result<(String, bool)> {
    let until = Instant::now() + within;
    stream.set_write_timeout(Some(within))?;
    if let Some(text) = send {
        stream.write_all(text.as_bytes())?;
    }
    let (mut heard, mut closed) = (Vec::new(), false);
    let mut buffer = [0_u8; 512];
    while !heard.contains(&b'\n') && heard.len() < LONGEST_BANNER {
        let left = until.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
        stream.set_read_timeout(Some(left))?;
        match stream.read(&mut buffer) {
            Ok(0) => {
                closed = true;
                break;
            }
            Ok(read) => heard.extend_from_slice(&buffer[..read]),
            Err(_) if !heard.is_empty() => break,
            Err(error) => return Err(error),
        }
    }
    let whole = closed || heard.contains(&b'\n');
    let line = heard.split(|byte| *byte == b'\n').next().unwrap_or_default();
    Ok((String::from_utf8_lossy(line).trim().to_owned(), whole))
}
