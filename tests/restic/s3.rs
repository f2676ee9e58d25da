//! The repository in a bucket of a real S3 server, with the real restic on the same bucket.

use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use trapkey::repository::restic::{Backend, Cached, Kind, Name, S3};
use trapkey::world::s3::Access;

use super::*;
use crate::support::faults::{Fate, Faults};
use crate::support::s3::Bucket;

/// What lies before the repository in its bucket.
const PREFIX: &str = "team a/shop";

/// A source, and a repository in a bucket, reached through a proxy.
pub(super) struct Afar {
    pub(super) lab: Lab,
    pub(super) bucket: Bucket,
    pub(super) faults: Faults,
}

impl Afar {
    pub(super) fn new() -> Self {
        let (lab, bucket) = (Lab::new(), Bucket::new());
        let faults = Faults::start(bucket.port());
        Self { lab, bucket, faults }
    }

    pub(super) fn access(port: u16) -> Access {
        let variables = Bucket::variables(port);
        Access::read(|name| variables.iter().find(|(n, _)| *n == name).map(|(_, v)| v.clone())).unwrap()
    }

    /// The store without a cache.
    pub(super) fn plain(&self) -> S3 {
        let place = format!("{}/{PREFIX}", self.bucket.name);
        S3::new(&place, &Self::access(self.faults.port)).unwrap().enduring(Duration::from_secs(600))
    }

    pub(super) fn backend(&self) -> Arc<dyn Backend> {
        Arc::new(Cached::new(Arc::new(self.plain()), None))
    }

    pub(super) fn cached(&self, cache: &str) -> Arc<dyn Backend> {
        Arc::new(Cached::new(Arc::new(self.plain()), Some(self.lab.path(cache))))
    }

    pub(super) fn init(&self) -> Repository {
        Repository::init(self.backend(), &word(), Duration::ZERO).unwrap()
    }

    pub(super) fn open(&self) -> Repository {
        Repository::open(self.backend(), &word()).unwrap()
    }

    fn restic_command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("restic");
        let place = format!("s3:http://127.0.0.1:{}/{}/{PREFIX}", self.bucket.port(), self.bucket.name);
        command
            .args(["--no-cache", "-q", "-r", &place])
            .args(arguments)
            .env_clear()
            .env("PATH", "/usr/bin:/bin")
            .env("HOME", self.lab.folder.path())
            .env("RESTIC_PASSWORD", WORD)
            .envs(Bucket::variables(self.bucket.port()));
        command
    }

    /// Runs restic on the bucket, which must succeed.
    pub(super) fn restic(&self, arguments: &[&str]) -> String {
        let output = self.restic_command(arguments).output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "restic {arguments:?}: {stderr}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// A source that is soon done.
    pub(super) fn some(&self) {
        self.lab.write("src/a.txt", b"some text\n");
        self.lab.write("src/large.bin", &noise(1_500_000, 3));
        for i in 0..12 {
            self.lab.write(&format!("src/many/{i}/{i}.txt"), format!("file {i}").repeat(i).as_bytes());
        }
    }

    pub(super) fn src(&self) -> PathBuf {
        self.lab.path("src")
    }

    /// Restores into a folder and compares with the source as it is now.
    pub(super) fn restores(&self, repository: &Repository, id: Id, into: &str) {
        self.lab.restore(repository, id, into);
        let inside = self.src().strip_prefix("/").unwrap().to_path_buf();
        assert_eq!(picture(&self.lab.path(into).join(inside)), picture(&self.src()));
    }

    /// The keys below a folder of the repository.
    pub(super) fn stored(&self, folder: &str) -> Vec<String> {
        let beginning = format!("{PREFIX}/{folder}");
        self.bucket.keys().into_iter().filter(|key| key.starts_with(&beginning)).collect()
    }
}

pub(super) fn whole(repository: &Repository) {
    let health = check(repository);
    assert!(health.damaged.is_empty(), "{:?}", health.damaged);
}

#[test]
fn what_we_write_into_a_bucket_restic_reads_and_the_other_way_round() {
    let afar = Afar::new();
    afar.lab.corpus();
    let repository = afar.init();
    let first = afar.lab.backup(&repository);
    whole(&repository);
    afar.restores(&repository, first, "out");
    afar.restic(&["check", "--read-data"]);
    let out = afar.lab.path("theirs");
    afar.restic(&["restore", "latest", "--target", out.to_str().unwrap()]);
    let inside = afar.src().strip_prefix("/").unwrap().to_path_buf();
    assert_eq!(picture(&out.join(&inside)), picture(&afar.src()));
    // Theirs on top of ours: nothing new but the snapshot.
    afar.lab.write("src/new.bin", &noise(700_000, 9));
    afar.restic(&["backup", afar.src().to_str().unwrap()]);
    let theirs = afar.open().find("latest").unwrap();
    assert_ne!(theirs, first);
    afar.restores(&repository, theirs, "out2");
    repository.forget(&[first]).unwrap();
    let thrift = Thrift { max_unused: 0.0, join_small: true };
    assert!(!repository.prune(thrift, &mut |_, _| {}).unwrap().is_empty());
    afar.restic(&["check", "--read-data"]);
    afar.restic(&["forget", "--keep-last", "1", "--prune"]);
    whole(&afar.open());
    afar.restores(&afar.open(), theirs, "out3");
    assert!(afar.stored("locks/").is_empty(), "{:?}", afar.stored("locks/"));
}

#[test]
fn a_bucket_that_restic_made_is_gone_on_with() {
    let afar = Afar::new();
    afar.lab.corpus();
    afar.restic(&["init"]);
    afar.restic(&["backup", afar.src().to_str().unwrap()]);
    let repository = afar.open();
    whole(&repository);
    let theirs = repository.find("latest").unwrap();
    afar.restores(&repository, theirs, "out");
    let ours = afar.lab.sealed(&repository, Spec { parent: Some(theirs), ..afar.lab.spec() }).unwrap();
    ours.prove(&mut |_| {}).unwrap();
    let ours = ours.commit().unwrap();
    repository.forget(&[theirs]).unwrap();
    repository.prune(Thrift { max_unused: 0.0, join_small: true }, &mut |_, _| {}).unwrap();
    afar.restic(&["check", "--read-data"]);
    afar.restores(&repository, ours, "out2");
}

#[test]
fn restic_keeps_away_from_a_bucket_that_we_hold_and_we_while_it_does() {
    let afar = Afar::new();
    afar.lab.write("src/a", b"a");
    let repository = afar.init();
    let archive = repository.begin(afar.lab.spec()).unwrap();
    let output = afar.restic_command(&["prune"]).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && said.contains("already locked by PID"), "{said}");
    afar.restic(&["backup", afar.src().to_str().unwrap()]);
    let refused = afar.open().prune(Thrift::default(), &mut |_, _| {}).unwrap_err();
    assert!(refused.cause.unwrap().contains("held shared by process"));
    drop(archive);
    let mut command = afar.restic_command(&["backup", "--stdin"]);
    let mut child =
        command.stdin(std::process::Stdio::piped()).stdout(std::process::Stdio::null()).spawn().unwrap();
    crate::support::wait_until("restic's lock", || !repository.locks().unwrap().is_empty());
    assert!(repository.forget(&[]).unwrap_err().what.contains("locked"));
    // Its process may be on any machine, so only its age will tell.
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(repository.forget(&[]).unwrap_err().what.contains("locked"));
    assert_eq!((repository.unlock(false).unwrap(), repository.unlock(true).unwrap()), (0, 1));
    repository.forget(&[]).unwrap();
}

#[test]
fn lists_go_on_behind_a_thousand_and_pass_over_what_is_not_ours() {
    let afar = Afar::new();
    let store = afar.plain();
    let key = |inside: &str| format!("team%20a/shop/{inside}");
    let many = 1_050_u32;
    let ids: Vec<Id> = (0..many).map(|number| Id::of(&number.to_le_bytes())).collect();
    std::thread::scope(|scope| {
        for part in ids.chunks(150) {
            let (store, bucket) = (&store, &afar.bucket);
            scope.spawn(move || {
                for id in part {
                    bucket.put(&key(&format!("data/{}/{id}", &id.to_string()[..2])), b"12345");
                }
                drop(store.list(Kind::Index));
            });
        }
    });
    let id = ids[0].to_string();
    afar.bucket.put(&key(&format!("data/{id}")), b"in the wrong folder");
    afar.bucket.put(&key(&format!("data/zz/{id}")), b"in the wrong folder");
    afar.bucket.put(&key("index/notes.txt"), b"");
    afar.bucket.put(&key(&format!("index/{id}/more")), b"");
    let found = store.list(Kind::Pack).unwrap();
    assert_eq!(found.len(), many as usize);
    assert!(found.iter().all(|(_, length)| *length == 5));
    assert!(store.list(Kind::Index).unwrap().is_empty());
    assert_eq!(store.place(), format!("s3://{}/{PREFIX}", afar.bucket.name));
}

#[test]
fn files_of_any_length_are_written_once_and_read_in_parts() {
    let afar = Afar::new();
    let store = afar.plain();
    let large = noise(66 << 20, 5);
    let name = Name::File(Kind::Pack, Id::of(&large));
    assert_eq!(store.length(name).unwrap(), None);
    let (first, second) = large.split_at(1000);
    // It goes up in parts; the answer that ends it is lost, and the second part is damaged on its way.
    let (mut parts, mut ends) = (0, 0);
    afar.faults.now(move |line| {
        parts += u32::from(line.starts_with("PUT"));
        ends += u32::from(line.starts_with("POST"));
        match (line.starts_with("PUT"), line.starts_with("POST")) {
            (true, _) if parts == 2 => Fate::DamagedUp,
            (_, true) if ends == 2 => Fate::Lost,
            _ => Fate::Pass,
        }
    });
    store.put(name, &[first, second]).unwrap();
    assert!(afar.faults.take_seen().iter().filter(|request| *request == "PUT data").count() >= 4);
    afar.faults.now(|_| Fate::Pass);
    assert_eq!(store.length(name).unwrap(), Some(large.len() as u64));
    let mut read = Vec::new();
    store.read(name, 0, large.len(), &mut read).unwrap();
    assert!(read == large);
    store.read(name, 999, 2, &mut read).unwrap();
    assert_eq!(read, &large[999..1001]);
    for offset in [(66 << 20) - 1, 1 << 40] {
        let past = store.read(name, offset, 2, &mut read).unwrap_err();
        assert!(past.what.contains("shorter than expected"), "{past}");
    }
    assert!(store.read(name, u64::MAX, 2, &mut read).is_err());
    assert!(store.whole(name, 10).unwrap_err().what.contains("too long"));
    store.remove(name).unwrap();
    store.remove(name).unwrap();
    assert_eq!(store.length(name).unwrap(), None);
    let missing = store.read(name, 0, 1, &mut read).unwrap_err();
    assert!(missing.what.contains("missing"), "{missing}");
    assert!(store.whole(name, 10).unwrap_err().what.contains("missing"));
    // The same again changes nothing; another length under that name is damage.
    let name = Name::File(Kind::Index, Id::of(b"x"));
    store.put(name, &[b"x"]).unwrap();
    store.put(name, &[b"x"]).unwrap();
    let other = store.put(name, &[b"xy"]).unwrap_err();
    assert!(other.what.contains("damaged"), "{other}");
    assert_eq!(store.whole(name, 10).unwrap(), b"x");
}

#[test]
fn two_backups_at_once_and_a_prune_between_them_lose_nothing() {
    let afar = Afar::new();
    afar.some();
    let repository = afar.init();
    let old = afar.lab.backup(&repository);
    repository.forget(&[old]).unwrap();
    let thrift = Thrift { max_unused: 0.0, join_small: true };
    let together = Barrier::new(3);
    let made = std::thread::scope(|scope| {
        let backup = || {
            together.wait();
            let repository = afar.open();
            // A prune that was faster keeps us away.
            crate::support::wait_for("a backup beside a prune", || {
                std::thread::sleep(Duration::from_millis(50));
                let made = afar.lab.sealed(&repository, afar.lab.spec()).and_then(Sealed::commit);
                made.map_err(|fault| assert!(fault.what.contains("locked"), "{fault}")).ok()
            })
        };
        let both = [scope.spawn(backup), scope.spawn(backup)];
        together.wait();
        let (mut tries, mut pruned) = (0, 0);
        crate::support::wait_until("prunes beside backups", || {
            tries += 1;
            match afar.open().prune(thrift, &mut |_, _| {}) {
                Ok(_) => pruned += 1,
                Err(fault) => {
                    assert!(fault.what.contains("locked"), "{fault}");
                    std::thread::sleep(Duration::from_millis(30));
                }
            }
            tries >= 20 && pruned > 0
        });
        both.map(|one| one.join().unwrap())
    });
    whole(&afar.open());
    for id in made {
        afar.restores(&afar.open(), id, &format!("out-{}", id.short()));
    }
    afar.restic(&["check", "--read-data"]);
    assert!(afar.stored("locks/").is_empty());
}

/// A store whose locks have a short lease, that may lose its connection, and that counts who is at work
/// under an exclusive lock.
#[derive(Debug)]
struct Runner {
    inner: Arc<dyn Backend>,
    gone: AtomicBool,
    inside: Arc<AtomicU32>,
}

/// Whoever is starved for as long as that loses the lock, and rightly so.
const LEASE: Duration = Duration::from_secs(4);

impl Runner {
    fn new(afar: &Afar, inside: &Arc<AtomicU32>) -> Arc<Self> {
        Arc::new(Self { inner: afar.backend(), gone: AtomicBool::default(), inside: Arc::clone(inside) })
    }

    fn reach(&self) -> Result<(), Fault> {
        if self.gone.load(Ordering::SeqCst) {
            return Err(Fault::infrastructure("no route to the store"));
        }
        Ok(())
    }
}

impl Backend for Runner {
    fn place(&self) -> String {
        self.inner.place()
    }
    fn prepare(&self) -> Result<(), Fault> {
        self.inner.prepare()
    }
    fn list(&self, kind: Kind) -> Result<Vec<(Id, u64)>, Fault> {
        self.reach()?;
        self.inner.list(kind)
    }
    fn length(&self, name: Name) -> Result<Option<u64>, Fault> {
        self.reach()?;
        if name == Name::File(Kind::Snapshot, Id::of(b"none")) {
            assert_eq!(self.inside.fetch_add(1, Ordering::SeqCst), 0, "two have it alone");
            std::thread::sleep(Duration::from_millis(5));
            self.inside.fetch_sub(1, Ordering::SeqCst);
        }
        self.inner.length(name)
    }
    fn read(&self, name: Name, offset: u64, length: usize, into: &mut Vec<u8>) -> Result<(), Fault> {
        self.reach()?;
        self.inner.read(name, offset, length, into)
    }
    fn put(&self, name: Name, parts: &[&[u8]]) -> Result<(), Fault> {
        self.reach()?;
        self.inner.put(name, parts)
    }
    fn sweep(&self) -> Result<(), Fault> {
        self.inner.sweep()
    }
    fn remove(&self, name: Name) -> Result<(), Fault> {
        self.reach()?;
        self.inner.remove(name)
    }
    fn remote(&self) -> bool {
        true
    }
    fn lock_lease(&self) -> Duration {
        LEASE
    }
    /// A machine of its own: from no other can be told whether it lives.
    fn process(&self) -> String {
        "another-boot pid:[1] 7 8".into()
    }
}

#[test]
fn the_lock_of_a_runner_that_is_gone_ends_by_itself_and_it_never_comes_back_into_a_pruned_place() {
    let afar = Afar::new();
    afar.some();
    let repository = afar.init();
    let inside = Arc::default();
    let (lost, other) = (Runner::new(&afar, &inside), Runner::new(&afar, &inside));
    let runner = Repository::open(lost.clone(), &word()).unwrap();
    let sealed = afar.lab.sealed(&runner, afar.lab.spec()).unwrap();
    let other = Repository::open(other, &word()).unwrap();
    // It works and keeps others away, for longer than its lease: it writes its lock six times in each.
    afar.faults.take_seen();
    let mut renewed = 0;
    crate::support::wait_until("its lock to be renewed", || {
        renewed += afar.faults.take_seen().iter().filter(|request| *request == "PUT locks").count();
        renewed >= 7
    });
    assert!(other.forget(&[]).unwrap_err().what.contains("locked"));
    lost.gone.store(true, Ordering::SeqCst);
    std::thread::sleep(LEASE);
    let began = std::time::Instant::now();
    let pruning = other.prune(Thrift::default(), &mut |_, _| {}).unwrap();
    assert!(began.elapsed() >= LEASE && !pruning.remove.is_empty());
    lost.gone.store(false, Ordering::SeqCst);
    // All that it stored is gone, and it knows.
    let fault = sealed.commit().unwrap_err();
    assert_eq!(fault.what, "the lock of the repository was lost", "{fault}");
    assert!(repository.snapshots().unwrap().whole.is_empty());
    assert!(afar.stored("locks/").is_empty());
    afar.restic(&["check", "--read-data"]);
}

#[test]
fn of_many_runners_that_want_it_alone_never_two_have_it() {
    let afar = Afar::new();
    afar.init();
    let inside = Arc::default();
    let (together, came) = (Barrier::new(8), AtomicU32::new(0));
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                let repository = Repository::open(Runner::new(&afar, &inside), &word()).unwrap();
                together.wait();
                for _ in 0..3 {
                    let fault = repository.forget(&[Id::of(b"none")]).unwrap_err();
                    let alone = fault.what.contains("no snapshot");
                    assert!(alone || fault.what.contains("locked"), "{fault}");
                    came.fetch_add(u32::from(alone), Ordering::SeqCst);
                }
            });
        }
    });
    assert!(came.into_inner() > 0);
    assert!(afar.stored("locks/").is_empty());
}

#[test]
fn of_several_that_make_a_repository_at_once_at_most_one_does() {
    for _ in 0..5 {
        let afar = Afar::new();
        let together = Barrier::new(4);
        let made: Vec<_> = std::thread::scope(|scope| {
            let init = || {
                together.wait();
                Repository::init(afar.backend(), &word(), Duration::ZERO).ok()
            };
            let all = [0; 4].map(|_| scope.spawn(init));
            all.map(|one| one.join().unwrap()).into_iter().flatten().collect()
        });
        assert!(made.len() <= 1, "{}", made.len());
        let there = afar.stored("config").len();
        assert_eq!(there, made.len());
        if let Some(repository) = made.first() {
            afar.lab.write("src/a", b"a");
            afar.lab.backup(repository);
            afar.restic(&["check", "--read-data"]);
        }
    }
}
