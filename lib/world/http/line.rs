//! One connection with HTTP/1 on it: hyper speaks, and is driven by the thread that waits for the answer.
//!
//! There is no runtime: the socket never blocks, and between two rounds the thread waits for it with
//! `poll`, up to the request's time limit.

use std::convert::Infallible;
use std::future::Future;
use std::io::{self, ErrorKind, Read};
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Instant;

use hyper::body::{Body, Bytes, Frame, Incoming, SizeHint};
use hyper::client::conn::http1::{Builder, Connection, SendRequest};
use hyper::rt::ReadBufCursor;
use hyper::{Request, Response};
use rustix::event::PollFlags;

use super::stream::{Stream, wait};

/// An answer with more headers is none. curl takes 5,000; most servers send 20.
const MAX_HEADERS: usize = 2_000;
const CHUNK: usize = 16 * 1024;

/// One connection.
pub(super) struct Line {
    sender: SendRequest<Full>,
    /// None once it is over.
    connection: Option<Pin<Box<Connection<Io, Full>>>>,
    wire: Arc<Mutex<Wire>>,
}

/// Why there is no answer.
#[derive(Debug)]
pub(super) enum Broken {
    /// The time was up.
    Late,
    /// The connection ended. `untouched` where the server read or said nothing: the request may be sent
    /// again.
    Closed { why: String, unsent: bool, silent: bool },
}

impl Line {
    /// A connection over a stream.
    pub(super) fn new(stream: Box<dyn Stream>) -> Result<Self, String> {
        let wire = Arc::new(Mutex::new(Wire { stream, read: false, write: false, heard: 0 }));
        let mut builder = Builder::new();
        builder.max_headers(MAX_HEADERS).allow_obsolete_multiline_headers_in_responses(true);
        let handshake = pin!(builder.handshake(Io(Arc::clone(&wire))));
        // It puts the two ends together and never waits.
        match handshake.poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(Ok((sender, connection))) => {
                Ok(Self { sender, connection: Some(Box::pin(connection)), wire })
            }
            Poll::Ready(Err(error)) => Err(words(&error)),
            Poll::Pending => Err("no connection could be made".into()),
        }
    }

    /// Sends a request and waits for the head of its answer.
    pub(super) fn send(
        &mut self,
        request: Request<Full>,
        until: Instant,
    ) -> Result<Response<Incoming>, Broken> {
        let before = self.wire().heard;
        let mut asked = Box::pin(self.sender.try_send_request(request));
        match self.drive(asked.as_mut(), until)? {
            Ok(response) => Ok(response),
            Err(error) => {
                let unsent = error.message().is_some();
                let silent = self.wire().heard == before;
                Err(Broken::Closed { why: words(error.error()), unsent, silent })
            }
        }
    }

    /// The body of an answer, to be read up to a moment.
    pub(super) fn body(&mut self, incoming: Incoming, until: Instant) -> Reading<'_> {
        Reading { line: self, incoming, rest: Bytes::new(), until, ended: false }
    }

    /// Whether it can take another request. Looks at the socket without waiting.
    pub(super) fn is_free(&mut self) -> bool {
        let woken = Arc::new(Woken::default());
        let waker = Waker::from(Arc::clone(&woken));
        loop {
            let Some(connection) = &mut self.connection else { return false };
            if connection.as_mut().poll(&mut Context::from_waker(&waker)).is_ready() {
                self.connection = None;
            }
            if !woken.0.swap(false, Ordering::AcqRel) {
                return self.connection.is_some() && self.sender.is_ready();
            }
        }
    }

    fn wire(&self) -> MutexGuard<'_, Wire> {
        lock(&self.wire)
    }

    /// Goes on with the connection until something is there.
    fn drive<T>(
        &mut self,
        mut what: Pin<&mut (dyn Future<Output = T> + '_)>,
        until: Instant,
    ) -> Result<T, Broken> {
        let woken = Arc::new(Woken::default());
        let waker = Waker::from(Arc::clone(&woken));
        let mut context = Context::from_waker(&waker);
        loop {
            (self.wire().read, self.wire().write) = (false, false);
            if let Poll::Ready(there) = what.as_mut().poll(&mut context) {
                return Ok(there);
            }
            let Some(connection) = &mut self.connection else {
                let why = "the connection was closed".into();
                return Err(Broken::Closed { why, unsent: false, silent: false });
            };
            if connection.as_mut().poll(&mut context).is_ready() {
                // Whoever waits for something is told so in the next round.
                self.connection = None;
                continue;
            }
            // Also where there is always something to read, such as one interim answer after the other.
            if Instant::now() >= until {
                return Err(Broken::Late);
            }
            if woken.0.swap(false, Ordering::AcqRel) {
                continue;
            }
            let wire = self.wire();
            let mut flags = PollFlags::empty();
            flags.set(PollFlags::OUT, wire.write || wire.stream.wants_write());
            flags.set(PollFlags::IN, wire.read || flags.is_empty());
            match wait(wire.stream.fd(), flags, until) {
                Ok(()) => {}
                Err(error) if error.kind() == ErrorKind::TimedOut => return Err(Broken::Late),
                Err(error) => {
                    let why = error.to_string();
                    return Err(Broken::Closed { why, unsent: false, silent: false });
                }
            }
        }
    }
}

/// An error of hyper with all that is behind it, in one line.
pub(super) fn words(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(inner) = next {
        let more = inner.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        next = inner.source();
    }
    // hyper's own words before the reason.
    for own in ["operation was canceled: ", "connection error: "] {
        text = text.strip_prefix(own).map(str::to_owned).unwrap_or(text);
    }
    text
}

/// The body of an answer.
pub(super) struct Reading<'a> {
    line: &'a mut Line,
    incoming: Incoming,
    rest: Bytes,
    until: Instant,
    /// Whether its end was seen.
    pub(super) ended: bool,
}

impl Read for Reading<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.rest.is_empty() && !self.ended {
            let incoming = &mut self.incoming;
            let mut frame = Box::pin(std::future::poll_fn(|cx| Pin::new(&mut *incoming).poll_frame(cx)));
            match self.line.drive(frame.as_mut(), self.until) {
                Ok(None) => self.ended = true,
                Ok(Some(Ok(frame))) => self.rest = frame.into_data().unwrap_or_default(),
                Ok(Some(Err(error))) => return Err(io::Error::other(words(&error))),
                Err(Broken::Late) => return Err(ErrorKind::TimedOut.into()),
                Err(Broken::Closed { why, .. }) => return Err(io::Error::other(why)),
            }
        }
        let part = self.rest.split_to(self.rest.len().min(buffer.len()));
        buffer[..part.len()].copy_from_slice(&part);
        Ok(part.len())
    }
}

/// A request's body: all of it, or none.
#[derive(Debug)]
pub(super) struct Full(Option<Bytes>);

impl Full {
    pub(super) fn of(body: Option<&[u8]>) -> Self {
        Self(body.filter(|body| !body.is_empty()).map(Bytes::copy_from_slice))
    }
}

impl Body for Full {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Ready(self.0.take().map(|bytes| Ok(Frame::data(bytes))))
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.0.as_ref().map_or(0, |bytes| bytes.len() as u64))
    }
}

/// Whether somebody asked to be looked at again.
#[derive(Debug, Default)]
struct Woken(AtomicBool);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Release);
    }
}

/// The stream, what is waited for on it, and how much was heard from it.
struct Wire {
    stream: Box<dyn Stream>,
    read: bool,
    write: bool,
    heard: u64,
}

fn lock(wire: &Mutex<Wire>) -> MutexGuard<'_, Wire> {
    wire.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The stream as hyper takes it.
struct Io(Arc<Mutex<Wire>>);

impl hyper::rt::Read for Io {
    fn poll_read(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        mut buffer: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        let mut wire = lock(&self.0);
        let mut chunk = [0_u8; CHUNK];
        let room = buffer.remaining().min(CHUNK);
        loop {
            match wire.stream.read(&mut chunk[..room]) {
                Ok(read) => {
                    wire.heard += read as u64;
                    buffer.put_slice(&chunk[..read]);
                    return Poll::Ready(Ok(()));
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    wire.read = true;
                    return Poll::Pending;
                }
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }
}

impl hyper::rt::Write for Io {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let mut wire = lock(&self.0);
        loop {
            match wire.stream.write(bytes) {
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    wire.write = true;
                    return Poll::Pending;
                }
                other => return Poll::Ready(other),
            }
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut wire = lock(&self.0);
        loop {
            match wire.stream.flush() {
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    wire.write = true;
                    return Poll::Pending;
                }
                other => return Poll::Ready(other),
            }
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_flush(context)
    }
}
