//! `postgres`: whether a database answers, how fast, and what it answers.

use std::time::{Duration, Instant};

use postgres::SimpleQueryMessage;
use schemars::JsonSchema;

use super::{Check, Kind, Observable, Order, Presumed, Sight, Trouble, no_open_names};
use crate::redact;
use crate::units::{Observed, Text, Unit, show_duration};
use crate::world::postgres::{self as server, Address, Unreachable};
use crate::yaml::Problem;

/// See `preflight explain postgres`.
pub(super) static KIND: Kind = Kind {
    name: "postgres",
    about: "Connects to PostgreSQL and asks a question.",
    target: "a connection URL, `postgres://user@host:5432/name?sslmode=require`, or `key=value` pairs",
    example: "\
- name: database answers
  kind: postgres
  target: ${DATABASE_URL}
  with: {query: \"SELECT count(*) FROM orders\"}
  expect: {latency: \"<= 100ms\", value: \"> 0\"}
",
    observes: &[
        Observable { name: "latency", unit: Unit::Duration, about: "from connecting to the last row" },
        Observable {
            name: "value",
            unit: Unit::Text,
            about: "the first column of the first row, as the text that psql shows",
        },
        Observable { name: "rows", unit: Unit::Plain, about: "how many rows came back" },
        Observable { name: "server_version", unit: Unit::Version, about: "the server's version, `16.4`" },
    ],
    presumes: &[Presumed { name: "rows", is: ">= 1", unless: &["value"] }],
    open_names: None,
    open_unit: no_open_names,
    settings: Settings::json_schema,
    prepare,
};

settings_with_a_connection! {
    struct Settings {
        /// The question; `SELECT 1` when absent.
        #[serde(default)]
        query: Option<Text>,
    }
}

struct Postgres {
    address: Address,
    query: String,
    server_version: bool,
}

fn prepare(order: &Order<'_>) -> Result<Box<dyn Check>, Problem> {
    let settings: Settings = order.settings()?;
    let target = order.target()?;
    let wrong = |why: String| {
        let shown = redact::redact(&target.shown);
        order.problem("target", format!("`{shown}` is not a connection URL: {why}")).help(server::HELP)
    };
    let own = order.trust(&settings.connection())?;
    let address = Address::read_trusting(&target.value, &own).map_err(wrong)?;
    let query = settings.query.map_or_else(|| "SELECT 1".to_owned(), |text| text.value);
    if query.trim().is_empty() {
        return Err(order.problem("with", "`query` is empty"));
    }
    Ok(Box::new(Postgres { address, query, server_version: order.asks("server_version") }))
}

impl Check for Postgres {
    fn look(&self, within: Duration) -> Result<Sight, Trouble> {
        let started = Instant::now();
        let mut client = self.address.connect(within).map_err(|error| match error {
            Unreachable::Here(_) => Trouble::broken(error.to_string()),
            Unreachable::There(error) => Trouble::failed(words(&error)),
            Unreachable::Nobody(_) => Trouble::failed(error.to_string()),
        })?;
        let left = within.saturating_sub(started.elapsed()).as_millis().max(1);
        // The server's limit is one for each statement; the time of the check is for all of them.
        let mut ask = |query: &str| {
            if started.elapsed() >= within {
                return Err(Trouble::failed(format!(
                    "no answer within {}",
                    show_duration(within.as_secs_f64())
                )));
            }
            client.simple_query(query).map_err(|error| Trouble::failed(words(&error)))
        };
        // A setting of its own statement, for poolers refuse it among the connection's options; and of its own
        // transaction, for behind a pooler the connection is the application's afterwards.
        ask(&format!("BEGIN; SET LOCAL statement_timeout = {left}"))?;
        let answer = ask(&self.query)?;
        ask("COMMIT")?;
        let latency = started.elapsed();
        let mut sight = sight(&answer)?.number("latency", latency.as_secs_f64(), Unit::Duration);
        if self.server_version {
            sight = with_version(sight, &ask("SHOW server_version")?)?;
        }
        Ok(sight)
    }
}

fn sight(answer: &[SimpleQueryMessage]) -> Result<Sight, Trouble> {
    let rows = answer.iter().filter(|message| matches!(message, SimpleQueryMessage::Row(_))).count();
    let sight = Sight::default().number("rows", rows as f64, Unit::Plain);
    Ok(match first(answer)? {
        Some(value) => sight.saw("value", observed(value)),
        None => sight.note("the answer has no value"),
    })
}

/// Debian adds its own words behind the number: `16.4 (Debian 16.4-1)`.
fn with_version(sight: Sight, answer: &[SimpleQueryMessage]) -> Result<Sight, Trouble> {
    let version = first(answer)?.and_then(|text| text.split_whitespace().next().map(str::to_owned));
    Ok(match version {
        Some(version) => sight.saw("server_version", Observed::Version(version)),
        None => sight,
    })
}

/// The first column of the first row; none where it is NULL or there is none, as with `SELECT` alone.
///
/// Errors: its bytes are no text.
fn first(answer: &[SimpleQueryMessage]) -> Result<Option<String>, Trouble> {
    let row = answer.iter().find_map(|message| match message {
        SimpleQueryMessage::Row(row) if !row.is_empty() => Some(row),
        _ => None,
    });
    let value = row.map(|row| row.try_get(0)).transpose();
    let value = value.map_err(|_| Trouble::failed("the database answers with bytes that are not UTF-8"))?;
    Ok(value.flatten().map(str::to_owned))
}

/// Of which type a value is the protocol does not say here: it is the text of it. These are no values of any.
fn observed(value: String) -> Observed {
    match value.as_str() {
        "NaN" | "Infinity" | "-Infinity" => Observed::Number(f64::NAN, Unit::Plain),
        _ => Observed::Text(value),
    }
}

/// What the server said, or else the chain of reasons.
fn words(error: &postgres::Error) -> String {
    if let Some(said) = error.as_db_error() {
        return format!("the database says: {} ({})", said.message(), said.code().code());
    }
    server::chain(error)
}
