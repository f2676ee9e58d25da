//! A MySQL or MariaDB server and its client programs: where it is, and sessions that ask it questions.

use std::io;
use std::path::PathBuf;

use crate::fault::Fault;
use crate::redact::redact;
use crate::sources::programs::{Programs, unhex};
use crate::sources::stop_if_asked;
use crate::world::address::Address;
use crate::world::shell::Conversation;

/// How an address is written, for those who wrote it otherwise.
pub(super) const HELP: &str = "write mysql://user@host:3306/database, the password in it, in MYSQL_PWD or in \
                               `with.defaults_file`; options are ssl-mode (disabled, preferred, required, verify_ca, \
                               verify_identity), ssl-ca and socket";

const OPTIONS: &[&str] = &["ssl-mode", "ssl-ca", "socket"];

/// Whose client programs these are; their options differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Flavour {
    Mariadb,
    Mysql,
}

/// How far encryption goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Tls {
    Disabled,
    /// What the program does by itself.
    Preferred,
    Required,
    VerifyCa,
    VerifyIdentity,
}

/// A database and the programs that speak to it.
pub(super) struct Server {
    pub(super) address: Address,
    pub(super) programs: Programs,
    tls: Tls,
    defaults: Option<PathBuf>,
}

impl Server {
    /// Reads a URL.
    ///
    /// Errors: half a sentence without the password.
    pub(super) fn read(text: &str, defaults: Option<PathBuf>, programs: Programs) -> Result<Self, String> {
        let address = Address::read(text, &["mysql", "mariadb"])?;
        if address.path.is_empty() {
            return Err("it names no database".into());
        }
        if let Some(unknown) = address.unknown_option(OPTIONS) {
            return Err(format!("the option `{unknown}` is not known"));
        }
        let tls = match address.option("ssl-mode").map(str::to_ascii_lowercase).as_deref() {
            None | Some("preferred") => Tls::Preferred,
            Some("disabled") => Tls::Disabled,
            Some("required") => Tls::Required,
            Some("verify_ca") => Tls::VerifyCa,
            Some("verify_identity") => Tls::VerifyIdentity,
            Some(other) => return Err(format!("`ssl-mode={other}` is not known")),
        };
        Ok(Self { address, programs, tls, defaults })
    }

    /// The option file, for another server with the same user.
    pub(super) fn defaults(&self) -> Option<PathBuf> {
        self.defaults.clone()
    }

    /// The arguments that say where it is and who asks. The password is not among them.
    pub(super) fn arguments(&self, flavour: Flavour) -> Vec<String> {
        // Option files of the machine or the user may change what a dump holds: none is read unasked.
        let mut words = vec![match &self.defaults {
            Some(file) => format!("--defaults-file={}", file.display()),
            None => "--no-defaults".to_owned(),
        }];
        if let Some(socket) = self.address.option("socket") {
            words.extend(["--protocol=SOCKET".to_owned(), format!("--socket={socket}")]);
        } else if let Some(host) = &self.address.host {
            // `localhost` would mean the socket otherwise.
            words.extend(["--protocol=TCP".to_owned(), format!("--host={host}")]);
        }
        words.extend(self.address.port.map(|port| format!("--port={port}")));
        words.extend(self.address.user.as_ref().map(|user| format!("--user={user}")));
        words.extend(self.address.option("ssl-ca").map(|file| format!("--ssl-ca={file}")));
        let tls: &[&str] = match (flavour, self.tls) {
            (_, Tls::Preferred) => &[],
            (Flavour::Mariadb, Tls::Disabled) => &["--skip-ssl"],
            // Newer ones verify by themselves, which `required` does not ask for.
            (Flavour::Mariadb, Tls::Required) => &["--ssl", "--skip-ssl-verify-server-cert"],
            // MariaDB has no way to leave out the name.
            (Flavour::Mariadb, Tls::VerifyCa | Tls::VerifyIdentity) => &["--ssl", "--ssl-verify-server-cert"],
            (Flavour::Mysql, Tls::Disabled) => &["--ssl-mode=DISABLED"],
            (Flavour::Mysql, Tls::Required) => &["--ssl-mode=REQUIRED"],
            (Flavour::Mysql, Tls::VerifyCa) => &["--ssl-mode=VERIFY_CA"],
            (Flavour::Mysql, Tls::VerifyIdentity) => &["--ssl-mode=VERIFY_IDENTITY"],
        };
        words.extend(tls.iter().map(|word| (*word).to_owned()));
        words
    }

    /// The password for the environment of a program: there only this user and root can read it, who can
    /// read this process's own environment anyway, and no file has to be removed after a kill.
    pub(super) fn environment(&self) -> Vec<(String, String)> {
        self.address.password.iter().map(|p| ("MYSQL_PWD".to_owned(), p.clone())).collect()
    }

    /// The first of these programs that is there, and whose it is.
    pub(super) fn program(&self, names: &[&str]) -> Result<(String, Flavour), Fault> {
        // It would wait for a pipe as long as it may run.
        if let Some(file) = &self.defaults {
            crate::bounds::open(file).map_err(|error| {
                let cause = format!("{}: {error}", file.display());
                self.programs.fault("`with.defaults_file` cannot be read").cause(cause)
            })?;
        }
        let program = self.programs.find(names).display().to_string();
        let ran =
            self.programs.run(&self.programs.order(vec![program.clone(), "--version".into()], Vec::new()))?;
        let mariadb = String::from_utf8_lossy(&ran.stdout).contains("MariaDB");
        Ok((program, if mariadb { Flavour::Mariadb } else { Flavour::Mysql }))
    }

    /// A session in the database, in UTC, without strictness of its own, that is not ended for waiting.
    pub(super) fn session(&self) -> Result<Session, Fault> {
        let (program, flavour) = self.program(&["mariadb", "mysql"])?;
        let mut argv = vec![program];
        argv.extend(self.arguments(flavour));
        argv.extend(
            [
                "--batch",
                "--raw",
                "--unbuffered",
                "--connect-timeout=10",
                "--skip-column-names",
                "--default-character-set=utf8mb4",
                "--",
            ]
            .map(str::to_owned),
        );
        argv.push(self.address.path.clone());
        let order = self.programs.order(argv, self.environment());
        let talk = order.converse().map_err(|e| self.unanswered(&e))?;
        let mut session = Session { talk, asked: 0 };
        session
            .run(
                "SET SESSION sql_mode = '', time_zone = '+00:00', wait_timeout = 28800, net_write_timeout = 3600; \
                 /*M!100100 SET SESSION max_statement_time = 0 */; \
                 /*M!100300 SET SESSION idle_transaction_timeout = 0, idle_readonly_transaction_timeout = 0 */; \
                 /*!50708 SET SESSION max_execution_time = 0 */",
            )
            .map_err(|e| self.unanswered(&e))?;
        if matches!(self.tls, Tls::Required | Tls::VerifyCa | Tls::VerifyIdentity) {
            let lines =
                session.raw("SHOW SESSION STATUS LIKE 'Ssl_cipher'").map_err(|e| self.unanswered(&e))?;
            if !lines.iter().any(|line| line.split('\t').nth(1).is_some_and(|cipher| !cipher.is_empty())) {
                return Err(self
                    .programs
                    .fault("the connection is not encrypted, though `ssl-mode` asks for it"));
            }
        }
        Ok(session)
    }

    /// The error when it does not answer.
    pub(super) fn unanswered(&self, error: &io::Error) -> Fault {
        if let Err(stopped) = stop_if_asked() {
            return stopped;
        }
        self.programs
            .fault("the database cannot be reached or asked")
            .cause(redact(&error.to_string()))
            .help("does it run, and do address, user and password fit?")
    }
}

/// A client program that is asked one question after the other. The first error ends it.
pub(super) struct Session {
    talk: Conversation,
    asked: u64,
}

/// The columns of an answer.
pub(super) type Row = Vec<Option<String>>;

impl Session {
    /// Runs statements.
    pub(super) fn run(&mut self, sql: &str) -> io::Result<()> {
        self.raw(sql).map(drop)
    }

    /// The lines of an answer as the program prints them.
    pub(super) fn raw(&mut self, sql: &str) -> io::Result<Vec<String>> {
        self.asked += 1;
        let end = format!("trapkey-end-{}", self.asked);
        let lines = self.talk.ask(format!("{sql};\nSELECT '{end}';\n").as_bytes(), end.as_bytes())?;
        Ok(lines.iter().map(|line| String::from_utf8_lossy(line).into_owned()).collect())
    }

    /// One row of expressions.
    pub(super) fn row(&mut self, expressions: &[&str]) -> io::Result<Row> {
        self.row_from(expressions, "")
    }

    /// One row of expressions from a table.
    pub(super) fn row_from(&mut self, expressions: &[&str], from: &str) -> io::Result<Row> {
        let mut rows = self.rows(expressions, from)?;
        if rows.len() == 1 {
            Ok(rows.remove(0))
        } else {
            Err(io::Error::other("it did not answer with one row"))
        }
    }

    /// All rows of one expression, without NULL.
    pub(super) fn column(&mut self, expression: &str, from: &str) -> io::Result<Vec<String>> {
        Ok(self.rows(&[expression], from)?.into_iter().flatten().flatten().collect())
    }

    /// All rows of some expressions.
    pub(super) fn rows(&mut self, expressions: &[&str], from: &str) -> io::Result<Vec<Row>> {
        // In hexadecimal, so that no tab and no line end in a name can be taken for one of the answer.
        let columns: Vec<String> = expressions.iter().map(|e| format!("HEX(CAST({e} AS CHAR))")).collect();
        let lines = self.raw(&format!("SELECT {} {from}", columns.join(", ")))?;
        lines.iter().map(|line| line.split('\t').map(value).collect()).collect()
    }
}

fn value(text: &str) -> io::Result<Option<String>> {
    if text == "NULL" {
        return Ok(None);
    }
    let odd = || io::Error::other("it answered with something else than was asked");
    unhex(text).map(Some).ok_or_else(odd)
}

/// A name in SQL.
pub(super) fn quoted(name: &str) -> String {
    format!("`{}`", name.replace('`', "``"))
}

/// A text in SQL, whatever the server takes for an escape.
pub(super) fn text(value: &str) -> String {
    if value.is_empty() {
        return "''".into();
    }
    format!("_utf8mb4 0x{}", value.bytes().map(|b| format!("{b:02X}")).collect::<String>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_texts_cannot_break_out_of_their_quotes() {
        assert_eq!(quoted("or`ders"), "`or``ders`");
        assert_eq!(text("o'r\\"), "_utf8mb4 0x6F27725C");
        assert_eq!(text(""), "''");
    }
}
