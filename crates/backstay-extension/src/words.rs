//! Why something could not be opened or read, as text that SQL can ask for.

use crate::abi::{Api, OK};
use std::ffi::{c_int, c_void};
use std::panic::catch_unwind;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

static LAST: Mutex<Option<String>> = Mutex::new(None);
static API: OnceLock<Api> = OnceLock::new();

fn last() -> MutexGuard<'static, Option<String>> {
    LAST.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Keeps the words. The terminal belongs to the program.
pub fn say(what: &str) {
    *last() = Some(what.to_owned());
}

/// `backstay_error()`: what was said last, or NULL.
pub fn install(api: Api, db: *mut c_void) -> Result<(), c_int> {
    let _ = API.set(api);
    match api.create_function(db, c"backstay_error", answer) {
        OK => Ok(()),
        code => Err(code),
    }
}

extern "C" fn answer(context: *mut c_void, _count: c_int, _values: *mut *mut c_void) {
    let _ = catch_unwind(|| {
        if let Some(api) = API.get() {
            api.result(context, last().as_deref());
        }
    });
}
