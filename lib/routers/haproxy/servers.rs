//! A backend's servers as the runtime API tells them: weight, what people have set, what checks have found.
//!
//! Source of the numbers: HAProxy's management guide, `show servers state`; of the bits of `srv_admin_state`, its
//! `server-t.h`. Measured with 2.6: a server that the configuration calls `disabled` keeps the bit 0x04 when people
//! bring it into service, so that bit alone keeps nobody out.

use super::socket::Row;

/// People have put it into maintenance (0x01) or drain it (0x08).
const BY_PEOPLE: u32 = 0x01 | 0x08;
/// It follows another server that is (0x02, 0x10), or its name is not resolved (0x20, 0x40).
const BY_OTHERS: u32 = 0x02 | 0x10 | 0x20 | 0x40;
/// The configuration calls it `disabled`.
const DISABLED: u32 = 0x04;

/// A line of `show servers state`.
#[derive(Clone, Debug)]
pub(super) struct Server {
    pub(super) name: String,
    /// The number of its backend.
    pub(super) backend: String,
    pub(super) weight: u32,
    /// Its weight in the configuration; 0 where that calls it `disabled`.
    pub(super) configured: u32,
    /// Where it is, where that is an address.
    pub(super) address: Option<String>,
    admin: u32,
    state: State,
}

/// `srv_op_state`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Down,
    /// Its weight is still rising (`slowstart`).
    Warming,
    Up,
    /// Its check says that it wants no new users (`disable-on-404`).
    Leaving,
}

impl Server {
    pub(super) fn of(row: &Row) -> Option<Self> {
        let number = |column: &str| row.get(column)?.parse::<u32>().ok();
        let admin = number("srv_admin_state")?;
        let configured = number("srv_iweight").unwrap_or(0);
        Some(Self {
            name: row.get("srv_name")?.clone(),
            backend: row.get("be_id")?.clone(),
            weight: number("srv_uweight")?,
            configured: if admin & DISABLED == 0 { configured } else { 0 },
            address: address(row),
            admin,
            state: match row.get("srv_op_state")?.as_str() {
                "0" => State::Down,
                "1" => State::Warming,
                "3" => State::Leaving,
                _ => State::Up,
            },
        })
    }

    /// Neither in maintenance nor draining, as far as people decide it.
    pub(super) fn admitted(&self) -> bool {
        self.admin & BY_PEOPLE == 0
    }

    /// People, or we, have put it into maintenance.
    pub(super) fn in_maintenance(&self) -> bool {
        self.admin & 0x01 != 0
    }

    /// It is given users where it has a weight.
    pub(super) fn serving(&self) -> bool {
        self.admitted() && self.admin & BY_OTHERS == 0 && matches!(self.state, State::Up | State::Warming)
    }

    /// It serves, and its weight is still rising.
    pub(super) fn warming(&self) -> bool {
        self.serving() && self.state == State::Warming
    }

    /// Its weight as far as people let it count.
    pub(super) fn share_weight(&self) -> u32 {
        if self.admitted() { self.weight } else { 0 }
    }

    /// Why an admitted server is given no users.
    pub(super) fn why_not(&self) -> &'static str {
        match self.state {
            _ if self.admin & 0x60 != 0 => "its name is not resolved",
            _ if self.admin & 0x12 != 0 => "it follows a server that is out of service",
            State::Leaving => "its check says that it wants no new users",
            _ => "DOWN by HAProxy's own check",
        }
    }
}

/// `host:port` of a server; none of a socket, and of a name that is not resolved.
fn address(row: &Row) -> Option<String> {
    let (host, port) = (row.get("srv_addr")?, row.get("srv_port")?);
    if host == "-" {
        return None;
    }
    Some(if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") })
}

#[cfg(test)]
mod tests {
    use super::super::socket::parse_table;
    use super::*;

    #[test]
    fn reads_states_as_the_runtime_api_prints_them() {
        let reply = "1\n# be_id be_name srv_id srv_name srv_addr srv_op_state srv_admin_state srv_uweight srv_iweight\n\
                     3 shop 1 blue 127.0.0.1 2 0 95 100\n3 shop 2 green 127.0.0.1 0 1 5 0\n3 shop 3 dead 127.0.0.1 0 0 5 0\n\
                     3 shop 4 off 127.0.0.1 0 5 7 7\n3 shop 5 opened 127.0.0.1 2 4 7 7\n3 shop 6 slow 127.0.0.1 1 0 7 7\n\
                     3 shop 7 dns 127.0.0.1 0 32 7 7\n3 shop 8 leaves 127.0.0.1 3 0 7 7\n\n";
        let rows = parse_table(reply, ' ').unwrap_or_default();
        let servers: Vec<Server> = rows.iter().filter_map(Server::of).collect();
        let told: Vec<_> = servers
            .iter()
            .map(|s| (s.name.as_str(), s.share_weight(), s.serving(), s.warming(), s.configured))
            .collect();
        assert_eq!(
            told,
            [
                ("blue", 95, true, false, 100),
                ("green", 0, false, false, 0),
                ("dead", 5, false, false, 0),
                ("off", 0, false, false, 0),
                ("opened", 7, true, false, 0),
                ("slow", 7, true, true, 7),
                ("dns", 7, false, false, 7),
                ("leaves", 7, false, false, 7),
            ]
        );
        assert_eq!(servers[6].why_not(), "its name is not resolved");
    }
}
