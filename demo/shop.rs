//! A small real web shop: it shows a catalogue and keeps orders in PostgreSQL.
//!
//! `GET /` shows the catalogue, `GET /health` asks the database, `POST /order` stores an order,
//! `GET /orders/count` counts them. Every answer names its version in `X-Release`. On TERM the shop
//! takes no new connections, finishes what is under way and asks its clients to close.

use std::io::{self, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use clap::Parser;
use postgres::{Client, NoTls};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

mod wire;
use wire::{Broken, Head, Wire};

/// How many connections are served at once; one more is told to come back later.
const MAX_CONNECTIONS: usize = 256;
/// How many connections to the database there are.
const POOL: usize = 4;
/// How often an idle connection looks whether the shop is closing.
const GLANCE: Duration = Duration::from_millis(100);
/// How long a closing shop still answers on connections that are open.
const FAREWELL: Duration = Duration::from_secs(1);
/// How long a client may take over one request.
const PATIENCE: Duration = Duration::from_secs(10);

/// A small web shop. The address of its database comes from DATABASE_URL.
#[derive(Debug, Parser)]
#[command(disable_version_flag = true)]
struct Options {
    /// The loopback port
    #[arg(long, env = "SHOP_PORT")]
    port: u16,
    /// The version that X-Release names
    #[arg(long, env = "SHOP_VERSION")]
    version: String,
    /// The share of requests, health apart, that is answered with 500
    #[arg(long, default_value = "0%", value_parser = trapkey::units::parse_share)]
    fail_share: f64,
    /// How long every request takes longer, health apart
    #[arg(long, default_value = "0s", value_parser = delay)]
    delay: Duration,
}

fn delay(text: &str) -> Result<Duration, String> {
    trapkey::units::parse_duration(text).map(Duration::from_secs_f64)
}

fn main() -> ExitCode {
    match run(&Options::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            // A closed stderr is nobody's fault.
            let _ = writeln!(io::stderr(), "error: {why}");
            ExitCode::FAILURE
        }
    }
}

fn run(options: &Options) -> Result<(), String> {
    let url = std::env::var("DATABASE_URL").map_err(|_| "DATABASE_URL is not set".to_owned())?;
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, options.port))
        .map_err(|e| format!("port {} cannot be opened: {e}", options.port))?;
    let address = listener.local_addr().map_err(|e| e.to_string())?;
    let shop = Arc::new(Shop {
        release: options.version.clone(),
        page: catalogue(&options.version),
        fail_share: options.fail_share,
        delay: options.delay,
        orders: Pool::new(&url)?,
        asked: AtomicU64::new(0),
        open: AtomicUsize::new(0),
        closing: AtomicBool::new(false),
    });
    close_on_signal(&shop, address)?;
    serve(&shop, &listener).map_err(|e| format!("no connection can be taken: {e}"))?;
    drop(listener);
    shop.finish();
    Ok(())
}

/// One version of the shop.
struct Shop {
    release: String,
    page: String,
    fail_share: f64,
    delay: Duration,
    orders: Pool,
    asked: AtomicU64,
    open: AtomicUsize,
    closing: AtomicBool,
}

/// What the shop says: a status, a type of content, a body.
type Said = (u16, &'static str, String);

impl Shop {
    fn is_closing(&self) -> bool {
        self.closing.load(Ordering::SeqCst)
    }

    fn answer(&self, head: &Head, body: &[u8]) -> Said {
        let path = head.path.split('?').next().unwrap_or_default();
        if path == "/health" {
            return self.health();
        }
        if !self.delay.is_zero() {
            std::thread::sleep(self.delay);
        }
        if self.must_fail() {
            return (500, "text/plain", "out of order\n".into());
        }
        match (head.method.as_str(), path) {
            ("GET" | "HEAD", "/") => (200, "text/html; charset=utf-8", self.page.clone()),
            ("POST", "/order") => self.order(body),
            ("GET", "/orders/count") => self.count(),
            (_, "/" | "/order" | "/orders/count") => (405, "text/plain", "not so\n".into()),
            _ => (404, "text/plain", "no such page\n".into()),
        }
    }

    /// Exactly the asked share fails, evenly spread: the number of failures after n requests is the
    /// whole part of n times the share.
    #[expect(clippy::float_cmp, reason = "whole numbers are compared")]
    fn must_fail(&self) -> bool {
        let n = self.asked.fetch_add(1, Ordering::SeqCst) as f64;
        // The small addend keeps 100 × 0.03 from becoming 2.999….
        let failures = |n: f64| (n * self.fail_share + 1e-9).floor();
        failures(n + 1.0) != failures(n)
    }

    fn health(&self) -> Said {
        match self.orders.with(|db| db.query_one("SELECT 1", &[])) {
            Ok(_) => (200, "application/json", "{\"status\":\"ok\",\"database\":\"ok\"}\n".into()),
            Err(_) => (503, "application/json", "{\"status\":\"ill\",\"database\":\"unreachable\"}\n".into()),
        }
    }

    fn order(&self, body: &[u8]) -> Said {
        let wanted: Option<(String, i64)> =
            serde_json::from_slice(body).ok().and_then(|order: serde_json::Value| {
                let item = order.get("item")?.as_str()?.to_owned();
                let total = order.get("total_cents")?.as_i64()?;
                (!item.is_empty() && item.len() <= 200 && total > 0).then_some((item, total))
            });
        let Some((item, total)) = wanted else {
            let help = "send {\"item\": \"…\", \"total_cents\": 1234}\n";
            return (400, "text/plain; charset=utf-8", help.into());
        };
        let stored = self.orders.with(|db| {
            db.query_one(
                "INSERT INTO orders (item, total_cents) VALUES ($1, $2) RETURNING id",
                &[&item, &total],
            )
        });
        match stored {
            Ok(row) => (201, "application/json", format!("{{\"id\":{}}}\n", row.get::<_, i64>(0))),
            Err(_) => (503, "text/plain", "the order could not be stored\n".into()),
        }
    }

    fn count(&self) -> Said {
        match self.orders.with(|db| db.query_one("SELECT count(*) FROM orders", &[])) {
            Ok(row) => (200, "application/json", format!("{{\"orders\":{}}}\n", row.get::<_, i64>(0))),
            Err(_) => (503, "text/plain", "the orders could not be counted\n".into()),
        }
    }

    /// Waits until the last connection is closed, within reason.
    fn finish(&self) {
        let until = Instant::now() + PATIENCE;
        while self.open.load(Ordering::SeqCst) > 0 && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

/// On TERM or INT: closes the shop and wakes the thread that waits for connections.
fn close_on_signal(shop: &Arc<Shop>, address: SocketAddr) -> Result<(), String> {
    let mut signals = Signals::new([SIGTERM, SIGINT]).map_err(|e| format!("signals cannot be heard: {e}"))?;
    let shop = Arc::clone(shop);
    std::thread::spawn(move || {
        if signals.forever().next().is_some() {
            shop.closing.store(true, Ordering::SeqCst);
            // Should this fail, the next customer wakes it.
            let _ = TcpStream::connect(address);
        }
    });
    Ok(())
}

/// Takes connections until the shop closes; then takes those that wait already, and no more.
fn serve(shop: &Arc<Shop>, listener: &TcpListener) -> io::Result<()> {
    loop {
        match listener.accept() {
            Ok((stream, _)) => welcome(shop, stream),
            Err(e) if wire::is_timeout(&e) && shop.is_closing() => return Ok(()),
            Err(e) if is_passing(&e) => std::thread::sleep(Duration::from_millis(2)),
            Err(e) => return Err(e),
        }
        if shop.is_closing() {
            listener.set_nonblocking(true)?;
        }
    }
}

/// Whether an error of `accept` belongs to that one connection or moment.
fn is_passing(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionReset, Interrupted, WouldBlock};
    matches!(error.kind(), ConnectionAborted | ConnectionReset | Interrupted | WouldBlock)
        // EMFILE, ENFILE: no descriptor is free just now.
        || matches!(error.raw_os_error(), Some(23 | 24))
}

fn welcome(shop: &Arc<Shop>, stream: TcpStream) {
    let busy = shop.open.fetch_add(1, Ordering::SeqCst) >= MAX_CONNECTIONS;
    let shop = Arc::clone(shop);
    std::thread::spawn(move || {
        // What breaks a connection is its client's to notice.
        let _ = converse(&shop, stream, busy);
        shop.open.fetch_sub(1, Ordering::SeqCst);
    });
}

fn converse(shop: &Shop, stream: TcpStream, busy: bool) -> io::Result<()> {
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(GLANCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let mut wire = Wire::new(stream, PATIENCE)?;
    if busy {
        return wire.send(&written(shop, &(503, "text/plain", "too many customers\n".into()), false, false));
    }
    let mut closing_since = None;
    loop {
        let (head, body) = match wire.request() {
            Ok(message) => message,
            Err(Broken::Closed) => return Ok(()),
            Err(Broken::Quiet) => {
                if shop.is_closing() && closing_since.get_or_insert_with(Instant::now).elapsed() >= FAREWELL {
                    return Ok(());
                }
                continue;
            }
            Err(Broken::Failed(e))
                if e.kind() == io::ErrorKind::InvalidData || e.kind() == io::ErrorKind::Other =>
            {
                return wire.send(&written(shop, &(400, "text/plain", format!("{e}\n")), false, false));
            }
            Err(Broken::Failed(e)) => return Err(e),
        };
        let said = shop.answer(&head, &body);
        let keep = head.keep_alive && !shop.is_closing();
        wire.send(&written(shop, &said, keep, head.method == "HEAD"))?;
        if !keep {
            return Ok(());
        }
    }
}

fn written(shop: &Shop, (status, kind, body): &Said, keep: bool, head_only: bool) -> Vec<u8> {
    let reason = match status {
        200 => "OK",
        201 => "Created",
        400 => "Bad Request",
        404 => "Not Found",
        405 => "Method Not Allowed",
        500 => "Internal Server Error",
        _ => "Service Unavailable",
    };
    let connection = if keep { "keep-alive" } else { "close" };
    let shown = if head_only { "" } else { body };
    format!(
        "HTTP/1.1 {status} {reason}\r\nX-Release: {}\r\nContent-Type: {kind}\r\nContent-Length: {}\r\n\
         Cache-Control: no-store\r\nConnection: {connection}\r\n\r\n{shown}",
        shop.release,
        body.len(),
    )
    .into_bytes()
}

/// A few connections to the database; one that broke is opened again when it is wanted.
struct Pool {
    config: postgres::Config,
    idle: Mutex<Vec<Option<Client>>>,
    returned: Condvar,
}

impl Pool {
    fn new(url: &str) -> Result<Self, String> {
        // The error of the parser does not repeat the URL with its password.
        let mut config: postgres::Config =
            url.parse().map_err(|_| "DATABASE_URL is not a PostgreSQL URL".to_owned())?;
        config.connect_timeout(Duration::from_secs(2));
        Ok(Self { config, idle: Mutex::new((0..POOL).map(|_| None).collect()), returned: Condvar::new() })
    }

    /// Lends a connection. A query that failed on a connection that broke meanwhile is not repeated:
    /// the caller alone knows whether it may be.
    fn with<T>(
        &self,
        work: impl FnOnce(&mut Client) -> Result<T, postgres::Error>,
    ) -> Result<T, postgres::Error> {
        let held = {
            let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
            loop {
                match idle.pop() {
                    Some(held) => break held,
                    None => idle = self.returned.wait(idle).unwrap_or_else(PoisonError::into_inner),
                }
            }
        };
        let client = held.filter(|client| !client.is_closed()).map_or_else(|| self.config.connect(NoTls), Ok);
        let (result, back) = match client {
            Ok(mut client) => {
                let result = work(&mut client);
                (result, Some(client))
            }
            Err(e) => (Err(e), None),
        };
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(back);
        self.returned.notify_one();
        result
    }
}

fn catalogue(version: &str) -> String {
    let items = [
        ("Brass key", 1450),
        ("Rim lock", 5900),
        ("Padlock", 2190),
        ("Signal lamp", 8800),
        ("Lever frame, small", 129_000),
        ("Enamel sign", 3400),
    ];
    let rows: Vec<String> = items
        .iter()
        .map(|(name, cents)| format!("<tr><td>{name}</td><td>{}.{:02}</td></tr>", cents / 100, cents % 100))
        .collect();
    let rows = rows.join("\n");
    format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>The key shop</title></head>\n\
         <body><h1>The key shop</h1>\n<table><tr><th>Item</th><th>Price</th></tr>\n{rows}\n</table>\n\
         <p>Version {version}</p></body></html>\n"
    )
}
