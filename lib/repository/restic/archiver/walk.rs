//! Walks a source in the order of its names and says what is there; files that changed since the
//! parent go to the crew.

use std::collections::{HashMap, VecDeque};
use std::ffi::OsString;
use std::fs::{self, Metadata};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::SyncSender;
use std::time::Instant;

use super::ahead::{Look, Looked, Seen};
use super::crew::{Content, Crew, Identity, Job, Progress, interrupted};
use super::parent::Parent;
use crate::fault::Fault;
use crate::repository::restic::id::Id;
use crate::repository::restic::meta::{attributes_of, kind_of, node_of};
use crate::repository::restic::node::{Node, NodeKind};
use crate::repository::restic::people::People;
use crate::repository::restic::tree::MAX_DEPTH;
use crate::world::signal;

/// So many folders of each level are looked at before the walk comes to them.
const AHEAD: usize = 4;

/// Decides what is backed up; it may be asked more than once of the same. The path is below the source, and empty for the source itself; whatever
/// is in a folder that is left out is left out too.
pub trait Filter: Sync {
    /// Whether this is taken.
    fn takes(&self, inside: &Path, kind: NodeKind) -> Take;
}

/// What is done with an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Take {
    /// It is backed up.
    Yes,
    /// It is left out, with all that is in it.
    No,
    /// A folder is backed up if anything in it is; everything else as with `Yes`.
    IfUsed,
}

impl From<bool> for Take {
    fn from(yes: bool) -> Self {
        if yes { Self::Yes } else { Self::No }
    }
}

impl<T: Into<Take>, F: Fn(&Path, NodeKind) -> T + Sync> Filter for F {
    fn takes(&self, inside: &Path, kind: NodeKind) -> Take {
        self(inside, kind).into()
    }
}

/// What the walk says, in order.
pub(super) enum Event {
    /// A folder begins.
    Enter(Box<Entered>),
    /// The folder ends.
    Leave,
    /// Something that has no content.
    Leaf(Node),
    /// A file as in the parent.
    Same(Node, Content, PathBuf),
    /// A file that is being read.
    File(Node, Arc<Job>, PathBuf),
    /// Something that cannot be read.
    Unreadable(PathBuf, io::Error),
}

/// A folder that begins.
pub(super) struct Entered {
    pub(super) node: Node,
    /// The tree that the parent has there.
    pub(super) before: Option<Id>,
    /// Whether it is left out when nothing is in it.
    pub(super) if_used: bool,
}

/// How many files of which fate.
#[derive(Debug, Default)]
pub(super) struct Fates {
    pub(super) new: AtomicU64,
    pub(super) changed: AtomicU64,
    pub(super) same: AtomicU64,
    pub(super) sockets: AtomicU64,
}

pub(super) struct Walk<'a, 'c> {
    pub(super) crew: &'a Crew<'c>,
    pub(super) progress: &'a Progress,
    pub(super) events: SyncSender<Event>,
    pub(super) filter: &'a dyn Filter,
    pub(super) people: &'a People,
    pub(super) parent: &'a Parent,
    pub(super) fates: &'a Fates,
    /// Where the source is in the snapshot.
    pub(super) at: PathBuf,
    /// Files with several names, which are read once.
    pub(super) links: HashMap<(u64, u64), Arc<Job>>,
    /// When it is too late to go on.
    pub(super) until: Option<Instant>,
}

/// The builder is gone, because something failed there.
pub(super) struct Over;

struct Frame {
    path: PathBuf,
    inside: PathBuf,
    entries: std::vec::IntoIter<Seen>,
    before: Option<Vec<Node>>,
    /// Folders among the entries that are being looked at.
    ahead: VecDeque<(OsString, Arc<Look>)>,
    /// How many of the entries to come were considered for that.
    considered: usize,
}

impl Frame {
    /// What the parent has under a name.
    fn before(&self, name: &[u8]) -> Option<&Node> {
        let nodes = self.before.as_ref()?;
        let at = nodes.binary_search_by(|node| node.name.as_slice().cmp(name)).ok()?;
        nodes.get(at)
    }
}

impl Walk<'_, '_> {
    /// Walks it all. What goes wrong is told to the crew.
    pub(super) fn run(mut self, source: &Path, name: &[u8], meta: &Metadata, before: Option<&Node>) {
        let mut stack = Vec::new();
        let top = self.entry(source.to_path_buf(), PathBuf::new(), name, meta, before, None);
        let walked = top.and_then(|frame| {
            stack.extend(frame);
            while let Some(frame) = stack.last_mut() {
                match self.step(frame)? {
                    Step::Into(frame) => stack.push(frame),
                    Step::On => {}
                    Step::Out => drop(stack.pop()),
                }
                if stack.len() > MAX_DEPTH {
                    let deep = stack.pop().map(|frame| frame.path).unwrap_or_default();
                    self.crew.fail(too_deep(&deep));
                    return Err(Over);
                }
            }
            Ok(())
        });
        // Without the builder there is nobody to tell, and the builder has told the crew why.
        drop(walked);
    }

    fn step(&mut self, frame: &mut Frame) -> Result<Step, Over> {
        self.look_ahead(frame);
        let Some((name, meta)) = frame.entries.next() else {
            self.send(Event::Leave)?;
            return Ok(Step::Out);
        };
        if signal::stop_asked() {
            self.crew.fail(interrupted());
            return Err(Over);
        }
        if self.until.is_some_and(|until| Instant::now() > until) {
            self.crew.fail(too_late(&frame.path));
            return Err(Over);
        }
        frame.considered = frame.considered.saturating_sub(1);
        let is_next = frame.ahead.front().is_some_and(|(ahead, _)| *ahead == name);
        let look = if is_next { frame.ahead.pop_front().map(|(_, look)| look) } else { None };
        let (path, inside) = (frame.path.join(&name), frame.inside.join(&name));
        let meta = match meta {
            Ok(meta) => meta,
            Err(error) => {
                self.send(Event::Unreadable(path, error))?;
                return Ok(Step::On);
            }
        };
        let before = frame.before(name.as_bytes());
        let below = self.entry(path, inside, name.as_bytes(), &meta, before, look)?;
        Ok(below.map_or(Step::On, Step::Into))
    }

    /// Has the next folders looked at.
    fn look_ahead(&self, frame: &mut Frame) {
        while frame.ahead.len() < AHEAD
            && let Some((name, meta)) = frame.entries.as_slice().get(frame.considered)
        {
            frame.considered += 1;
            let inside = frame.inside.join(name);
            let is_folder = meta.as_ref().is_ok_and(Metadata::is_dir);
            if is_folder && self.filter.takes(&inside, NodeKind::Dir) != Take::No {
                let tree = frame.before(name.as_bytes()).and_then(|before| before.subtree);
                let look = Look::new(frame.path.join(name), tree);
                self.crew.look(Arc::clone(&look));
                frame.ahead.push_back((name.clone(), look));
            }
        }
    }

    /// One entry; returns what is below a folder.
    fn entry(
        &mut self,
        path: PathBuf,
        inside: PathBuf,
        name: &[u8],
        meta: &Metadata,
        before: Option<&Node>,
        look: Option<Arc<Look>>,
    ) -> Result<Option<Frame>, Over> {
        let Some(kind) = kind_of(meta) else {
            self.send(Event::Unreadable(path, io::Error::other("it is of an unknown kind")))?;
            return Ok(None);
        };
        let take = self.filter.takes(&inside, kind);
        if take == Take::No {
            return Ok(None);
        }
        if kind == NodeKind::Socket {
            // A socket without its server is nothing; restic leaves them out too.
            self.fates.sockets.fetch_add(1, Ordering::Relaxed);
            return Ok(None);
        }
        let mut node = node_of(name, kind, meta, self.people);
        let before = before.filter(|before| before.kind == kind);
        let settled = before.filter(|before| self.parent.is_settled(before));
        if let Err(error) = complete(&mut node, &path, settled) {
            self.send(Event::Unreadable(path, error))?;
            return Ok(None);
        }
        match kind {
            NodeKind::Dir => {
                let subtree = before.and_then(|before| before.subtree);
                let look = look.unwrap_or_else(|| Look::new(path.clone(), subtree));
                let entered = Entered { node, before: subtree, if_used: take == Take::IfUsed };
                self.enter(entered, path, inside, &look)
            }
            NodeKind::File => self.file(node, path, &inside, meta, before).map(|()| None),
            _ => self.send(Event::Leaf(node)).map(|()| None),
        }
    }

    fn enter(
        &mut self,
        entered: Entered,
        path: PathBuf,
        inside: PathBuf,
        look: &Look,
    ) -> Result<Option<Frame>, Over> {
        let Looked { entries, before } = look.take(self.parent);
        let entries = match entries {
            Ok(entries) => entries.into_iter(),
            Err(error) => {
                self.send(Event::Unreadable(path, error))?;
                return Ok(None);
            }
        };
        self.send(Event::Enter(Box::new(entered)))?;
        Ok(Some(Frame { path, inside, entries, before, ahead: VecDeque::new(), considered: 0 }))
    }

    fn file(
        &mut self,
        node: Node,
        path: PathBuf,
        inside: &Path,
        meta: &Metadata,
        before: Option<&Node>,
    ) -> Result<(), Over> {
        let shown = if inside.as_os_str().is_empty() { self.at.clone() } else { self.at.join(inside) };
        if let Some(content) = before.and_then(|before| self.parent.content(&node, before, &shown)) {
            self.fates.same.fetch_add(1, Ordering::Relaxed);
            self.progress.files.fetch_add(1, Ordering::Relaxed);
            self.progress.bytes.fetch_add(node.size, Ordering::Relaxed);
            return self.send(Event::Same(node, content, shown));
        }
        let fate = if before.is_some() { &self.fates.changed } else { &self.fates.new };
        fate.fetch_add(1, Ordering::Relaxed);
        let name = (meta.dev(), meta.ino());
        if meta.nlink() > 1
            && let Some(job) = self.links.get(&name)
        {
            // Changed since it was read under its first name: reading it again says so.
            let job = if job.saw(meta) { Arc::clone(job) } else { self.again(job, path) };
            return self.send(Event::File(node, job, shown));
        }
        let job = Job::file(path, Identity::of(meta));
        if meta.nlink() > 1 {
            self.links.insert(name, Arc::clone(&job));
        }
        self.crew.read(Arc::clone(&job));
        self.send(Event::File(node, job, shown))
    }

    fn again(&self, job: &Job, path: PathBuf) -> Arc<Job> {
        let job = job.again(path);
        self.crew.read(Arc::clone(&job));
        job
    }

    fn send(&self, event: Event) -> Result<(), Over> {
        self.events.send(event).map_err(|_| Over)
    }
}

enum Step {
    Into(Frame),
    On,
    Out,
}

/// Link target and attributes; taken from the parent where the inode did not change since.
fn complete(node: &mut Node, path: &Path, before: Option<&Node>) -> io::Result<()> {
    if let Some(before) =
        before.filter(|b| b.inode == node.inode && b.ctime == node.ctime && b.mtime == node.mtime)
    {
        node.linktarget.clone_from(&before.linktarget);
        node.attributes.clone_from(&before.attributes);
        return Ok(());
    }
    if node.kind == NodeKind::Symlink {
        node.linktarget = fs::read_link(path)?.as_os_str().as_bytes().to_vec();
    }
    node.attributes = attributes_of(path)?;
    Ok(())
}

fn too_late(path: &Path) -> Fault {
    Fault::infrastructure("the time for reading this is over")
        .place(path.display().to_string())
        .help("give it more time with `timeout`")
}

fn too_deep(path: &Path) -> Fault {
    Fault::infrastructure("folders lie too deep in each other")
        .place(path.display().to_string())
        .cause(format!("more than {MAX_DEPTH}"))
        .help("leave them out")
}
