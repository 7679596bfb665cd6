//! Depends on nothing: what a foreign process loads must not bring a second SQLite, a runtime or a key into it.
//!
//! A loadable extension that gives any program's own SQLite the file system `backstay`: a database named by a source is
//! read-only, as of a moment, and its pages come from the program `backstay`, which is started for each open database and
//! holds settings, keys and the way to the repository. Owns the file system and the pipe to that program. Errors
//! of the program are kept as text for the SQL function `backstay_error()`.
//!
//! A crash of either side ends the other's reading: the program ends when its pipe does, and a read without the program is
//! an I/O error of SQLite. Nothing is written, and no lock is taken.

mod abi;
mod client;
mod files;
mod words;

use abi::{Api, OK, OK_PERMANENTLY};
use std::ffi::{c_char, c_int, c_void};
use std::panic::catch_unwind;

/// What SQLite calls when the extension is loaded under any name.
///
/// # Safety
///
/// `api` is SQLite's table of functions, as its documentation says, and `db` an open connection.
#[unsafe(no_mangle)]
#[expect(unsafe_code, reason = "SQLite looks for this name")]
pub unsafe extern "C" fn sqlite3_extension_init(
    db: *mut c_void,
    _message: *mut *mut c_char,
    api: *const c_void,
) -> c_int {
    // SAFETY: the table lives as long as SQLite does.
    let api = unsafe { Api::of(api) };
    let installed = catch_unwind(|| files::install(api).and_then(|()| words::install(api, db)));
    match installed {
        Ok(Ok(())) => OK_PERMANENTLY,
        Ok(Err(code)) if code != OK => code,
        _ => abi::ERROR,
    }
}
