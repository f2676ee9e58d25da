//! `redis`: everything in a Redis or Valkey server as an RDB file, streamed as to a replica.

use std::time::Duration;

use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::programs::Programs;
use super::{Context, Extra, Home, InDrill, Keep, Kind, Nature, Order, ReadBack, Source};
use crate::evidence::TableRecord;
use crate::fault::Fault;
use crate::redact::redact;
use crate::units::Text;
use crate::world::address::Address;
use crate::world::shell;
use crate::yaml::Problem;

mod rdb;

use rdb::Rdb;

pub(super) static KIND: Kind = Kind {
    name: "redis",
    about: "Everything in a Redis or Valkey server as one RDB file of one moment; its checksum is verified, and \
            `redis-check-rdb` reads it where it is installed.",
    target: "the server: `redis://user:password@host:6379`, `rediss://…` with TLS (`?ca=/path`), `unix:///path/to/socket`",
    example: "{name: queue, kind: redis, target: \"${REDIS_URL:-redis://cache:6379}\"}",
    settings: super::schema::<Settings>,
    prepare,
};

const DUMP: &[u8] = b"dump.rdb";

/// How long a server may take to answer the first time: one without TLS never answers to TLS.
const PATIENCE: Duration = Duration::from_secs(10);

const INSTALL: &str =
    "install the client program (redis-tools or valkey-tools), or name its folder in `with.bin`";

const HELP: &str = "write redis://user:password@host:6379, rediss://… for TLS with ?ca=/path/to/roots.pem, or \
                    unix:///run/redis/redis.sock; the password in it or in REDISCLI_AUTH";

/// Settings of `redis`.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "RedisSource")]
struct Settings {
    /// The folder of `redis-cli` and `redis-check-rdb` (or Valkey's); PATH when absent.
    #[serde(default)]
    bin: Option<Text>,
    /// Says that the target is one node of a cluster and only its part is wanted; name a source for each.
    #[serde(default)]
    cluster_node: bool,
}

struct Server {
    programs: Programs,
    address: Address,
    cluster_node: bool,
}

fn prepare(order: &Order<'_>) -> Result<Box<dyn Source>, Problem> {
    let settings: Settings = order.spec.with.read(&order.loaded.variables)?;
    let target = order.spec.target.as_ref().ok_or_else(|| order.problem("the key `target` is missing"))?;
    let target = target.one().map_err(|m| order.problem(m))?;
    let address = read(&target.value).map_err(|why| {
        let shown = redact(&target.shown);
        order.problem(format!("`{shown}` is not a server's URL: {why}")).help(HELP)
    })?;
    Ok(Box::new(Server {
        programs: Programs::of(order, settings.bin.as_ref().map(|bin| bin.value.as_str()), INSTALL),
        address,
        cluster_node: settings.cluster_node,
    }))
}

fn read(text: &str) -> Result<Address, String> {
    let address = Address::read(text, &["redis", "rediss", "valkey", "valkeys", "unix"])?;
    if let Some(unknown) = address.unknown_option(&["ca"]) {
        return Err(format!("the option `{unknown}` is not known"));
    }
    let path = &address.path;
    match address.scheme.as_str() {
        "unix" if path.is_empty() => Err("it names no socket".into()),
        "unix" => Ok(address),
        _ if address.host.is_none() => Err("it names no host".into()),
        // A number there means one database, and an RDB file has them all.
        _ if !path.is_empty() && path != "0" => {
            Err(format!("`/{path}` names one database, and the backup has all of them: leave it out"))
        }
        _ => Ok(address),
    }
}

impl Source for Server {
    fn back_up(&self, _: &Context<'_>, keep: &mut dyn Keep) -> Result<Extra, Fault> {
        let info = self.info()?;
        self.fit(&info)?;
        let order = self.order(&["--rdb", "-"]);
        let mut checksum = false;
        keep.file(DUMP, &mut |sink| {
            let mut rdb = Rdb::new(sink);
            self.programs.stream(&order, &mut rdb)?;
            checksum = rdb.finish().map_err(|why| {
                self.programs
                    .fault("the RDB file is cut or damaged")
                    .cause(why)
                    .help("nothing was kept; look at the server's log, and run it again")
            })?;
            Ok(())
        })?;
        let details = json!({
            "server_version": info.value("valkey_version").or_else(|| info.value("redis_version")),
            "role": info.value("role"),
            "checksum": checksum,
            "keys_when_it_began": info.keys(),
            "program": order.argv.first(),
        });
        Ok(Extra { tables: Vec::new(), details })
    }

    fn prove(&self, back: &dyn ReadBack) -> Result<Option<String>, Fault> {
        let mut nowhere = std::io::sink();
        let mut rdb = Rdb::new(&mut nowhere);
        back.read(DUMP, &mut rdb)?;
        let checksum =
            rdb.finish().map_err(|why| self.programs.fault("the RDB file reads back damaged").cause(why))?;
        let checked = if checksum { "its checksum is right" } else { "the server wrote no checksum" };
        let Some(program) = self.programs.installed(&["redis-check-rdb", "valkey-check-rdb"]) else {
            return Ok(Some(format!(
                "the RDB file is complete and {checked}; redis-check-rdb is not installed"
            )));
        };
        let order = self.programs.order(vec![program.display().to_string(), "/dev/stdin".into()], Vec::new());
        let ran = self.programs.feed_any(back, DUMP, &order)?;
        let said = String::from_utf8_lossy(&ran.stdout).into_owned();
        let keys =
            said.lines().find_map(|line| line.trim().strip_prefix("[info] ")?.strip_suffix(" keys read"));
        match keys {
            Some(keys) if ran.exit == Some(0) => {
                Ok(Some(format!("redis-check-rdb read {keys} keys back from the store, and {checked}")))
            }
            _ => {
                let words = said.lines().find(|l| l.contains("Unexpected") || l.contains("Can't handle"));
                Err(self
                    .programs
                    .fault(format!("redis-check-rdb does not take the file: {}", ran.how()))
                    .cause(words.map_or_else(|| ran.last_words(), redact))
                    .help("is it older than the server? Name the folder of the server's own programs in `with.bin`"))
            }
        }
    }

    fn nature(&self) -> Nature<'_> {
        Nature::Dump {
            home: Home::Nowhere,
            drill: InDrill::NotStarted("a drill starts no Redis or Valkey server"),
        }
    }

    fn restore_into(&self, _: &Text, _: bool, _: &dyn ReadBack, _: &[TableRecord]) -> Result<String, Fault> {
        Err(Fault::usage("an RDB file cannot be restored into a running server")
            .cause("a server reads it only when it starts")
            .help(
                "restore into a folder with `--to`; stop the server; put dump.rdb where `CONFIG GET dir` and `CONFIG \
                 GET dbfilename` said, owned by the server's user; with `appendonly yes` move appendonlydir away and \
                 start once with `--appendonly no`; start it, and compare `INFO keyspace`",
            ))
    }
}

impl Server {
    /// A call of redis-cli as data: the password is in the environment, never in the arguments.
    fn order(&self, call: &[&str]) -> shell::Order {
        let mut argv = vec![self.programs.find(&["redis-cli", "valkey-cli"]).display().to_string()];
        if self.address.scheme == "unix" {
            argv.extend(["-s".to_owned(), format!("/{}", self.address.path)]);
        } else {
            let host = self.address.host.clone().unwrap_or_default();
            let port = self.address.port.unwrap_or(6379).to_string();
            argv.extend(["-h".to_owned(), host, "-p".to_owned(), port]);
        }
        if matches!(self.address.scheme.as_str(), "rediss" | "valkeys") {
            argv.push("--tls".into());
            // Without it a certificate for another name would do.
            argv.extend(self.address.host.iter().flat_map(|host| ["--sni".to_owned(), host.clone()]));
            let roots = self.address.option("ca");
            argv.extend(roots.into_iter().flat_map(|file| ["--cacert".to_owned(), file.to_owned()]));
        }
        argv.extend(self.address.user.iter().flat_map(|user| ["--user".to_owned(), user.clone()]));
        argv.extend(call.iter().map(|word| (*word).to_owned()));
        let password = self.address.password.iter();
        let env = password
            .flat_map(|p| ["REDISCLI_AUTH", "VALKEYCLI_AUTH"].map(|name| (name.to_owned(), p.clone())));
        self.programs.order(argv, env.collect())
    }

    fn info(&self) -> Result<Info, Fault> {
        let mut order = self.order(&["INFO"]);
        order.timeout = order.timeout.min(PATIENCE);
        let ran = self.programs.run(&order)?;
        let info = Info(String::from_utf8_lossy(&ran.stdout).into_owned());
        if info.value("redis_version").is_some() {
            return Ok(info);
        }
        // redis-cli ends with 0 when the server refuses.
        Err(self
            .programs
            .fault("the server cannot be asked")
            .cause(ran.last_words())
            .help("do user and password fit, and may the user run INFO, SYNC, PSYNC and REPLCONF?"))
    }

    /// Refuses what would be a part or old.
    fn fit(&self, info: &Info) -> Result<(), Fault> {
        if info.value("cluster_enabled") == Some("1") && !self.cluster_node {
            return Err(self
                .programs
                .fault("the server is one node of a cluster and has only a part of the keys")
                .help("name a source for each master, with `cluster_node: true`"));
        }
        if info.value("role") == Some("slave") && info.value("master_link_status") != Some("up") {
            return Err(self
                .programs
                .fault("the server is a replica that has lost its master, so its data is old")
                .help("back up the master, or wait until the replica has caught up"));
        }
        Ok(())
    }
}

/// What INFO says.
struct Info(String);

impl Info {
    fn value(&self, name: &str) -> Option<&str> {
        self.pairs().find(|(known, _)| *known == name).map(|(_, value)| value)
    }

    /// Keys of each database that has any: `{"db0": 12}`.
    fn keys(&self) -> Value {
        let databases = self.pairs().filter(|(name, _)| {
            name.strip_prefix("db").is_some_and(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()))
        });
        let counted = databases.filter_map(|(name, value)| {
            let keys = value.split(',').find_map(|pair| pair.strip_prefix("keys="))?.parse::<u64>().ok()?;
            Some((name.to_owned(), json!(keys)))
        });
        Value::Object(counted.collect::<Map<_, _>>())
    }

    fn pairs(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.lines().filter_map(|line| line.trim().split_once(':'))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server(url: &str) -> Server {
        let programs = Programs {
            source: "queue".into(),
            shown: "${REDIS_URL}".into(),
            bin: Some("/nowhere".into()),
            folder: ".".into(),
            timeout: Duration::from_secs(1),
            install: INSTALL,
        };
        Server { programs, address: read(url).unwrap(), cluster_node: false }
    }

    #[test]
    fn the_password_is_in_the_environment_and_not_in_the_arguments() {
        let order = server("rediss://me:s3cr%27et%20x@cache.example?ca=/ca.pem").order(&["--rdb", "-"]);
        assert_eq!(
            order.argv[1..],
            [
                "-h",
                "cache.example",
                "-p",
                "6379",
                "--tls",
                "--sni",
                "cache.example",
                "--cacert",
                "/ca.pem",
                "--user",
                "me",
                "--rdb",
                "-"
            ]
        );
        assert!(order.env.contains(&("REDISCLI_AUTH".to_owned(), "s3cr'et x".to_owned())));
        assert_eq!(server("unix:///run/redis.sock").order(&[]).argv[1..], ["-s", "/run/redis.sock"]);
    }

    #[test]
    fn one_database_or_an_unknown_option_is_refused() {
        for (url, word) in [
            ("redis://h/3", "one database"),
            ("redis://h?db=1", "`db`"),
            ("redis://", "no host"),
            ("unix://", "no socket"),
        ] {
            let why = read(url).err().unwrap_or_default();
            assert!(why.contains(word), "{url}: {why}");
        }
        assert!(read("redis://h/0").is_ok());
    }

    #[test]
    fn a_part_of_a_cluster_and_a_lost_replica_are_refused() {
        let server = server("redis://h");
        let fits = |text: &str| server.fit(&Info(text.into())).map_err(|f| f.what);
        assert!(fits("cluster_enabled:1\r\n").unwrap_err().contains("cluster"));
        assert!(fits("role:slave\r\nmaster_link_status:down\r\n").unwrap_err().contains("replica"));
        assert_eq!(fits("role:slave\r\nmaster_link_status:up\r\ncluster_enabled:0\r\n"), Ok(()));
        let info = Info("db0:keys=3,expires=1\r\ndb12:keys=4,expires=0\r\ndbx:keys=1\r\n".into());
        assert_eq!(info.keys(), json!({"db0": 3, "db12": 4}));
    }
}
