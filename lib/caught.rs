//! A fault of this program ends what it was doing, not the program: the gate that looks at ten things still
//! says what it saw of the other nine, and that the tenth broke.

use std::any::Any;
use std::cell::{Cell, RefCell};
use std::panic::{AssertUnwindSafe, PanicHookInfo, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, Once, PoisonError};

use crate::fault::Fault;

/// Whether a panic that nobody catches is printed as ever, or only noted: what it says may be anybody's text.
static SILENT: AtomicBool = AtomicBool::new(false);
/// The last one that was noted: a scope of threads says of its own no more than that there was one.
static NOTED: Mutex<Option<String>> = Mutex::new(None);

thread_local! {
    /// How many of [`caught`] this thread is in.
    static INSIDE: Cell<usize> = const { Cell::new(0) };
    /// Where the last panic of this thread was.
    static PLACE: RefCell<String> = const { RefCell::new(String::new()) };
}

/// Does some work, and gives what it gives, or where and how it broke, on one line and without secrets.
///
/// What the work has changed outside of itself stays as it was when it broke: the caller takes it for failed.
pub fn caught<T>(work: impl FnOnce() -> T) -> Result<T, String> {
    static LISTENS: Once = Once::new();
    LISTENS.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| note(panic, &*before)));
    });
    INSIDE.set(INSIDE.get() + 1);
    let done = catch_unwind(AssertUnwindSafe(work));
    INSIDE.set(INSIDE.get() - 1);
    done.map_err(|payload| line(&PLACE.take(), payload.as_ref()))
}

/// Notes the place of a panic that is caught; prints the others, as ever. What a panic says may be anybody's
/// text, so nothing of one that is caught goes to the log from here.
fn note(panic: &PanicHookInfo<'_>, otherwise: &(dyn Fn(&PanicHookInfo<'_>) + Sync + Send)) {
    let place = panic.location().map(|at| format!("{}:{}", short(at.file()), at.line())).unwrap_or_default();
    if INSIDE.get() > 0 {
        PLACE.set(place);
    } else if SILENT.load(Ordering::Relaxed) {
        let line = line(&place, panic.payload());
        *NOTED.lock().unwrap_or_else(PoisonError::into_inner) = Some(line);
    } else {
        otherwise(panic);
    }
}

/// `postgres-0.19.10/src/row.rs` of a path in somebody's home.
fn short(file: &str) -> &str {
    file.rsplit_once("/registry/src/")
        .and_then(|(_, rest)| rest.split_once('/'))
        .map_or(file, |(_, rest)| rest)
}

fn line(place: &str, payload: &(dyn Any + Send)) -> String {
    let said = payload.downcast_ref::<&str>().copied();
    let said = said.or_else(|| payload.downcast_ref::<String>().map(String::as_str)).unwrap_or_default();
    if said == "a scoped thread panicked"
        && let Some(noted) = NOTED.lock().unwrap_or_else(PoisonError::into_inner).take()
    {
        return noted;
    }
    // Half a secret would no longer be recognised as one: first out, then cut.
    let said = crate::redact::redact(said);
    let said: String = said.chars().map(|c| if c.is_control() { ' ' } else { c }).take(200).collect();
    format!("a fault of Trapkey itself at {place}: {said}")
}

/// From now on nothing is printed of a panic, wherever it is: who catches it tells it.
pub fn say_nothing() {
    SILENT.store(true, Ordering::Relaxed);
}

/// The error of a tool that broke.
pub fn broke(what: &str, why: &str) -> Fault {
    Fault::infrastructure(format!("{what} broke"))
        .cause(why)
        .help("this is no fault of the plan: please report this line; what was done before it stands")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_told_in_one_line_with_its_place_and_without_secrets() {
        crate::redact::learn("a-secret-in-a-panic");
        let told = |work: fn()| caught(work).unwrap_err();
        assert_eq!(caught(|| 3), Ok(3));
        let text = told(|| panic!("row {} a-secret-in-a-panic\n::error::x", 7));
        assert!(text.starts_with("a fault of Trapkey itself at lib/caught.rs:"), "{text}");
        assert!(text.ends_with(": row 7 *** ::error::x"), "{text}");
        assert!(told(|| std::panic::panic_any(5)).starts_with("a fault of Trapkey itself at lib/caught.rs:"));
        // One in the other: the inner one is told by the inner call.
        let inner = caught(|| caught(|| panic!("inner")).unwrap_err()).unwrap();
        assert!(inner.ends_with(": inner"), "{inner}");
        let home =
            "/home/me/.cargo/registry/src/index.crates.io-1949cf8c6b5b557f/postgres-0.19.10/src/row.rs";
        assert_eq!(short(home), "postgres-0.19.10/src/row.rs");
    }
}
