//! The part of SQLite's C interface that is used, by its documented and frozen layout.
//!
//! The table of functions only ever grows at its end, so that a place in it is for ever. Owns the places.
#![expect(unsafe_code, reason = "a foreign SQLite is reached through its table of C functions")]

use std::ffi::{c_char, c_int, c_void};

pub const OK: c_int = 0;
pub const ERROR: c_int = 1;
pub const READ_ONLY: c_int = 8;
pub const IO_READ: c_int = 10 | (1 << 8);
pub const IO_SHORT_READ: c_int = 10 | (2 << 8);
pub const NOT_FOUND: c_int = 12;
pub const CANNOT_OPEN: c_int = 14;
/// The extension stays loaded when the connection that loaded it goes.
pub const OK_PERMANENTLY: c_int = 1 << 8;

pub const OPEN_READ_ONLY: c_int = 1;
pub const OPEN_MAIN_DB: c_int = 0x100;
/// Nobody changes the file: no locks, no journal, no log.
pub const IMMUTABLE: c_int = 0x2000;
const UTF8: c_int = 1;
const TRANSIENT: isize = -1;

/// Places in the table.
const LIBVERSION_NUMBER: usize = 67;
const RESULT_NULL: usize = 84;
const RESULT_TEXT: usize = 85;
const VFS_FIND: usize = 141;
const VFS_REGISTER: usize = 142;
const CREATE_FUNCTION_V2: usize = 162;
const URI_PARAMETER: usize = 189;
/// The first release whose table has all of them and whose file names carry parameters as they do today.
const VERSION_MIN: c_int = 3_031_000;

/// A file system, version 1.
#[repr(C)]
pub struct Vfs {
    pub version: c_int,
    pub file_size: c_int,
    pub path_max: c_int,
    pub next: *mut Vfs,
    pub name: *const c_char,
    pub data: *mut c_void,
    pub open: Option<unsafe extern "C" fn(*mut Vfs, *const c_char, *mut File, c_int, *mut c_int) -> c_int>,
    pub delete: Option<unsafe extern "C" fn(*mut Vfs, *const c_char, c_int) -> c_int>,
    pub access: Option<unsafe extern "C" fn(*mut Vfs, *const c_char, c_int, *mut c_int) -> c_int>,
    pub full_path: Option<unsafe extern "C" fn(*mut Vfs, *const c_char, c_int, *mut c_char) -> c_int>,
    pub dl_open: Option<unsafe extern "C" fn(*mut Vfs, *const c_char) -> *mut c_void>,
    pub dl_error: Option<unsafe extern "C" fn(*mut Vfs, c_int, *mut c_char)>,
    pub dl_sym: Option<unsafe extern "C" fn(*mut Vfs, *mut c_void, *const c_char) -> *mut c_void>,
    pub dl_close: Option<unsafe extern "C" fn(*mut Vfs, *mut c_void)>,
    pub randomness: Option<unsafe extern "C" fn(*mut Vfs, c_int, *mut c_char) -> c_int>,
    pub sleep: Option<unsafe extern "C" fn(*mut Vfs, c_int) -> c_int>,
    pub time: Option<unsafe extern "C" fn(*mut Vfs, *mut f64) -> c_int>,
    pub last_error: Option<unsafe extern "C" fn(*mut Vfs, c_int, *mut c_char) -> c_int>,
}

#[repr(C)]
pub struct File {
    pub methods: *const Methods,
}

/// What can be done with an open file, version 1.
#[repr(C)]
pub struct Methods {
    pub version: c_int,
    pub close: unsafe extern "C" fn(*mut File) -> c_int,
    pub read: unsafe extern "C" fn(*mut File, *mut c_void, c_int, i64) -> c_int,
    pub write: unsafe extern "C" fn(*mut File, *const c_void, c_int, i64) -> c_int,
    pub truncate: unsafe extern "C" fn(*mut File, i64) -> c_int,
    pub sync: unsafe extern "C" fn(*mut File, c_int) -> c_int,
    pub size: unsafe extern "C" fn(*mut File, *mut i64) -> c_int,
    pub lock: unsafe extern "C" fn(*mut File, c_int) -> c_int,
    pub unlock: unsafe extern "C" fn(*mut File, c_int) -> c_int,
    pub check_lock: unsafe extern "C" fn(*mut File, *mut c_int) -> c_int,
    pub control: unsafe extern "C" fn(*mut File, c_int, *mut c_void) -> c_int,
    pub sector: unsafe extern "C" fn(*mut File) -> c_int,
    pub traits: unsafe extern "C" fn(*mut File) -> c_int,
}

pub type Function = unsafe extern "C" fn(*mut c_void, c_int, *mut *mut c_void);

/// SQLite's table of functions.
#[derive(Clone, Copy)]
pub struct Api(*const *const c_void);

// SAFETY: the table is written once, before anybody is given it.
unsafe impl Send for Api {}
// SAFETY: as above.
unsafe impl Sync for Api {}

impl Api {
    /// # Safety
    ///
    /// `table` is what SQLite handed to the extension.
    pub unsafe fn of(table: *const c_void) -> Self {
        Self(table.cast())
    }

    fn at(self, place: usize) -> *const c_void {
        // SAFETY: `is_known` has seen that the table is as long as the last place.
        unsafe { *self.0.add(place) }
    }

    /// Whether this SQLite is as new as is needed.
    pub fn is_known(self) -> bool {
        type Number = unsafe extern "C" fn() -> c_int;
        // SAFETY: the place is in the table since 2007, and that is its type.
        let number = unsafe { std::mem::transmute::<*const c_void, Number>(self.at(LIBVERSION_NUMBER)) };
        // SAFETY: it takes nothing and gives a number.
        unsafe { number() >= VERSION_MIN }
    }

    /// The file system of the machine.
    pub fn usual_vfs(self) -> *mut Vfs {
        type Find = unsafe extern "C" fn(*const c_char) -> *mut Vfs;
        // SAFETY: by the documented table.
        let find = unsafe { std::mem::transmute::<*const c_void, Find>(self.at(VFS_FIND)) };
        // SAFETY: null means the usual one.
        unsafe { find(std::ptr::null()) }
    }

    pub fn register(self, vfs: *mut Vfs) -> c_int {
        type Register = unsafe extern "C" fn(*mut Vfs, c_int) -> c_int;
        // SAFETY: by the documented table.
        let register = unsafe { std::mem::transmute::<*const c_void, Register>(self.at(VFS_REGISTER)) };
        // SAFETY: the caller's file system is never freed.
        unsafe { register(vfs, 0) }
    }

    /// A parameter behind the `?` of a name that SQLite handed to `open`.
    ///
    /// # Safety
    ///
    /// `name` is such a name.
    pub unsafe fn parameter(self, name: *const c_char, key: &std::ffi::CStr) -> Option<String> {
        type Parameter = unsafe extern "C" fn(*const c_char, *const c_char) -> *const c_char;
        // SAFETY: by the documented table.
        let parameter = unsafe { std::mem::transmute::<*const c_void, Parameter>(self.at(URI_PARAMETER)) };
        // SAFETY: the name is SQLite's own, and what it gives lives as long as the name.
        unsafe {
            let found = parameter(name, key.as_ptr());
            (!found.is_null()).then(|| std::ffi::CStr::from_ptr(found).to_string_lossy().into_owned())
        }
    }

    pub fn create_function(self, db: *mut c_void, name: &std::ffi::CStr, function: Function) -> c_int {
        type Create = unsafe extern "C" fn(
            *mut c_void,
            *const c_char,
            c_int,
            c_int,
            *mut c_void,
            Option<Function>,
            Option<Function>,
            Option<unsafe extern "C" fn(*mut c_void)>,
            Option<unsafe extern "C" fn(*mut c_void)>,
        ) -> c_int;
        // SAFETY: by the documented table.
        let create = unsafe { std::mem::transmute::<*const c_void, Create>(self.at(CREATE_FUNCTION_V2)) };
        // SAFETY: the connection is open, and the function is never unloaded.
        unsafe { create(db, name.as_ptr(), 0, UTF8, std::ptr::null_mut(), Some(function), None, None, None) }
    }

    /// Gives a text, or NULL, as the result of a function.
    pub fn result(self, context: *mut c_void, text: Option<&str>) {
        type Null = unsafe extern "C" fn(*mut c_void);
        type Text = unsafe extern "C" fn(*mut c_void, *const c_char, c_int, isize);
        // SAFETY: by the documented table; SQLite copies the text before it returns.
        unsafe {
            match text {
                None => std::mem::transmute::<*const c_void, Null>(self.at(RESULT_NULL))(context),
                Some(text) => std::mem::transmute::<*const c_void, Text>(self.at(RESULT_TEXT))(
                    context,
                    text.as_ptr().cast(),
                    c_int::try_from(text.len()).unwrap_or(0),
                    TRANSIENT,
                ),
            }
        }
    }
}
