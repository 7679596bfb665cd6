//! The file system `backstay`: a database is a moment of a source, and everything else is the machine's.
#![expect(unsafe_code, reason = "SQLite asks for pages through C function pointers and in no other way")]

use crate::abi::{
    Api, CANNOT_OPEN, ERROR, File, IMMUTABLE, IO_READ, IO_SHORT_READ, Methods, NOT_FOUND, OK, OPEN_MAIN_DB,
    OPEN_READ_ONLY, READ_ONLY, Vfs,
};
use crate::client::{Client, Wanted};
use crate::words::say;
use std::ffi::{CStr, c_char, c_int, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Mutex, OnceLock, PoisonError};

const NAME: &CStr = c"backstay";
/// Where the header of a database says how it is written and read: 1 is with a rollback journal.
const VERSIONS: std::ops::RangeInclusive<usize> = 18..=19;

/// What SQLite keeps for one open database.
#[repr(C)]
struct Ours {
    base: File,
    client: *mut Mutex<Client>,
}

static METHODS: Methods = Methods {
    version: 1,
    close,
    read,
    write,
    truncate,
    sync,
    size,
    lock: no_lock,
    unlock: no_lock,
    check_lock,
    control,
    sector,
    traits,
};

struct Installed {
    api: Api,
    usual: *mut Vfs,
}

// SAFETY: the machine's file system is registered for as long as SQLite lives, and its functions may be called from
// any thread.
unsafe impl Send for Installed {}
// SAFETY: as above.
unsafe impl Sync for Installed {}

static INSTALLED: OnceLock<Installed> = OnceLock::new();

/// Makes the file system known to this SQLite, once.
pub fn install(api: Api) -> Result<(), c_int> {
    if INSTALLED.get().is_some() {
        return Ok(());
    }
    if !api.is_known() {
        say("this SQLite is older than 3.31");
        return Err(ERROR);
    }
    let usual = api.usual_vfs();
    // SAFETY: SQLite gives its own, which stays, or null.
    let Some(machine) = (unsafe { usual.as_ref() }) else { return Err(ERROR) };
    let ours = c_int::try_from(size_of::<Ours>()).unwrap_or(c_int::MAX);
    let vfs = Vfs {
        version: 1,
        // A file that is handed on to the machine's must fit too.
        file_size: ours.max(machine.file_size),
        path_max: machine.path_max,
        next: std::ptr::null_mut(),
        name: NAME.as_ptr(),
        data: std::ptr::null_mut(),
        open: Some(open),
        delete: Some(delete),
        access: Some(access),
        full_path: Some(full_path),
        dl_open: machine.dl_open,
        dl_error: machine.dl_error,
        dl_sym: machine.dl_sym,
        dl_close: machine.dl_close,
        randomness: machine.randomness,
        sleep: machine.sleep,
        time: machine.time,
        last_error: None,
    };
    if INSTALLED.set(Installed { api, usual }).is_err() {
        return Ok(());
    }
    // Never freed: SQLite keeps it until the process ends.
    match api.register(Box::leak(Box::new(vfs))) {
        OK => Ok(()),
        code => Err(code),
    }
}

unsafe extern "C" fn open(
    _vfs: *mut Vfs,
    name: *const c_char,
    file: *mut File,
    flags: c_int,
    out_flags: *mut c_int,
) -> c_int {
    let opened = catch_unwind(|| {
        let Some(installed) = INSTALLED.get() else { return CANNOT_OPEN };
        if flags & OPEN_MAIN_DB == 0 || name.is_null() {
            // SAFETY: SQLite's own arguments, handed on; the room for the file is as large as the machine's needs.
            return unsafe {
                match (*installed.usual).open {
                    Some(open) => open(installed.usual, name, file, flags, out_flags),
                    None => CANNOT_OPEN,
                }
            };
        }
        // SAFETY: the methods must be null unless the file is open, and `file` has room for `Ours`.
        unsafe { (*file).methods = std::ptr::null() };
        // SAFETY: the name is SQLite's own.
        let wanted = unsafe { wanted(installed.api, name) };
        match Client::start(&wanted) {
            Err(why) => {
                say(&why);
                CANNOT_OPEN
            }
            Ok(client) => {
                let client = Box::into_raw(Box::new(Mutex::new(client)));
                // SAFETY: `file` has room for `Ours`, and the flags may be asked for.
                unsafe {
                    file.cast::<Ours>().write(Ours { base: File { methods: &METHODS }, client });
                    if !out_flags.is_null() {
                        *out_flags = (flags & !6) | OPEN_READ_ONLY;
                    }
                }
                OK
            }
        }
    });
    opened.unwrap_or(CANNOT_OPEN)
}

/// # Safety
///
/// `name` is one that SQLite handed to `open` for a main database.
unsafe fn wanted(api: Api, name: *const c_char) -> Wanted {
    // SAFETY: as the caller promises.
    let parameter = |key: &CStr| unsafe { api.parameter(name, key) }.filter(|value| !value.is_empty());
    // SAFETY: it ends with a zero.
    let source = unsafe { CStr::from_ptr(name) }.to_string_lossy().trim_start_matches('/').to_owned();
    Wanted {
        source,
        at: parameter(c"at"),
        tx: parameter(c"tx"),
        snapshot: parameter(c"snapshot"),
        point: parameter(c"point"),
        config: parameter(c"config"),
        program: parameter(c"program"),
    }
}

/// Runs what needs the program.
///
/// # Safety
///
/// `file` was opened by `open` and is not closed.
unsafe fn with(file: *mut File, work: impl FnOnce(&mut Client) -> c_int) -> c_int {
    // SAFETY: as the caller promises, the box is there until `close`.
    let client = unsafe { &*(*file.cast::<Ours>()).client };
    let worked = catch_unwind(AssertUnwindSafe(|| work(&mut client.lock().unwrap_or_else(PoisonError::into_inner))));
    worked.unwrap_or(IO_READ)
}

unsafe extern "C" fn close(file: *mut File) -> c_int {
    // SAFETY: SQLite closes a file once; the box was made in `open`.
    let client = unsafe { Box::from_raw((*file.cast::<Ours>()).client) };
    let _ = catch_unwind(AssertUnwindSafe(|| drop(client)));
    OK
}

unsafe extern "C" fn read(file: *mut File, into: *mut c_void, count: c_int, offset: i64) -> c_int {
    let (Ok(count), Ok(offset)) = (usize::try_from(count), u64::try_from(offset)) else { return IO_READ };
    // SAFETY: SQLite gives room for as many bytes as it asks for.
    let into = unsafe { std::slice::from_raw_parts_mut(into.cast::<u8>(), count) };
    // SAFETY: SQLite reads open files only.
    unsafe { with(file, |client| fill(client, offset, into)) }
}

fn fill(client: &mut Client, offset: u64, into: &mut [u8]) -> c_int {
    let size = u64::from(client.page_size);
    let mut done = 0;
    while done < into.len() {
        let at = offset + done as u64;
        let number = u32::try_from(at / size + 1).unwrap_or(u32::MAX);
        let (_, rest) = into.split_at_mut(done);
        if number > client.pages {
            // SQLite takes what is not there for zeros.
            rest.fill(0);
            return IO_SHORT_READ;
        }
        let within = (at % size) as usize;
        let take = rest.len().min(size as usize - within);
        let (part, _) = rest.split_at_mut(take);
        match client.page(number) {
            Err(why) => {
                say(&why);
                return IO_READ;
            }
            Ok(page) => part.copy_from_slice(page.get(within..within + take).unwrap_or_default()),
        }
        if number == 1 {
            // There is no log beside it: what it said is part of the pages already.
            let versions = VERSIONS.filter(|at| (within..within + take).contains(at));
            for at in versions {
                if let Some(byte) = part.get_mut(at - within) {
                    *byte = 1;
                }
            }
        }
        done += take;
    }
    OK
}

unsafe extern "C" fn size(file: *mut File, out: *mut i64) -> c_int {
    // SAFETY: SQLite asks open files only, and gives a place for the answer.
    unsafe {
        with(file, |client| {
            *out = i64::from(client.page_size) * i64::from(client.pages);
            OK
        })
    }
}

unsafe extern "C" fn write(_: *mut File, _: *const c_void, _: c_int, _: i64) -> c_int {
    READ_ONLY
}

unsafe extern "C" fn truncate(_: *mut File, _: i64) -> c_int {
    READ_ONLY
}

unsafe extern "C" fn sync(_: *mut File, _: c_int) -> c_int {
    OK
}

unsafe extern "C" fn no_lock(_: *mut File, _: c_int) -> c_int {
    OK
}

unsafe extern "C" fn check_lock(_: *mut File, out: *mut c_int) -> c_int {
    // SAFETY: SQLite gives a place for the answer.
    unsafe { *out = 0 };
    OK
}

unsafe extern "C" fn control(_: *mut File, _: c_int, _: *mut c_void) -> c_int {
    NOT_FOUND
}

unsafe extern "C" fn sector(_: *mut File) -> c_int {
    0
}

unsafe extern "C" fn traits(_: *mut File) -> c_int {
    IMMUTABLE
}

unsafe extern "C" fn delete(_: *mut Vfs, _: *const c_char, _: c_int) -> c_int {
    OK
}

unsafe extern "C" fn access(_: *mut Vfs, _: *const c_char, _: c_int, out: *mut c_int) -> c_int {
    // SAFETY: SQLite gives a place for the answer. Nothing lies beside a moment of the past.
    unsafe { *out = 0 };
    OK
}

/// The name of a source is no path, and stays as it is.
unsafe extern "C" fn full_path(_: *mut Vfs, name: *const c_char, room: c_int, out: *mut c_char) -> c_int {
    // SAFETY: SQLite gives a name that ends with a zero, and room for so many bytes.
    unsafe {
        let name = CStr::from_ptr(name).to_bytes_with_nul();
        if name.len() > usize::try_from(room).unwrap_or(0) {
            return CANNOT_OPEN;
        }
        std::ptr::copy_nonoverlapping(name.as_ptr().cast(), out, name.len());
    }
    OK
}
