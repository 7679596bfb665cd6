//! The file system SQLite sees: one file, which nobody can write, whose pages come from a [`PageSource`].
//!
//! Owns all unsafe code of reading lazily. What SQLite hands in is looked at once, at the edge, and turned into
//! slices and references that live as long as the call; what it keeps for us is one box per open file, which
//! is made in `open` and dropped in `close`. No panic crosses into C. Everything that is not a database of ours,
//! such as the file of a large sort, is handed on to the file system of the machine.
#![expect(unsafe_code, reason = "SQLite asks for pages through C function pointers and in no other way")]

use super::ahead::Ahead;
use super::source::{PageFault, PageSource};
use backstay_model::Kind;
use rusqlite::ffi;
use std::collections::HashMap;
use std::ffi::{CStr, c_char, c_int, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

/// The name a connection asks for it by.
pub(super) const NAME: &CStr = c"backstay-past";
/// The longest name of a database here: they are ours and short.
const PATH_MAX: c_int = 256;
/// Where the header of a database says how it is written and read: 1 is with a rollback journal.
const WRITE_VERSION: usize = 18;
const READ_VERSION: usize = 19;

/// A source that can be opened by name.
pub(super) struct Registered {
    name: String,
    shared: Arc<Shared>,
}

struct Shared {
    source: Arc<dyn PageSource>,
    ahead: Mutex<Ahead>,
    /// Why the last read failed.
    fault: Mutex<Option<PageFault>>,
}

type Sources = Mutex<HashMap<String, Arc<Shared>>>;

fn sources() -> &'static Sources {
    static SOURCES: OnceLock<Sources> = OnceLock::new();
    SOURCES.get_or_init(Sources::default)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Registered {
    /// Makes a source known to SQLite until it is dropped. Connections that are open by then stay so.
    pub(super) fn new(source: Arc<dyn PageSource>) -> Result<Self, c_int> {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        install()?;
        let name = format!("past-{}", NEXT.fetch_add(1, Ordering::Relaxed));
        let ahead = Mutex::new(Ahead::new(source.ahead_max()));
        let shared = Arc::new(Shared { source, ahead, fault: Mutex::new(None) });
        lock(sources()).insert(name.clone(), shared.clone());
        Ok(Self { name, shared })
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn take_fault(&self) -> Option<PageFault> {
        lock(&self.shared.fault).take()
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        lock(sources()).remove(&self.name);
    }
}

impl Shared {
    /// Fills a part of the file; what lies past its end is a fault of the asker.
    fn read(&self, offset: u64, into: &mut [u8]) -> Result<(), c_int> {
        let size = self.source.page_size().bytes();
        let mut page_bytes = vec![0; size as usize];
        let mut done = 0;
        while done < into.len() {
            let at = offset + done as u64;
            let within = (at % size) as usize;
            let number = u32::try_from(at / size + 1).unwrap_or(u32::MAX);
            if number > self.source.pages() {
                // SQLite takes what is not there for zeros.
                into.iter_mut().skip(done).for_each(|byte| *byte = 0);
                return Err(ffi::SQLITE_IOERR_SHORT_READ);
            }
            let take = (into.len() - done).min(size as usize - within);
            let (_, rest) = into.split_at_mut(done);
            let (part, _) = rest.split_at_mut(take);
            if take == size as usize {
                self.page(number, part)?;
            } else {
                self.page(number, &mut page_bytes)?;
                part.copy_from_slice(page_bytes.get(within..within + take).ok_or(ffi::SQLITE_IOERR_READ)?);
            }
            done += take;
        }
        Ok(())
    }

    fn page(&self, number: u32, into: &mut [u8]) -> Result<(), c_int> {
        let wanted = lock(&self.ahead).before(number, |page| self.source.at_hand(page));
        if !wanted.is_empty() {
            // The page itself goes first, so that one request brings it and its neighbours.
            let all: Vec<u32> = std::iter::once(number).chain(wanted).collect();
            self.source.ahead(&all);
        }
        self.source.read(number, into).map_err(|fault| self.failed(fault))?;
        if number == 1
            && let Some(versions) = into.get_mut(WRITE_VERSION..=READ_VERSION)
        {
            // There is no log beside it: what it said is part of the pages already.
            versions.fill(1);
        }
        lock(&self.ahead).after(number, into);
        Ok(())
    }

    fn failed(&self, fault: PageFault) -> c_int {
        let code = match fault.kind {
            Kind::Corrupt => ffi::SQLITE_IOERR_DATA,
            Kind::Denied => ffi::SQLITE_IOERR_AUTH,
            _ => ffi::SQLITE_IOERR_READ,
        };
        lock(&self.fault).get_or_insert(fault);
        code
    }
}

/// What SQLite keeps for one open database of ours.
#[repr(C)]
struct File {
    base: ffi::sqlite3_file,
    shared: *const Shared,
}

/// The machine's own file system.
fn below(vfs: *mut ffi::sqlite3_vfs) -> *mut ffi::sqlite3_vfs {
    // SAFETY: SQLite calls with the pointer `install` registered, which is never freed; its `pAppData` is the
    // default file system, which lives as long as the process.
    unsafe { (*vfs).pAppData.cast() }
}

/// Runs a call of SQLite's; a panic becomes an error code.
fn guarded(call: impl FnOnce() -> c_int) -> c_int {
    catch_unwind(AssertUnwindSafe(call)).unwrap_or(ffi::SQLITE_IOERR)
}

/// Registers the file system once in a process.
fn install() -> Result<(), c_int> {
    static INSTALLED: OnceLock<c_int> = OnceLock::new();
    let code = INSTALLED.get_or_init(|| {
        // SAFETY: the call initialises SQLite if nobody has, and gives its default file system or null.
        let machine = unsafe { ffi::sqlite3_vfs_find(std::ptr::null()) };
        if machine.is_null() {
            return ffi::SQLITE_ERROR;
        }
        // SAFETY: the default file system is a static table that nobody writes.
        let (size, path) = unsafe { ((*machine).szOsFile, (*machine).mxPathname) };
        let own = size_of::<File>() as c_int;
        let vfs = Box::leak(Box::new(ffi::sqlite3_vfs {
            iVersion: 1,
            szOsFile: size.max(own),
            mxPathname: path.max(PATH_MAX),
            pNext: std::ptr::null_mut(),
            zName: NAME.as_ptr(),
            pAppData: machine.cast(),
            xOpen: Some(open),
            xDelete: Some(delete),
            xAccess: Some(access),
            xFullPathname: Some(full_path),
            xDlOpen: Some(dl_open),
            xDlError: Some(dl_error),
            xDlSym: Some(dl_sym),
            xDlClose: Some(dl_close),
            xRandomness: Some(randomness),
            xSleep: Some(sleep),
            xCurrentTime: Some(current_time),
            xGetLastError: Some(last_error),
            xCurrentTimeInt64: None,
            xSetSystemCall: None,
            xGetSystemCall: None,
            xNextSystemCall: None,
        }));
        // SAFETY: the table is leaked, so it outlives every connection, and it is not the default.
        unsafe { ffi::sqlite3_vfs_register(vfs, 0) }
    });
    if *code == ffi::SQLITE_OK { Ok(()) } else { Err(*code) }
}

static METHODS: ffi::sqlite3_io_methods = ffi::sqlite3_io_methods {
    iVersion: 1,
    xClose: Some(close),
    xRead: Some(read),
    xWrite: Some(write),
    xTruncate: Some(truncate),
    xSync: Some(sync),
    xFileSize: Some(file_size),
    xLock: Some(lock_file),
    xUnlock: Some(lock_file),
    xCheckReservedLock: Some(check_reserved),
    xFileControl: Some(file_control),
    xSectorSize: Some(sector_size),
    xDeviceCharacteristics: Some(characteristics),
    xShmMap: None,
    xShmLock: None,
    xShmBarrier: None,
    xShmUnmap: None,
    xFetch: None,
    xUnfetch: None,
};

unsafe extern "C" fn open(
    vfs: *mut ffi::sqlite3_vfs,
    name: ffi::sqlite3_filename,
    file: *mut ffi::sqlite3_file,
    flags: c_int,
    out: *mut c_int,
) -> c_int {
    guarded(|| {
        if flags & ffi::SQLITE_OPEN_MAIN_DB == 0 {
            let machine = below(vfs);
            // SAFETY: the default file system is asked exactly what we were, with room for its own file.
            return unsafe {
                (*machine).xOpen.map_or(ffi::SQLITE_CANTOPEN, |open| open(machine, name, file, flags, out))
            };
        }
        let name: *const c_char = name;
        if name.is_null() {
            return ffi::SQLITE_CANTOPEN;
        }
        // SAFETY: SQLite's name of a main database ends in a zero and lives as long as the call.
        let asked = unsafe { CStr::from_ptr(name) };
        let Some(shared) = asked.to_str().ok().and_then(|name| lock(sources()).get(name).cloned()) else {
            return ffi::SQLITE_CANTOPEN;
        };
        // SAFETY: SQLite gives `szOsFile` bytes for the file, which is at least the size of ours and aligned;
        // `out` is null or a place for the flags. The reference is dropped in `close`.
        unsafe {
            file.cast::<File>()
                .write(File { base: ffi::sqlite3_file { pMethods: &METHODS }, shared: Arc::into_raw(shared) });
            if let Some(out) = out.as_mut() {
                *out = ffi::SQLITE_OPEN_READONLY | ffi::SQLITE_OPEN_MAIN_DB;
            }
        }
        ffi::SQLITE_OK
    })
}

unsafe extern "C" fn close(file: *mut ffi::sqlite3_file) -> c_int {
    // SAFETY: SQLite closes a file that `open` made once, and uses it no more; what `open` let go of is
    // taken back here.
    let shared = unsafe {
        let file = &mut *file.cast::<File>();
        file.base.pMethods = std::ptr::null();
        Arc::from_raw(file.shared)
    };
    guarded(|| {
        drop(shared);
        ffi::SQLITE_OK
    })
}

/// What `open` put into the file.
///
/// # Safety
/// `file` is open, and stays so while the reference lives: within one call.
unsafe fn shared<'a>(file: *mut ffi::sqlite3_file) -> &'a Shared {
    // SAFETY: by the caller's word the file is one that `open` made and `close` has not seen.
    unsafe { &*(*file.cast::<File>()).shared }
}

unsafe extern "C" fn read(file: *mut ffi::sqlite3_file, into: *mut c_void, len: c_int, offset: i64) -> c_int {
    let (Ok(len), Ok(offset)) = (usize::try_from(len), u64::try_from(offset)) else { return ffi::SQLITE_IOERR_READ };
    guarded(|| {
        // SAFETY: the file is open during a read, and SQLite gives room for `len` bytes that nobody else sees.
        let (shared, into) = unsafe {
            into.cast::<u8>().write_bytes(0, len);
            (shared(file), std::slice::from_raw_parts_mut(into.cast::<u8>(), len))
        };
        shared.read(offset, into).map_or_else(|code| code, |()| ffi::SQLITE_OK)
    })
}

unsafe extern "C" fn file_size(file: *mut ffi::sqlite3_file, out: *mut i64) -> c_int {
    guarded(|| {
        // SAFETY: the file is open, and `out` is a place for the length.
        unsafe {
            let source = &shared(file).source;
            *out = i64::from(source.pages()) * i64::from(source.page_size().get());
        }
        ffi::SQLITE_OK
    })
}

unsafe extern "C" fn write(_: *mut ffi::sqlite3_file, _: *const c_void, _: c_int, _: i64) -> c_int {
    ffi::SQLITE_READONLY
}

unsafe extern "C" fn truncate(_: *mut ffi::sqlite3_file, _: i64) -> c_int {
    ffi::SQLITE_READONLY
}

unsafe extern "C" fn sync(_: *mut ffi::sqlite3_file, _: c_int) -> c_int {
    ffi::SQLITE_OK
}

/// Nobody can change it, so there is nothing to lock.
unsafe extern "C" fn lock_file(_: *mut ffi::sqlite3_file, _: c_int) -> c_int {
    ffi::SQLITE_OK
}

unsafe extern "C" fn check_reserved(_: *mut ffi::sqlite3_file, out: *mut c_int) -> c_int {
    // SAFETY: `out` is a place for the answer.
    unsafe { *out = 0 };
    ffi::SQLITE_OK
}

unsafe extern "C" fn file_control(_: *mut ffi::sqlite3_file, _: c_int, _: *mut c_void) -> c_int {
    ffi::SQLITE_NOTFOUND
}

unsafe extern "C" fn sector_size(_: *mut ffi::sqlite3_file) -> c_int {
    4096
}

unsafe extern "C" fn characteristics(_: *mut ffi::sqlite3_file) -> c_int {
    ffi::SQLITE_IOCAP_IMMUTABLE
}

unsafe extern "C" fn delete(_: *mut ffi::sqlite3_vfs, _: *const c_char, _: c_int) -> c_int {
    ffi::SQLITE_READONLY
}

/// Nothing lies beside a database here.
unsafe extern "C" fn access(_: *mut ffi::sqlite3_vfs, _: *const c_char, _: c_int, out: *mut c_int) -> c_int {
    // SAFETY: `out` is a place for the answer.
    unsafe { *out = 0 };
    ffi::SQLITE_OK
}

/// Names here are whole as they are.
unsafe extern "C" fn full_path(_: *mut ffi::sqlite3_vfs, name: *const c_char, room: c_int, out: *mut c_char) -> c_int {
    // SAFETY: the name ends in a zero.
    let name = unsafe { CStr::from_ptr(name) }.to_bytes_with_nul();
    if usize::try_from(room).is_ok_and(|room| name.len() <= room) {
        // SAFETY: there is room for the name and its zero, which the line above looked at.
        unsafe { out.copy_from_nonoverlapping(name.as_ptr().cast(), name.len()) };
        ffi::SQLITE_OK
    } else {
        ffi::SQLITE_CANTOPEN
    }
}

/// Nothing is loaded on behalf of a database that came from elsewhere.
unsafe extern "C" fn dl_open(_: *mut ffi::sqlite3_vfs, _: *const c_char) -> *mut c_void {
    std::ptr::null_mut()
}

unsafe extern "C" fn dl_error(_: *mut ffi::sqlite3_vfs, room: c_int, out: *mut c_char) {
    if room > 0 {
        // SAFETY: there is room for one byte.
        unsafe { *out = 0 };
    }
}

type Symbol = unsafe extern "C" fn(*mut ffi::sqlite3_vfs, *mut c_void, *const c_char);

unsafe extern "C" fn dl_sym(_: *mut ffi::sqlite3_vfs, _: *mut c_void, _: *const c_char) -> Option<Symbol> {
    None
}

unsafe extern "C" fn dl_close(_: *mut ffi::sqlite3_vfs, _: *mut c_void) {}

unsafe extern "C" fn randomness(vfs: *mut ffi::sqlite3_vfs, len: c_int, out: *mut c_char) -> c_int {
    let machine = below(vfs);
    // SAFETY: handed on as it came.
    unsafe { (*machine).xRandomness.map_or(0, |random| random(machine, len, out)) }
}

unsafe extern "C" fn sleep(vfs: *mut ffi::sqlite3_vfs, micros: c_int) -> c_int {
    let machine = below(vfs);
    // SAFETY: handed on as it came.
    unsafe { (*machine).xSleep.map_or(0, |sleep| sleep(machine, micros)) }
}

unsafe extern "C" fn current_time(vfs: *mut ffi::sqlite3_vfs, out: *mut f64) -> c_int {
    let machine = below(vfs);
    // SAFETY: handed on as it came.
    unsafe { (*machine).xCurrentTime.map_or(ffi::SQLITE_ERROR, |time| time(machine, out)) }
}

unsafe extern "C" fn last_error(_: *mut ffi::sqlite3_vfs, _: c_int, _: *mut c_char) -> c_int {
    ffi::SQLITE_OK
}
