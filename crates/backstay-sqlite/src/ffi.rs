//! The few calls SQLite offers only to C: its own file handle, the live wal-index, the snapshot of a
//! transaction.
//!
//! Owns all unsafe code of the crate. Every function borrows the connection for the whole call and
//! gives back plain values, so no pointer outlives what it points into.
#![expect(unsafe_code, reason = "SQLite's file handle, wal-index and snapshot exist only behind C pointers")]

use rusqlite::{Connection, ffi};
use std::ffi::{c_int, c_void};
use std::ptr;
use std::sync::atomic::{AtomicU32, Ordering, fence};

const MAIN: &std::ffi::CStr = c"main";
/// The size of one region of the wal-index, fixed by its format.
const INDEX_REGION: c_int = 32_768;
/// One copy of the wal-index header, in words.
pub(crate) const INDEX_HEADER_WORDS: usize = 12;
/// Where the number of frames copied back stands, behind both copies of the header.
const BACKFILL_WORD: usize = 2 * INDEX_HEADER_WORDS;

/// Where the marks of readers stand, the one of slot 0 first.
const MARKS_WORD: usize = BACKFILL_WORD + 1;
const SLOTS: usize = 5;
/// Which locks of the wal-index are that of writers, and that of slot 0.
const WRITERS_LOCK: c_int = 0;
const SLOT_0_LOCK: c_int = 3;

/// A result code that was not "ok".
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Code(pub c_int);

/// The wal-index of the moment: read `backfilled` before `header`, see the module `pin`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct LiveIndex {
    pub backfilled: u32,
    pub header: [u32; INDEX_HEADER_WORDS],
}

fn checked(code: c_int) -> Result<(), Code> {
    if code == ffi::SQLITE_OK { Ok(()) } else { Err(Code(code)) }
}

/// Runs `op` on the handle SQLite has of the main database file.
fn with_file<T>(
    conn: &Connection,
    op: impl FnOnce(*mut ffi::sqlite3_file, &ffi::sqlite3_io_methods) -> Result<T, Code>,
) -> Result<T, Code> {
    let mut file: *mut ffi::sqlite3_file = ptr::null_mut();
    // SAFETY: the connection is open for the whole call, and this control stores one pointer to the
    // file object of "main" into the place it is given.
    let code = unsafe {
        let out: *mut *mut ffi::sqlite3_file = &mut file;
        ffi::sqlite3_file_control(conn.handle(), MAIN.as_ptr(), ffi::SQLITE_FCNTL_FILE_POINTER, out.cast())
    };
    checked(code)?;
    // SAFETY: the file object lives as long as the connection, which is borrowed; a file that is not
    // open has null methods, and open ones point to a static table.
    let methods = unsafe { file.as_ref().and_then(|file| file.pMethods.as_ref()) };
    op(file, methods.ok_or(Code(ffi::SQLITE_MISUSE))?)
}

/// Reads the main database file through SQLite's handle. What lies past its end is zeros.
pub(crate) fn read_main(conn: &Connection, offset: u64, buf: &mut [u8]) -> Result<(), Code> {
    let offset = i64::try_from(offset).map_err(|_| Code(ffi::SQLITE_RANGE))?;
    let len = c_int::try_from(buf.len()).map_err(|_| Code(ffi::SQLITE_TOOBIG))?;
    with_file(conn, |file, methods| {
        let read = methods.xRead.ok_or(Code(ffi::SQLITE_MISUSE))?;
        // SAFETY: `file` is open, and `buf` has `len` writable bytes.
        match unsafe { read(file, buf.as_mut_ptr().cast(), len, offset) } {
            ffi::SQLITE_OK | ffi::SQLITE_IOERR_SHORT_READ => Ok(()),
            code => Err(Code(code)),
        }
    })
}

/// How long the main database file is on disk.
pub(crate) fn main_len(conn: &Connection) -> Result<u64, Code> {
    with_file(conn, |file, methods| {
        let size = methods.xFileSize.ok_or(Code(ffi::SQLITE_MISUSE))?;
        let mut len: ffi::sqlite3_int64 = 0;
        // SAFETY: `file` is open, and the length is stored into a local.
        checked(unsafe { size(file, &mut len) })?;
        u64::try_from(len).map_err(|_| Code(ffi::SQLITE_IOERR))
    })
}

fn control_int(conn: &Connection, op: c_int, mut value: c_int) -> Result<c_int, Code> {
    // SAFETY: the controls used with this function read and write one integer.
    let code = unsafe {
        let arg: *mut c_int = &mut value;
        ffi::sqlite3_file_control(conn.handle(), MAIN.as_ptr(), op, arg.cast::<c_void>())
    };
    checked(code).map(|()| value)
}

/// Whether the path SQLite opened now leads to another file, or to none.
pub(crate) fn has_moved(conn: &Connection) -> Result<bool, Code> {
    control_int(conn, ffi::SQLITE_FCNTL_HAS_MOVED, 0).map(|moved| moved != 0)
}

/// Says whether the last close of the database leaves its `-wal` where it is.
pub(crate) fn set_persist_wal(conn: &Connection, on: bool) -> Result<(), Code> {
    control_int(conn, ffi::SQLITE_FCNTL_PERSIST_WAL, c_int::from(on)).map(|_| ())
}

/// The wal-index header of the read transaction `conn` is in; `None` when the log is empty for it.
pub(crate) fn snapshot(conn: &Connection) -> Result<Option<[u32; INDEX_HEADER_WORDS]>, Code> {
    let mut found: *mut ffi::sqlite3_snapshot = ptr::null_mut();
    // SAFETY: the connection is open, and the result is stored into a local.
    let code = unsafe { ffi::sqlite3_snapshot_get(conn.handle(), MAIN.as_ptr(), &mut found) };
    match code {
        ffi::SQLITE_OK => {}
        // The documented answer for a log that has never been written.
        ffi::SQLITE_ERROR => return Ok(None),
        code => return Err(Code(code)),
    }
    // SAFETY: after "ok" the pointer leads to a snapshot of 48 bytes that is ours to free.
    let bytes = unsafe {
        let bytes = found.as_ref().map(|snapshot| snapshot.hidden);
        ffi::sqlite3_snapshot_free(found);
        bytes
    };
    let bytes = bytes.ok_or(Code(ffi::SQLITE_MISUSE))?;
    let mut words = [0; INDEX_HEADER_WORDS];
    for (word, bytes) in words.iter_mut().zip(bytes.as_chunks::<4>().0) {
        *word = u32::from_ne_bytes(*bytes);
    }
    Ok(Some(words))
}

/// The shared wal-index as it is now; `None` when SQLite has none to show.
pub(crate) fn live_index(conn: &Connection) -> Result<Option<LiveIndex>, Code> {
    with_file(conn, |file, methods| {
        let Some(map) = methods.xShmMap else { return Ok(None) };
        let mut region: *mut c_void = ptr::null_mut();
        // SAFETY: `file` is open and its transaction has mapped region 0 already; nothing is extended.
        let code = unsafe { map(file, 0, INDEX_REGION, 0, &mut region) };
        let usable = matches!(code, ffi::SQLITE_OK | ffi::SQLITE_READONLY);
        if !usable || region.is_null() {
            return Ok(None);
        }
        let word = |at: usize| {
            // SAFETY: the region is 32 KiB of shared memory, aligned to a page, mapped from the connection's
            // first transaction until it is closed, and `at` is below 30; other processes write it, which
            // is why it is read atomically.
            unsafe { AtomicU32::from_ptr(region.cast::<u32>().add(at)) }.load(Ordering::Acquire)
        };
        let backfilled = word(BACKFILL_WORD);
        fence(Ordering::SeqCst);
        Ok(Some(LiveIndex { backfilled, header: std::array::from_fn(word) }))
    })
}

/// The mark of a reader's slot, 1 to 4; `None` when SQLite has no wal-index to show.
pub(crate) fn reader_mark(conn: &Connection, slot: usize) -> Result<Option<u32>, Code> {
    with_file(conn, |file, methods| {
        let Some(map) = methods.xShmMap.filter(|_| slot < SLOTS) else { return Ok(None) };
        let mut region: *mut c_void = ptr::null_mut();
        // SAFETY: as in `live_index`.
        let code = unsafe { map(file, 0, INDEX_REGION, 0, &mut region) };
        let usable = matches!(code, ffi::SQLITE_OK | ffi::SQLITE_READONLY) && !region.is_null();
        // SAFETY: as in `live_index`; `slot` is below 5.
        let mark = || unsafe { AtomicU32::from_ptr(region.cast::<u32>().add(MARKS_WORD + slot)) };
        Ok(usable.then(|| mark().load(Ordering::Acquire)))
    })
}

/// What is done with the lock of a reader's slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SlotLock {
    Share,
    GiveBack,
    /// As whoever begins the log anew takes it.
    #[cfg(test)]
    Own,
    #[cfg(test)]
    Disown,
}

/// Locks the slot of a reader, 1 to 4, or gives the lock back. Only through a connection that reads nothing meanwhile.
/// Says whether that was done.
pub(crate) fn lock_slot(conn: &Connection, slot: usize, how: SlotLock) -> Result<bool, Code> {
    let flags = match how {
        SlotLock::Share => ffi::SQLITE_SHM_LOCK | ffi::SQLITE_SHM_SHARED,
        SlotLock::GiveBack => ffi::SQLITE_SHM_UNLOCK | ffi::SQLITE_SHM_SHARED,
        #[cfg(test)]
        SlotLock::Own => ffi::SQLITE_SHM_LOCK | ffi::SQLITE_SHM_EXCLUSIVE,
        #[cfg(test)]
        SlotLock::Disown => ffi::SQLITE_SHM_UNLOCK | ffi::SQLITE_SHM_EXCLUSIVE,
    };
    let offset = c_int::try_from(slot).map_err(|_| Code(ffi::SQLITE_RANGE))? + SLOT_0_LOCK;
    lock_index(conn, offset, flags)
}

/// Takes the lock of writers alone, without a transaction, or gives it back. Only through a connection that does nothing
/// else meanwhile. Says whether that was done.
pub(crate) fn lock_writers(conn: &Connection, takes: bool) -> Result<bool, Code> {
    let how = if takes { ffi::SQLITE_SHM_LOCK } else { ffi::SQLITE_SHM_UNLOCK };
    lock_index(conn, WRITERS_LOCK, how | ffi::SQLITE_SHM_EXCLUSIVE)
}

fn lock_index(conn: &Connection, offset: c_int, flags: c_int) -> Result<bool, Code> {
    with_file(conn, |file, methods| {
        let lock = methods.xShmLock.ok_or(Code(ffi::SQLITE_MISUSE))?;
        // SAFETY: `file` is open, and one lock from 0 to 7 is asked for; without a wal-index SQLite refuses it.
        match unsafe { lock(file, offset, 1, flags) } {
            ffi::SQLITE_BUSY => Ok(false),
            code => checked(code).map(|()| true),
        }
    })
}

/// Gives up the memory that a new connection sets aside for many statements: two thousand of them are open where a
/// thousand databases are followed. One that uses some of it already keeps it.
pub(crate) fn keep_small(conn: &Connection) {
    let none: *mut c_void = ptr::null_mut();
    let zero: c_int = 0;
    // SAFETY: the option takes a pointer and two ints; with none and zeros SQLite is given no memory of ours.
    let _ = unsafe { ffi::sqlite3_db_config(conn.handle(), ffi::SQLITE_DBCONFIG_LOOKASIDE, none, zero, zero) };
}

#[cfg(target_env = "gnu")]
unsafe extern "C" {
    fn malloc_trim(pad: usize) -> c_int;
}

/// Gives back to the system what closed connections left in small pieces. Elsewhere than in GNU's C library it is left to
/// the allocator.
pub(crate) fn give_back_memory() {
    // SAFETY: it may be called at any time from any thread, and only gives back pages that nobody uses.
    #[cfg(target_env = "gnu")]
    let _ = unsafe { malloc_trim(0) };
}

/// Whether SQLite was compiled with the option.
pub(crate) fn compiled_with(option: &std::ffi::CStr) -> bool {
    // SAFETY: the option is a string that ends in a zero.
    unsafe { ffi::sqlite3_compileoption_used(option.as_ptr()) != 0 }
}

/// Clones, by the file system and in an instant, the file that this process already has open and that
/// `wanted` recognises. Borrows the descriptor it finds: one of our own would drop locks when closed.
pub(crate) fn clone_open_file(wanted: impl Fn(&std::fs::Metadata) -> bool, copy: &std::fs::File) -> Option<()> {
    let is_wanted = |entry: &std::path::Path| std::fs::metadata(entry).is_ok_and(|found| wanted(&found));
    let entries = std::fs::read_dir("/proc/self/fd").ok()?.flatten().map(|entry| entry.path());
    let entry = entries.into_iter().find(|entry| is_wanted(entry))?;
    let number: c_int = entry.file_name()?.to_str()?.parse().ok()?;
    // SAFETY: the number is an open descriptor of this process; the caller keeps a connection on that
    // file open, and the result is used only if the number still leads to the file afterwards.
    let source = unsafe { std::os::fd::BorrowedFd::borrow_raw(number) };
    rustix::fs::ioctl_ficlone(copy, source).ok()?;
    is_wanted(&entry).then_some(())
}

/// Something asked while SQLite works; it stops what it is doing once the answer is "stop".
pub(crate) struct Watched<'a> {
    conn: &'a Connection,
    /// Where SQLite's pointer leads; boxed twice because the pointer must be a thin one.
    _asked: Box<Box<dyn FnMut() -> Go + 'a>>,
}

/// The answer to whether to go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Go {
    On,
    Stop,
}

unsafe extern "C" fn ask(asked: *mut c_void) -> c_int {
    // SAFETY: the pointer is the one `watch` registered, and `Watched` unregisters it before the box
    // goes away; SQLite asks only from within a call on the connection, one at a time.
    let asked = unsafe { asked.cast::<Box<dyn FnMut() -> Go>>().as_mut() };
    let Some(asked) = asked else { return 1 };
    // No panic may cross into C.
    let said = std::panic::catch_unwind(std::panic::AssertUnwindSafe(asked));
    c_int::from(!matches!(said, Ok(Go::On)))
}

/// Has `asked` asked each time the connection has done about `ops` operations.
pub(crate) fn watch<'a>(conn: &'a Connection, ops: c_int, asked: impl FnMut() -> Go + 'a) -> Watched<'a> {
    let mut asked: Box<Box<dyn FnMut() -> Go + 'a>> = Box::new(Box::new(asked));
    let pointer: *mut Box<dyn FnMut() -> Go + 'a> = asked.as_mut();
    // SAFETY: the connection is open for as long as `Watched` borrows it, and the box behind the
    // pointer does not move until `Watched` has unregistered it.
    unsafe { ffi::sqlite3_progress_handler(conn.handle(), ops, Some(ask), pointer.cast()) };
    Watched { conn, _asked: asked }
}

impl Drop for Watched<'_> {
    fn drop(&mut self) {
        // SAFETY: the connection is open; without a function nothing is asked any more.
        unsafe { ffi::sqlite3_progress_handler(self.conn.handle(), 0, None, ptr::null_mut()) };
    }
}

/// Sets the longest value the connection may make or read, and gives the one before.
pub(crate) fn limit_length(conn: &Connection, most: c_int) -> c_int {
    // SAFETY: the connection is open, and the call reads and writes an integer of it.
    unsafe { ffi::sqlite3_limit(conn.handle(), ffi::SQLITE_LIMIT_LENGTH, most) }
}

/// No other database can be attached to the connection any more.
pub(crate) fn forbid_attaching(conn: &Connection) {
    // SAFETY: the connection is open, and the call writes an integer of it.
    unsafe { ffi::sqlite3_limit(conn.handle(), ffi::SQLITE_LIMIT_ATTACHED, 0) };
}
