//! What else of HAProxy leads to the servers of a side: other backends, and other servers of the same one.

use super::super::ways::{Addresses, Ways};
use super::super::{OtherWay, Side};
use super::Haproxy;
use super::servers::Server;
use crate::fault::Fault;

impl Haproxy {
    /// Servers elsewhere with an address of one of ours. Those in maintenance lead nowhere. HAProxy shows no path of a
    /// socket, so servers behind sockets cannot be compared.
    pub(super) fn servers_elsewhere(&self) -> Result<Option<Vec<OtherWay>>, Fault> {
        let rows = self.socket.table("show servers state", &self.backend)?;
        let all: Vec<(String, Server)> =
            rows.iter().filter_map(|row| Some((row.get("be_name")?.clone(), Server::of(row)?))).collect();
        let named = |side: Side, backend: &str, name: &String| {
            backend == self.backend && self.names(side).contains(name)
        };
        let addresses = |side: Side| -> Vec<String> {
            let own = all.iter().filter(|(backend, server)| named(side, backend, &server.name));
            own.filter_map(|(_, server)| server.address.clone()).collect()
        };
        let (blue, green) = (addresses(Side::Blue), addresses(Side::Green));
        if blue.is_empty() {
            return Ok(None);
        }
        let (mut known, mut ways) = (Addresses::of(&blue, &green, 0), Ways::default());
        for (backend, server) in &all {
            let ours = [Side::Blue, Side::Green].iter().any(|side| named(*side, backend, &server.name));
            let Some(address) = server.address.as_ref().filter(|_| !ours && !server.in_maintenance()) else {
                continue;
            };
            if let Some(side) = known.side(address, 0) {
                ways.add(side, &format!("server `{}` of the backend `{backend}`", server.name), address);
            }
        }
        Ok(Some(ways.all()))
    }
}
