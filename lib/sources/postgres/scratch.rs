//! A PostgreSQL server that lives for one drill: on a free loopback port, with a password of chance.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::TcpListener;
use std::os::unix::fs::{DirBuilderExt, chown};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use std::{fs, io};

use ring::rand::{SecureRandom, SystemRandom};

use super::restore::Into;
use super::{Database, newest, tables};
use crate::evidence::TableRecord;
use crate::fault::Fault;
use crate::redact;
use crate::sources::{ReadBack, Rehearsed, Source, stop_if_asked};
use crate::units::Text;
use crate::world::background::Background;
use crate::world::files;
use crate::world::postgres::Address;
use crate::world::shell::Order;

/// How long the server may take until it answers.
const START: Duration = Duration::from_secs(60);
/// Another program may take the port before the server does.
const TRIES: usize = 3;
/// The superuser of the scratch server, and the database that one dump goes into.
const USER: &str = "trapkey_drill";
const DATABASE: &str = "restored";
/// Who runs the server where we are root, which it refuses: the first of these that there is.
const USERS: [&str; 2] = ["postgres", "nobody"];

const INSTALL: &str = "install the PostgreSQL server programs (postgresql) on the machine that drills; the server \
                       must be of the version of the dump, or newer";

/// Starts a server in `folder`, restores into it and compares.
pub(super) fn rehearse(
    source: &Database,
    folder: &Path,
    back: &dyn ReadBack,
    recorded: &[TableRecord],
) -> Result<Rehearsed, Fault> {
    let setup = Setup::make(source, folder)?;
    setup.init()?;
    let (server, port) = setup.start()?;
    let database = match (source.whole_server, source.address.database()) {
        (true, Some(own)) => own.to_owned(),
        _ => DATABASE.to_owned(),
    };
    let url = setup.url(port, &database);
    let admin = setup.address(port, "postgres")?;
    let scratch = Database {
        programs: source.programs.clone(),
        address: setup.address(port, &database)?,
        tables: Vec::new(),
        whole_server: source.whole_server,
        role_passwords: source.role_passwords,
        // A single database's dump has grants, but not the roles that they are for.
        restore_grants: source.whole_server,
    };
    let shown = format!("a scratch server on 127.0.0.1:{port}");
    if !source.whole_server {
        let mut client = admin.connect(Duration::from_secs(5)).map_err(|e| scratch.unreachable(&e))?;
        client
            .batch_execute(&format!("CREATE DATABASE {DATABASE}"))
            .map_err(|e| setup.fault("the scratch database cannot be made").cause(tables::why(&e)))?;
    }
    let address = if source.whole_server { admin } else { setup.address(port, &database)? };
    let into = Into { source: &scratch, address, shown, force: source.whole_server };
    // What differs is no error of the restore here: it is what the drill is to find.
    let said = if source.whole_server { into.whole(back, &[])? } else { into.one(back, &[])? };
    let said = said.split(';').next().unwrap_or_default().to_owned();
    let findings = scratch.compare(recorded);
    Ok(Rehearsed {
        url: Text { value: url, shown: "the scratch server's URL".into() },
        said,
        findings,
        server: Some(server),
    })
}

struct Setup<'a> {
    source: &'a Database,
    folder: &'a Path,
    programs: PathBuf,
    /// What stands before a command, so that it runs as somebody who may.
    before: Vec<String>,
    owner: Option<(u32, u32)>,
    password: String,
}

impl<'a> Setup<'a> {
    fn make(source: &'a Database, folder: &'a Path) -> Result<Self, Fault> {
        let own = source.programs.bin.clone().filter(|bin| bin.join("initdb").is_file());
        let programs = own
            .or_else(|| newest("initdb").parent().map(Path::to_path_buf))
            .filter(|bin| bin.join("initdb").is_file())
            .or_else(in_path)
            .ok_or_else(|| source.programs.fault("no PostgreSQL server is installed here").help(INSTALL))?;
        let mut setup = Self {
            source,
            folder,
            programs,
            before: Vec::new(),
            owner: None,
            password: password(&source.programs)?,
        };
        redact::learn(&setup.password);
        if rustix::process::geteuid().is_root() {
            let (name, owner) = USERS
                .iter()
                .find_map(|name| Some((name, (setup.id("-u", name)?, setup.id("-g", name)?))))
                .ok_or_else(|| {
                    setup
                        .fault("a PostgreSQL server does not run as root, and there is nobody else")
                        .help("make a user `postgres`, or run the drill as somebody else than root")
                })?;
            setup.owner = Some(owner);
            setup.before =
                ["setpriv", &format!("--reuid={name}"), &format!("--regid={}", owner.1), "--clear-groups"]
                    .map(str::to_owned)
                    .to_vec();
        }
        Ok(setup)
    }

    /// A number of a user, as `id` prints it.
    fn id(&self, what: &str, name: &str) -> Option<u32> {
        let order = Order::new(vec!["id".into(), what.into(), name.into()], self.folder);
        let ran = order.run().ok().filter(|ran| ran.exit == Some(0))?;
        String::from_utf8(ran.stdout).ok()?.trim().parse().ok()
    }

    fn data(&self) -> PathBuf {
        self.folder.join("data")
    }

    /// Makes the cluster; it belongs to whoever runs the server.
    fn init(&self) -> Result<(), Fault> {
        let word = self.folder.join("password");
        let made = files::write_atomic_with_mode(&word, self.password.as_bytes(), Some(0o600))
            .and_then(|()| fs::DirBuilder::new().mode(0o700).create(self.data()))
            .and_then(|()| match self.owner {
                None => Ok(()),
                Some((user, group)) => [self.folder, &word, &self.data()]
                    .into_iter()
                    .try_for_each(|path| chown(path, Some(user), Some(group))),
            });
        made.map_err(|e| files::unwritable(self.folder, &e))?;
        let mut argv = self.before.clone();
        argv.extend([
            self.programs.join("initdb").display().to_string(),
            "--no-sync".into(),
            "--auth=scram-sha-256".into(),
            format!("--username={USER}"),
            "--encoding=UTF8".into(),
            "--locale=C".into(),
            format!("--pwfile={}", word.display()),
            "-D".into(),
            self.data().display().to_string(),
        ]);
        let mut order = self.source.programs.order(argv, Vec::new());
        order.folder = self.folder.to_path_buf();
        let ran = order.run().map_err(|e| self.not_started(&e))?;
        stop_if_asked()?;
        if ran.exit == Some(0) {
            return Ok(());
        }
        Err(self.fault(format!("initdb failed: {}", ran.how())).cause(ran.last_words()).help(
            "whoever runs the server must be able to reach the scratch folder: name another with --scratch",
        ))
    }

    /// Starts it, and waits until it answers.
    fn start(&self) -> Result<(Background, u16), Fault> {
        let mut last = None;
        for _ in 0..TRIES {
            let port = free_port().map_err(|e| self.not_started(&e))?;
            let mut server = self.spawn(port).map_err(|e| self.not_started(&e))?;
            match self.answers(&mut server, port)? {
                None => return Ok((server, port)),
                Some(why) => last = Some(why),
            }
        }
        Err(self.fault("the scratch server did not start").cause(last.unwrap_or_default()).help(INSTALL))
    }

    fn spawn(&self, port: u16) -> io::Result<Background> {
        let mut argv = self.before.clone();
        // Where it can be had, the server ends with us, however we end.
        if argv.is_empty() && runs("setpriv", self.folder) {
            argv.push("setpriv".into());
        }
        if !argv.is_empty() {
            argv.push("--pdeathsig=QUIT".into());
        }
        argv.extend([
            self.programs.join("postgres").display().to_string(),
            "-D".into(),
            self.data().display().to_string(),
        ]);
        let settings = BTreeMap::from([
            ("listen_addresses", "127.0.0.1".to_owned()),
            ("port", port.to_string()),
            ("unix_socket_directories", String::new()),
            ("logging_collector", "off".into()),
        ]);
        for (name, value) in settings {
            argv.extend(["-c".into(), format!("{name}={value}")]);
        }
        // Not in `data`: the server minds what it did not make.
        Background::start(&argv, self.folder, &self.folder.join("server.log"))
    }

    /// None when it answers; why not when it has ended.
    fn answers(&self, server: &mut Background, port: u16) -> Result<Option<String>, Fault> {
        let until = Instant::now() + START;
        let address = self.address(port, "postgres")?;
        loop {
            stop_if_asked()?;
            let failed = match address.connect(Duration::from_secs(5)) {
                Ok(_) => return Ok(None),
                Err(error) => error.to_string(),
            };
            if let Some(how) = server.ended() {
                return Ok(Some(how));
            }
            if Instant::now() >= until {
                return Err(self.fault("the scratch server does not answer").cause(failed).help(INSTALL));
            }
            std::thread::sleep(Duration::from_millis(30));
        }
    }

    fn url(&self, port: u16, database: &str) -> String {
        let name = database.bytes().fold(String::new(), |mut name, byte| {
            if byte.is_ascii_alphanumeric() || b"-_.".contains(&byte) {
                name.push(char::from(byte));
            } else {
                // Writing into a string cannot fail.
                let _ = write!(name, "%{byte:02X}");
            }
            name
        });
        format!("postgres://{USER}:{}@127.0.0.1:{port}/{name}?sslmode=disable", self.password)
    }

    fn address(&self, port: u16, database: &str) -> Result<Address, Fault> {
        Address::read(&self.url(port, database))
            .map_err(|why| self.fault("the scratch server has no address").cause(why))
    }

    fn not_started(&self, error: &io::Error) -> Fault {
        self.fault("the scratch server cannot be started").cause(error).help(INSTALL)
    }

    fn fault(&self, what: impl std::fmt::Display) -> Fault {
        self.source.programs.fault(what).place(self.folder.display().to_string())
    }
}

/// The folder of `initdb`, where that is in PATH.
fn in_path() -> Option<PathBuf> {
    std::env::split_paths(&std::env::var_os("PATH")?).find(|folder| folder.join("initdb").is_file())
}

/// A port that was free a moment ago.
fn free_port() -> io::Result<u16> {
    TcpListener::bind(("127.0.0.1", 0))?.local_addr().map(|address| address.port())
}

/// Whether a program knows `--pdeathsig` and can be run.
fn runs(program: &str, folder: &Path) -> bool {
    let order = Order::new(vec![program.into(), "--pdeathsig=QUIT".into(), "true".into()], folder);
    order.run().is_ok_and(|ran| ran.exit == Some(0))
}

fn password(programs: &super::Programs) -> Result<String, Fault> {
    let mut bytes = [0_u8; 24];
    SystemRandom::new().fill(&mut bytes).map_err(|_| programs.fault("the system gives no random numbers"))?;
    Ok(crate::evidence::hex(&bytes))
}
