//! Loopback ports, given out without a race.

use std::fs::{File, OpenOptions};
use std::net::TcpListener;
use std::os::unix::fs::MetadataExt as _;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::fs::{FlockOperation, flock};

/// The ports that this program has been given. Their locks end with it.
static OURS: Mutex<Vec<File>> = Mutex::new(Vec::new());

/// A free loopback port that no other test is given for as long as this program runs.
///
/// It lies below those that the system gives to outgoing connections, and a lock of the kernel's keeps
/// test programs that run at the same time, in other checkouts too, from being given the same one.
pub(crate) fn free_port() -> u16 {
    static GIVEN: AtomicU32 = AtomicU32::new(0);
    let user = std::fs::metadata("/proc/self").map_or(0, |own| own.uid());
    let locks = std::env::temp_dir().join(format!("trapkey-test-ports-{user}"));
    std::fs::create_dir_all(&locks).unwrap();
    let begin = std::process::id().wrapping_mul(997);
    loop {
        let next = begin.wrapping_add(GIVEN.fetch_add(1, Ordering::SeqCst)) % 22_000;
        let port = 10_000 + u16::try_from(next).unwrap();
        let lock = locks.join(port.to_string());
        let lock = OpenOptions::new().write(true).create(true).truncate(false).open(lock).unwrap();
        let taken = flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err();
        if !taken && TcpListener::bind(("127.0.0.1", port)).is_ok() {
            OURS.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push(lock);
            return port;
        }
    }
}
