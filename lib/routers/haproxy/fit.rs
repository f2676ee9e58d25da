//! Whether a backend can be split at all: looked at before anything moves, and nothing is touched.

use super::super::servers::Cache;
use super::socket::{Row, parse_table};
use super::{Haproxy, Side};
use crate::fault::Fault;

/// The algorithms that give each server its weight's share of requests. HAProxy 2.6 calls `random` `unknown`.
const FAIR: [&str; 3] = ["roundrobin", "random", "unknown"];

impl Haproxy {
    fn unfit(&self, what: String, cause: String, help: impl Into<String>) -> Fault {
        Fault::usage(what).place(self.socket.shown()).cause(cause).help(help.into())
    }

    /// Whether this is the socket of a process that serves. That of the master process (`haproxy -S`) takes most
    /// commands for those of nobody, and hands on what begins with `@1`: to another process after each reload.
    pub(super) fn is_no_master(&self) -> Result<(), Fault> {
        let said = self.socket.ask_at_last("show proc")?;
        let master = said.lines().any(|line| line.split_whitespace().nth(1) == Some("master"));
        // The socket of a worker knows no such command.
        if !master {
            return Ok(());
        }
        Err(self.unfit(
            "this is the socket of HAProxy's master process".into(),
            "it steers no server: it only hands commands on to whichever worker there is".into(),
            "name the socket of the workers in `target`: `stats socket … level admin` in the section `global`",
        ))
    }

    /// Whether no cache of HAProxy answers in the place of both sides, as far as its counters show it.
    pub(super) fn no_cache_answers(&self) -> Result<(), Fault> {
        const FRONTENDS_AND_BACKENDS: u32 = 1 + 2;
        if self.cache == Cache::Allowed {
            return Ok(());
        }
        let reply = self.socket.ask(&format!("show stat -1 {FRONTENDS_AND_BACKENDS} -1"))?;
        let rows = parse_table(&reply, ',').unwrap_or_default();
        let is = |row: &Row, column: &str, value: &str| row.get(column).is_some_and(|own| own == value);
        let looked_up = |row: &&Row| row.get("cache_lookups").is_some_and(|n| !n.is_empty() && n != "0");
        let before_us = |row: &&Row| is(row, "svname", "FRONTEND") || is(row, "pxname", &self.backend);
        let Some(row) = rows.iter().filter(before_us).find(looked_up) else { return Ok(()) };
        let name = row.get("pxname").map_or("", String::as_str);
        let what = if is(row, "svname", "FRONTEND") { "frontend" } else { "backend" };
        Err(self.unfit(
            format!("a cache of HAProxy answers in front of both sides, in the {what} `{name}`"),
            "`http-request cache-use` gives users of one side what the other one said, and the cache's answers follow no weight".into(),
            "take `cache-use` off these requests; where the cache is about others alone, or of another service, say `cache: allowed` in `with`: then the split holds for what it does not answer",
        ))
    }

    /// Whether the socket may steer. Versions before 1.8 do not say; they show it at the first weight.
    pub(super) fn may_steer(&self) -> Result<(), Fault> {
        let said = self.socket.ask("show cli level")?;
        match said.trim() {
            level @ ("user" | "operator") => Err(self.unfit(
                "the socket of HAProxy may look, but not steer".into(),
                format!("its level is `{level}`"),
                "set it to `stats socket … level admin` in the section `global`",
            )),
            _ => Ok(()),
        }
    }

    /// Whether the balancing follows weights.
    pub(super) fn balances_by_weight(&self, backend: &Row) -> Result<(), Fault> {
        let algorithm = backend.get("algo").map_or("", String::as_str);
        // A socket that may not see it has not the rights to steer either; very old versions have no such column.
        if algorithm.is_empty() || FAIR.contains(&algorithm) {
            return Ok(());
        }
        let cause = match algorithm {
            "leastconn" => "it sends users where connections are few, whatever the weights are",
            "first" => "it fills one server before the next, whatever the weights are",
            "static-rr" => "its weights cannot be changed while it runs",
            _ => "it goes by something of the request, and its weights cannot be changed while it runs",
        };
        Err(self.unfit(
            format!("the backend `{}` balances by `{algorithm}`", self.backend),
            cause.into(),
            "use `balance roundrobin` (or `balance random`) in that backend",
        ))
    }

    /// Whether no table holds users where they are.
    pub(super) fn keeps_nobody(&self) -> Result<(), Fault> {
        let sticks = |table: &str, how: &str| {
            self.unfit(
                format!("the backend `{}` keeps users on their server by the table `{table}`", self.backend),
                how.to_owned(),
                "take the `stick` lines out of the backend for the split to be true, or split by user (`split: {by: user, …}`)",
            )
        };
        let tables = self.socket.ask("show table")?;
        let names = tables.lines().filter_map(|line| line.strip_prefix("# table: ")?.split(',').next());
        for table in
            names.filter(|name| name.chars().all(|c| c.is_ascii_alphanumeric() || "_-.:".contains(c)))
        {
            // Only a table that some `stick` rule writes has this column.
            let rows = self.socket.ask(&format!("show table {table} data.server_id gt 0"))?;
            if !rows.starts_with("# table:") {
                continue;
            }
            if table == self.backend {
                return Err(sticks(table, "a rule of its own writes down who uses which server"));
            }
            // The table of another backend: it is ours only where it names one of our servers.
            let ours = |name: &str| self.blue.iter().chain(&self.green).any(|n| n == name);
            let named = rows.split_whitespace().filter_map(|word| {
                word.strip_prefix("server_key=").or_else(|| word.strip_prefix("server_name="))
            });
            if let Some(name) = named.into_iter().find(|name| ours(name)) {
                return Err(sticks(table, &format!("it names the server `{name}`")));
            }
        }
        Ok(())
    }

    /// Whether no agent sets the weights of our servers.
    pub(super) fn no_agent_weighs(&self, rows: &[Row]) -> Result<(), Fault> {
        let said = |row: &Row, column: &str| row.get(column).cloned().unwrap_or_default();
        for name in self.blue.iter().chain(&self.green) {
            let Some(row) = rows.iter().find(|row| row.get("svname") == Some(name)) else { continue };
            let out = said(row, "status");
            let out = ["MAINT", "DRAIN", "DOWN"].iter().any(|word| out.starts_with(word));
            // `CHECKED` is the answer of an agent that says no state: a weight, then. A star before it says that it is
            // being asked once more.
            if said(row, "agent_status").trim_start_matches("* ") == "CHECKED" && !out {
                return Err(self.unfit(
                    format!("an agent sets the weight of `{name}` in `{}`", self.backend),
                    format!("its `agent-check` answers with a weight, now {}", said(row, "weight")),
                    "let the agent answer with `up`, `down`, `maint` or `drain` only, or take `agent-check` off these servers",
                ));
            }
        }
        Ok(())
    }

    /// Whether blue is in service at all.
    pub(super) fn blue_is_open(&self) -> Result<(), Fault> {
        let servers = self.states()?;
        if servers.iter().any(|s| self.names(Side::Blue).contains(&s.name) && s.admitted()) {
            return Ok(());
        }
        let ready: Vec<String> =
            self.blue.iter().map(|name| format!("set server {}/{name} state ready", self.backend)).collect();
        Err(Fault::refused("no server of blue is in service")
            .place(self.socket.shown())
            .cause(format!("{} is in maintenance or drained", self.blue.join(", ")))
            .help(format!(
                "where the release before ended with everything on green, change the names of the sides over; otherwise \
                 bring blue back into service, with the weight that it has: {}",
                self.socket.by_hand(&ready.join("; "))
            )))
    }
}
