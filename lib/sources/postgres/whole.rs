//! Every database of a PostgreSQL server, and what belongs to none of them: roles and tablespaces.

use serde::{Deserialize, Serialize};
use serde_json::json;

use super::Database;
use crate::fault::Fault;
use crate::sources::programs::Tail;
use crate::sources::{Extra, Keep, ReadBack};

/// Roles and tablespaces as SQL.
pub(super) const GLOBALS: &[u8] = b"globals.sql";
/// Which databases there are, and in which file each is.
const LIST: &[u8] = b"databases.json";
/// pg_dumpall writes this last.
const END: &[u8] = b"-- PostgreSQL database cluster dump complete";

/// A database and its dump.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Listed {
    /// Its name on the server.
    pub(super) database: String,
    /// The file of its dump.
    pub(super) file: String,
}

/// Dumps roles and tablespaces, then one database after the other.
pub(super) fn back_up(server: &Database, keep: &mut dyn Keep) -> Result<Extra, Fault> {
    let list = databases(server)?;
    let own = server.address.database().unwrap_or_default();
    if !server.tables.is_empty() && list.iter().all(|listed| listed.database != own) {
        return Err(server
            .programs
            .fault("`target` names none of the server's databases, and `with.tables` are in one of them")
            .help("name it in `target`: postgres://user@host:5432/DATABASE"));
    }
    globals(server, keep)?;
    let text = format!("{:#}\n", json!(list));
    keep.file(LIST, &mut |sink| {
        sink.write_all(text.as_bytes())
            .map_err(|e| server.programs.fault("the list of databases cannot be stored").cause(e))
    })?;
    let mut extra = Extra::default();
    let mut details = Vec::new();
    let mut version = String::new();
    for Listed { database, file } in &list {
        let specs = if database == own { server.tables.as_slice() } else { &[] };
        let dumped = server.dump(&server.address.with_database(database), file.as_bytes(), specs, keep)?;
        details.push(json!({ "database": database, "file": file, "lsn": dumped.lsn }));
        extra.tables.extend(dumped.tables);
        version = dumped.version;
    }
    let folder = &server.programs.source;
    extra.details = json!({
        "server_version": version,
        "databases": details,
        "role_passwords": server.role_passwords,
        "program": server.program("pg_dump"),
        "restore_into_a_server": format!(
            "psql --dbname=\"$DATABASE_URL\" --file={folder}/globals.sql; then for each database: \
             pg_restore --create --dbname=\"$DATABASE_URL\" {folder}/NAME.dump"
        ),
    });
    Ok(extra)
}

/// Reads every dump back.
pub(super) fn prove(server: &Database, back: &dyn ReadBack) -> Result<String, Fault> {
    let list = read_list(server, back)?;
    let own = server.address.database().unwrap_or_default();
    let mut entries = 0;
    for Listed { database, file } in &list {
        let specs = if database == own { server.tables.as_slice() } else { &[] };
        entries += server.prove_dump(back, file.as_bytes(), specs)?;
    }
    Ok(format!(
        "pg_restore read the dumps of {} databases back from the store: {entries} entries, and the roles are whole",
        list.len()
    ))
}

/// The databases of a snapshot.
pub(super) fn read_list(server: &Database, back: &dyn ReadBack) -> Result<Vec<Listed>, Fault> {
    let mut bytes = Vec::new();
    back.read(LIST, &mut bytes)?;
    serde_json::from_slice(&bytes)
        .map_err(|e| server.programs.fault("the snapshot's list of databases cannot be read").cause(e))
}

fn databases(server: &Database) -> Result<Vec<Listed>, Fault> {
    let failed = |e: ::postgres::Error| server.failed("the server's databases cannot be listed", &e);
    let mut client = server.connect(&server.address)?;
    let sql = "SELECT datname FROM pg_database WHERE datallowconn AND NOT datistemplate ORDER BY 1";
    let rows = client.query(sql, &[]).map_err(failed)?;
    let closed = "SELECT datname FROM pg_database WHERE NOT datallowconn AND NOT datistemplate ORDER BY 1";
    if let Some(row) = client.query(closed, &[]).map_err(failed)?.first() {
        let name: String = row.get(0);
        return Err(server
            .programs
            .fault(format!("the database `{name}` lets nobody connect, and so cannot be backed up"))
            .help(
                "ALTER DATABASE … ALLOW_CONNECTIONS true, or name each database that matters as a source of its own",
            ));
    }
    Ok(rows
        .iter()
        .map(|row| row.get::<_, String>(0))
        .map(|database| Listed { file: format!("{}.dump", file_name(&database)), database })
        .collect())
}

fn globals(server: &Database, keep: &mut dyn Keep) -> Result<(), Fault> {
    let mut argv = vec![
        server.program("pg_dumpall"),
        "--globals-only".into(),
        "--no-password".into(),
        format!("--dbname={}", server.address.without_password()),
    ];
    if !server.role_passwords {
        argv.push("--no-role-passwords".into());
    }
    let order = server.order(&server.address, argv);
    keep.file(GLOBALS, &mut |sink| {
        let mut tail = Tail::new(sink);
        server.programs.stream(&order, &mut tail).map_err(|fault| {
            let denied = fault.cause.as_ref().is_some_and(|cause| cause.contains("pg_authid"));
            if denied { fault.help("take a superuser, or say `role_passwords: false`") } else { fault }
        })?;
        if memchr::memmem::find(tail.last(), END).is_none() {
            return Err(server.programs.fault("the dump of the roles is cut").help("nothing was kept"));
        }
        Ok(())
    })
}

/// A database's name as a file's: what is not plain is written as `%2F`.
fn file_name(database: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-';
    database.bytes().map(|b| if plain(b) { char::from(b).to_string() } else { format!("%{b:02X}") }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_becomes_a_file_of_its_own() {
        for (database, file) in
            [("shop_1", "shop_1"), ("../x", "%2E%2E%2Fx"), ("a b%", "a%20b%25"), ("caf\u{e9}", "caf%C3%A9")]
        {
            assert_eq!(file_name(database), file);
        }
    }
}
